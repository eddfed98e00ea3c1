"""Questions to a trained policy."""
