"""The coverage benchmark."""
