"""The text format of probabilistic sentential decision diagrams."""
