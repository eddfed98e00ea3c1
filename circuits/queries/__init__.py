"""Queries: one verb a file, each a free function on a `WeightedCircuit`, which a `CircuitDistribution` is."""

from circuits.queries.condition import condition
from circuits.queries.conditionals import conditionals
from circuits.queries.divergence import cross_entropy, kl_divergence, mutual_information, total_correlation
from circuits.queries.entropy import entropy
from circuits.queries.entropy_bounds import entropy_lower_bound, entropy_upper_bound
from circuits.queries.expectation import expectation
from circuits.queries.expected_score import expected_score
from circuits.queries.log_prob import log_evidence, log_prob
from circuits.queries.m_best import m_best
from circuits.queries.marginal import marginal, marginals, pair_marginals
from circuits.queries.max_marginals import max_marginals
from circuits.queries.mode import mode
from circuits.queries.multiply import constrain, multiply
from circuits.queries.sample import sample
from circuits.queries.variance import log_prob_variance

__all__ = [
    "condition",
    "conditionals",
    "constrain",
    "cross_entropy",
    "entropy",
    "entropy_lower_bound",
    "entropy_upper_bound",
    "expectation",
    "expected_score",
    "kl_divergence",
    "log_evidence",
    "log_prob",
    "log_prob_variance",
    "m_best",
    "marginal",
    "marginals",
    "max_marginals",
    "mode",
    "multiply",
    "mutual_information",
    "pair_marginals",
    "sample",
    "total_correlation",
]
