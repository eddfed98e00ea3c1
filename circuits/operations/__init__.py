"""Circuits made of circuits: products, mixtures, and constraints that fit a circuit."""

from circuits.operations.combine import mixture
from circuits.operations.constraints import all_different, exactly
from circuits.operations.product import product

__all__ = ["all_different", "exactly", "mixture", "product"]
