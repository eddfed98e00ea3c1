"""Games given by tables."""
