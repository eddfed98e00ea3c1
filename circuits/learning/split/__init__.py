"""Learn a structure by split and clone: a search over splits, what each gains, and the graph that it grows."""
