"""Latent tree: a tree-shaped Bayesian network over hidden copies of the variables (hidden Chow-Liu tree)."""

from collections.abc import Sequence
from graphlib import TopologicalSorter
from typing import NamedTuple

from circuits.circuit import Circuit, CircuitBuilder
from circuits.errors import StructureError
from circuits.structures.size import check_size
from circuits.structures.tree import check_parents
from circuits.variables import check_cardinalities


def latent_tree(cardinalities: Sequence[int], parents: Sequence[int] | None = None, *, states: int = 16) -> Circuit:
    """Return a tree of hidden variables z_i, one per variable: sum_z prod_i p(z_i | z_parent(i)) p(u_i | z_i).

    The variables are seen through their hidden copies, so they need not be independent given a neighbour: with
    enough states this holds every tree over the variables, mixtures of such trees, and hidden Markov models (a chain).

    Args:
        cardinalities: number of values of each variable.
        parents: for each variable the index of its parent, or -1 for a root; several roots make a forest. None: the
            chain 0, 1, 2, ...
        states: values of each hidden copy, at least 1; 1 is independent variables.

    Returns:
        A structured circuit that is not deterministic (unless states is 1) with sum over i of states * k_i (variables
        with one value have none) + sum over i of states^2 (states for roots) parameters; the second sum is left out
        when states is 1.

    Raises:
        StructureError: states below 1, parents of wrong length, out of range or with a cycle, or more than 2^22
            parameters.
    Cost: states^2 edges per variable.
    Source: Liu and Van den Broeck 2021, Tractable Regularization of Probabilistic Circuits (HCLT).

    Example:
        >>> from circuits.structures import latent_tree
        >>> latent_tree([2, 3], states=4).num_parameters
        40
    """
    return latent_tree_nodes(cardinalities, parents, states).circuit


class LatentTree(NamedTuple):
    """A latent tree, and which of its nodes is which."""

    circuit: Circuit
    parents: tuple[int, ...]
    emissions: tuple[tuple[int, ...], ...]
    """`emissions[i][z]`: the input node p(u_i | z_i = z)."""
    transitions: tuple[tuple[int, ...], ...]
    """`transitions[i][y]`: the sum node p(z_i | z_parent(i) = y), one for a root; empty when states is 1."""


def latent_tree_nodes(cardinalities: Sequence[int], parents: Sequence[int] | None, states: int) -> LatentTree:
    """Build what `latent_tree` returns, with the nodes' places, which learners need for initial weights."""
    cards = check_cardinalities(cardinalities)
    if states < 1:
        raise StructureError(f"latent_tree states is {states}; it must be at least 1.")
    parents = list(range(-1, len(cards) - 1)) if parents is None else list(parents)
    check_parents(cards, parents, "latent_tree")
    check_size("latent_tree", states * sum(cards) + states**2 * (len(cards) - parents.count(-1)), "take fewer states")
    builder = CircuitBuilder(cards, name=f"latent_tree(states={states})")
    children: dict[int, list[int]] = {variable: [] for variable in range(len(cards))}
    for variable, parent in enumerate(parents):
        if parent >= 0:
            children[parent].append(variable)
    emissions: dict[int, tuple[int, ...]] = {}
    transitions: dict[int, tuple[int, ...]] = {}
    below: dict[int, list[int]] = {}
    """For each variable, one node per state of its parent's copy (one in all for a root)."""
    for variable in TopologicalSorter(children).static_order():
        emissions[variable] = tuple(builder.input(variable) for _ in range(states))
        elements = [
            builder.product(emission, *(below[child][state] for child in children[variable]))
            if children[variable]
            else emission
            for state, emission in enumerate(emissions[variable])
        ]
        copies = states if parents[variable] >= 0 else 1
        # A sum of one child would be a weight that is always 1.
        below[variable] = elements if states == 1 else [builder.sum(*elements) for _ in range(copies)]
        transitions[variable] = tuple(below[variable]) if states > 1 else ()
    roots = [below[variable][0] for variable, parent in enumerate(parents) if parent < 0]
    # The builder renumbers what it prunes, which would make the handles above wrong; every node is used, so they stand.
    circuit = builder.build(roots[0] if len(roots) == 1 else builder.product(*roots))
    order = range(len(cards))
    return LatentTree(circuit, tuple(parents), tuple(emissions[v] for v in order), tuple(transitions[v] for v in order))
