"""Agents who take from each other by choosing the same thing: all pairs of them, at the cost of single agents."""

from factor_q.congestion.game import Congestion

__all__ = ["Congestion"]
