"""Queries: one verb a file, each a free function that `Factors` has as a method, exact or refused."""

from factor_q.queries.condition import condition
from factor_q.queries.entropy import entropy
from factor_q.queries.log_partition import log_partition
from factor_q.queries.m_best import m_best
from factor_q.queries.marginals import marginal, marginals
from factor_q.queries.max_marginals import max_marginals
from factor_q.queries.maximum import Maximum, max_assignment
from factor_q.queries.sample import sample

__all__ = [
    "Maximum",
    "condition",
    "entropy",
    "log_partition",
    "m_best",
    "marginal",
    "marginals",
    "max_assignment",
    "max_marginals",
    "sample",
]
