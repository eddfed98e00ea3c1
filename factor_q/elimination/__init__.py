"""Exact elimination: an order, a plan, the passes up and down it, the memory guard, cutsets."""

from factor_q.elimination.cutset import choose_cutset
from factor_q.elimination.ordering import elimination_order, elimination_width, largest_table

__all__ = ["choose_cutset", "elimination_order", "elimination_width", "largest_table"]
