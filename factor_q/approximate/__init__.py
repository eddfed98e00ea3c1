"""Approximate inference, every result named for what it is: a lower bound, an upper bound, an estimate, a sample."""

from factor_q.approximate.belief_propagation import BeliefPropagation, loopy_belief_propagation
from factor_q.approximate.coordinate_ascent import MeanField
from factor_q.approximate.gibbs import gibbs_sample
from factor_q.approximate.max_plus import MaxPlus, max_plus
from factor_q.approximate.mean_field import mean_field
from factor_q.approximate.mean_field_gradient import mean_field_gradient
from factor_q.approximate.mini_bucket import UpperBound, mini_bucket_maximum, weighted_mini_bucket
from factor_q.approximate.structured_mean_field import structured_mean_field
from factor_q.approximate.tree_reweighted import TreeReweighted, tree_reweighted
from factor_q.limits import Limits

__all__ = [
    "BeliefPropagation",
    "Limits",
    "MaxPlus",
    "MeanField",
    "TreeReweighted",
    "UpperBound",
    "gibbs_sample",
    "loopy_belief_propagation",
    "max_plus",
    "mean_field",
    "mean_field_gradient",
    "mini_bucket_maximum",
    "structured_mean_field",
    "tree_reweighted",
    "weighted_mini_bucket",
]
