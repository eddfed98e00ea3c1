"""Structures grown by splitting and copying where it gains most."""
