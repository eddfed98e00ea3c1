"""Queries: one verb a file, each a free function on a `CircuitDistribution`."""

from circuits.queries.condition import condition
from circuits.queries.divergence import kl_divergence, mutual_information, total_correlation
from circuits.queries.entropy import entropy, entropy_lower_bound
from circuits.queries.expectation import expectation
from circuits.queries.log_prob import log_evidence, log_prob
from circuits.queries.marginal import marginal, marginals
from circuits.queries.sample import mode, sample

__all__ = [
    "condition",
    "entropy",
    "entropy_lower_bound",
    "expectation",
    "kl_divergence",
    "log_evidence",
    "log_prob",
    "marginal",
    "marginals",
    "mode",
    "mutual_information",
    "sample",
    "total_correlation",
]
