"""Variational inference with deterministic circuits: exact lower bounds of the log-partition function."""

from factor_q.variational.maximize import Progress, VariationalFit, maximize_elbo
from factor_q.variational.starts import STARTS
from factor_q.variational.strengths import factor_informations, factor_strengths
from factor_q.variational.structure import FITTED_STRUCTURES, fit_structure
from factor_q.variational.terms import bound, terms_of

__all__ = [
    "FITTED_STRUCTURES",
    "STARTS",
    "Progress",
    "VariationalFit",
    "bound",
    "factor_informations",
    "factor_strengths",
    "fit_structure",
    "maximize_elbo",
    "terms_of",
]
