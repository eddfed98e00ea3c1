"""Structures: one family a file. Each builder takes cardinalities first, then its options."""

from collections.abc import Callable

from circuits.circuit import Circuit
from circuits.structures.clique_tree import clique_tree
from circuits.structures.cutset import cutset
from circuits.structures.decision_diagram import decision_diagram
from circuits.structures.keep_set import keep_set
from circuits.structures.latent_tree import latent_tree
from circuits.structures.markov_chain import markov_chain
from circuits.structures.mean_field import mean_field
from circuits.structures.random_binary import random_binary
from circuits.structures.selective import selective
from circuits.structures.tree import tree

STRUCTURES: dict[str, Callable[..., Circuit]] = {
    "mean_field": mean_field,
    "markov_chain": markov_chain,
    "tree": tree,
    "keep_set": keep_set,
    "clique_tree": clique_tree,
    "selective": selective,
    "decision_diagram": decision_diagram,
    "cutset": cutset,
    "random_binary": random_binary,
    "latent_tree": latent_tree,
}
"""All families by name; adding one is a file, a line here and a row in tests/contracts.py.

Not among them, because they do not make a policy over all joint values from the cardinalities alone: `mixture` (of
given circuits), `product` (of two), and the constraints `exactly` and `all_different`.
"""

__all__ = [
    "STRUCTURES",
    "clique_tree",
    "cutset",
    "decision_diagram",
    "keep_set",
    "latent_tree",
    "markov_chain",
    "mean_field",
    "random_binary",
    "selective",
    "tree",
]
