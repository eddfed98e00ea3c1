"""Structures: one family a file. Each builder takes cardinalities first, then its own options."""

from collections.abc import Callable

from circuits.circuit import Circuit
from circuits.structures.keep_set import keep_set
from circuits.structures.markov_chain import markov_chain
from circuits.structures.mean_field import mean_field
from circuits.structures.tree import tree

STRUCTURES: dict[str, Callable[..., Circuit]] = {
    "mean_field": mean_field,
    "markov_chain": markov_chain,
    "tree": tree,
    "keep_set": keep_set,
}
"""All families by name; adding one is a file, a line here and a row in tests/contracts.py."""

__all__ = ["STRUCTURES", "keep_set", "markov_chain", "mean_field", "tree"]
