"""Approximate inference, every result named for what it is: a lower bound, an upper bound, an estimate, a sample."""

from factor_q.approximate.bounds.mini_bucket import UpperBound, mini_bucket_maximum, weighted_mini_bucket
from factor_q.approximate.bounds.tree_reweighted import TreeReweighted, tree_reweighted
from factor_q.approximate.mean_field.coordinate_ascent import MeanField
from factor_q.approximate.mean_field.gradient import mean_field_gradient
from factor_q.approximate.mean_field.mean_field import mean_field
from factor_q.approximate.mean_field.structured import structured_mean_field
from factor_q.approximate.messages.belief_propagation import BeliefPropagation, loopy_belief_propagation
from factor_q.approximate.messages.max_plus import MaxPlus, max_plus
from factor_q.approximate.sampling.gibbs import gibbs_sample
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
