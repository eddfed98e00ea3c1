"""Trees of regions, and the labels that cross their borders."""
