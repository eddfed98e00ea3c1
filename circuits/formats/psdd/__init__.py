"""The text format of probabilistic sentential decision diagrams, as the UCLA packages write it."""
