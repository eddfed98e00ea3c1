"""Approximate inference, every method named for what it says: a lower bound, an upper bound, an estimate, samples."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from factor_q.approximate.bounds.mini_bucket import UpperBound, mini_bucket_maximum, weighted_mini_bucket
from factor_q.approximate.bounds.tree_reweighted import TreeReweighted, tree_reweighted
from factor_q.approximate.mean_field.mean_field import MeanField, mean_field, structured_mean_field
from factor_q.approximate.messages.belief_propagation import BeliefPropagation, loopy_belief_propagation
from factor_q.approximate.messages.max_plus import MaxPlus, max_plus
from factor_q.approximate.sampling.gibbs import gibbs_sample
from factor_q.limits import Limits


class Method(NamedTuple):
    """An approximation, and what its answer is worth."""

    run: Callable[..., Any]
    """(factors, ...) -> result."""
    says: Literal["lower", "upper", "estimate"]
    """A proven bound from below or above, or a number without any guarantee."""
    of: Literal["log_partition", "maximum", "samples"]


METHODS = {
    "gibbs_sample": Method(gibbs_sample, "estimate", "samples"),
    "loopy_belief_propagation": Method(loopy_belief_propagation, "estimate", "log_partition"),
    "max_plus": Method(max_plus, "lower", "maximum"),
    "mean_field": Method(mean_field, "lower", "log_partition"),
    "mini_bucket_maximum": Method(mini_bucket_maximum, "upper", "maximum"),
    "structured_mean_field": Method(structured_mean_field, "lower", "log_partition"),
    "tree_reweighted": Method(tree_reweighted, "upper", "log_partition"),
    "weighted_mini_bucket": Method(weighted_mini_bucket, "upper", "log_partition"),
}
"""All methods by name. A new one is a file, a line here, and a row of the tests' contract table."""

__all__ = [
    "METHODS",
    "BeliefPropagation",
    "Limits",
    "MaxPlus",
    "MeanField",
    "Method",
    "TreeReweighted",
    "UpperBound",
    "gibbs_sample",
    "loopy_belief_propagation",
    "max_plus",
    "mean_field",
    "mini_bucket_maximum",
    "structured_mean_field",
    "tree_reweighted",
    "weighted_mini_bucket",
]
