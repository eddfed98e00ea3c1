"""Certified answers about one model: exact where elimination fits, otherwise between proved bounds."""

from factor_q.inference.answer import Answer, Effort, Fit, LogZ, Marginals, Maximum, Progress
from factor_q.inference.solve import solve

__all__ = ["Answer", "Effort", "Fit", "LogZ", "Marginals", "Maximum", "Progress", "solve"]
