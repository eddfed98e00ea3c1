"""Tree: a tree-shaped Bayesian network."""

from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter

from circuits.circuit import Circuit, CircuitBuilder
from circuits.errors import StructureError
from circuits.variables import check_cardinalities


def tree(cardinalities: Sequence[int], parents: Sequence[int]) -> Circuit:
    """Return the product over variables of p(u_i | u_parent(i)).

    Args:
        cardinalities: number of values of each variable.
        parents: for each variable the index of its parent, or -1 for a root; several roots make a forest.

    Returns:
        A deterministic circuit with sum over i of k_i * k_parent(i) parameters (k_i for roots; variables with one
        value have none).

    Raises:
        StructureError: wrong length, an index out of range, or a cycle.
    """
    cards = check_cardinalities(cardinalities)
    if len(parents) != len(cards):
        raise StructureError(f"tree got {len(parents)} parents for {len(cards)} variables; give one per variable.")
    children: list[list[int]] = [[] for _ in cards]
    for variable, parent in enumerate(parents):
        if not -1 <= parent < len(cards):
            raise StructureError(f"tree: variable {variable} has parent {parent}; use -1 or 0 to {len(cards) - 1}.")
        if parent >= 0:
            children[parent].append(variable)
    try:
        order = list(TopologicalSorter(dict(enumerate(children))).static_order())
    except CycleError as error:
        raise StructureError(f"tree: the parents form a cycle through variables {error.args[1]}.") from None
    builder = CircuitBuilder(cards, name="tree")
    below: list[list[int]] = [[] for _ in cards]
    """For each variable, one node per value of its parent (one in all for a root)."""
    for variable in order:
        elements = [
            builder.product(builder.input(variable, [value]), *(below[child][value] for child in children[variable]))
            for value in range(cards[variable])
        ]
        copies = cards[parents[variable]] if parents[variable] >= 0 else 1
        if len(elements) == 1:
            below[variable] = elements * copies
        else:
            below[variable] = [builder.sum(*elements) for _ in range(copies)]
    return builder.build(builder.product(*(below[v][0] for v, parent in enumerate(parents) if parent < 0)))
