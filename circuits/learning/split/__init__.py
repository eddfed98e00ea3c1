"""Learn a structure by split and clone: a search over splits, what each gains, and the graph that it grows."""

from circuits.learning.split.learner import Growth, SplitOptions, grow_structure

__all__ = ["Growth", "SplitOptions", "grow_structure"]
