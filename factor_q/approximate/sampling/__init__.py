"""Approximate draws from the Boltzmann distribution."""

from factor_q.approximate.sampling.gibbs import gibbs_sample

__all__ = ["gibbs_sample"]
