"""Tree: a tree-shaped Bayesian network."""

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

from circuits.circuit import Circuit, CircuitBuilder
from circuits.errors import StructureError
from circuits.structures.size import check_size
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
        StructureError: wrong length, an index out of range, a cycle, or more than 2^22 parameters.
    """
    cards = check_cardinalities(cardinalities)
    check_parents(cards, parents, "tree")
    size = sum(k * (cards[parent] if parent >= 0 else 1) for k, parent in zip(cards, parents, strict=True))
    check_size("tree", size, "let variables of fewer values be parents")
    builder = CircuitBuilder(cards, name="tree")
    indicators = [[builder.input(variable, [value]) for value in range(k)] for variable, k in enumerate(cards)]
    return builder.build(builder.product(*add_forest(builder, dict(enumerate(parents)), indicators)))


def check_parents(cards: tuple[int, ...], parents: Sequence[int], name: str) -> None:
    """Check that parents has one entry per variable, each -1 or a variable, without a cycle."""
    if len(parents) != len(cards):
        raise StructureError(f"{name} got {len(parents)} parents for {len(cards)} variables; give one per variable.")
    for variable, parent in enumerate(parents):
        if not -1 <= parent < len(cards):
            raise StructureError(f"{name}: variable {variable} has parent {parent}; use -1 or 0 to {len(cards) - 1}.")
    try:
        TopologicalSorter({v: [parent] for v, parent in enumerate(parents) if parent >= 0}).prepare()
    except CycleError as error:
        raise StructureError(f"{name}: the parents form a cycle through variables {error.args[1]}.") from None


def add_forest(builder: CircuitBuilder, parents: Mapping[int, int], indicators: Sequence[Sequence[int]]) -> list[int]:
    """Add the trees over the variables that `parents` names (-1 for roots) and return one node per root.

    `indicators[variable][value]` are input nodes over single values.
    """
    cards = builder.cardinalities
    children: dict[int, list[int]] = {variable: [] for variable in parents}
    for variable, parent in parents.items():
        if parent >= 0:
            children[parent].append(variable)
    below: dict[int, list[int]] = {}
    """For each variable, one node per value of its parent (one in all for a root)."""
    for variable in TopologicalSorter(children).static_order():
        elements = [
            builder.product(indicator, *(below[child][value] for child in children[variable]))
            for value, indicator in enumerate(indicators[variable])
        ]
        copies = cards[parents[variable]] if parents[variable] >= 0 else 1
        if len(elements) == 1:
            below[variable] = elements * copies
        else:
            below[variable] = [builder.sum(*elements) for _ in range(copies)]
    return [below[variable][0] for variable, parent in parents.items() if parent < 0]
