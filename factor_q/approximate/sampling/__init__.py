"""Approximate draws from the Boltzmann distribution."""
