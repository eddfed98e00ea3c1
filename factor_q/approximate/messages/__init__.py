"""Messages: an estimate of log Z by sums, and a search for the maximum by maxima."""

from factor_q.approximate.messages.belief_propagation import BeliefPropagation, loopy_belief_propagation
from factor_q.approximate.messages.max_plus import MaxPlus, max_plus

__all__ = ["BeliefPropagation", "MaxPlus", "loopy_belief_propagation", "max_plus"]
