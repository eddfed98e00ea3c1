"""Combine: new circuits out of whole circuits."""

from circuits.circuit import Circuit
from circuits.errors import StructureError
from circuits.nodes import Node, Sum, renumber


def mixture(*circuits_: Circuit) -> Circuit:
    """Return a sum of circuits over the same variables; each keeps its parameters.

    Args:
        circuits_: one or more circuits of equal cardinalities; the same one may be given several times. One circuit
            is returned as it is.

    Returns:
        A circuit with the parameters of all circuits and one more per circuit (when there are several). It is not
        deterministic unless all circuits are and no joint value is possible in two of them; `is_deterministic` proves
        that where it can, and says no where it cannot.

    Raises:
        StructureError: no circuit, or circuits over different variables.

    Example:
        >>> from circuits import operations, structures
        >>> operations.mixture(structures.mean_field([2, 3]), structures.mean_field([2, 3])).num_parameters
        12
    """
    if not circuits_:
        raise StructureError("mixture got no circuits; give at least one.")
    cards = circuits_[0].cardinalities
    for position, circuit in enumerate(circuits_):
        if circuit.cardinalities != cards:
            raise StructureError(
                f"mixture: circuit {position} has cardinalities {circuit.cardinalities}, the first has {cards}; "
                "all must be equal."
            )
    if len(circuits_) == 1:
        return circuits_[0]
    nodes: list[Node] = []
    roots: list[int] = []
    for circuit in circuits_:
        places = range(len(nodes), len(nodes) + circuit.num_nodes)
        nodes.extend(renumber(node, places) for node in circuit.nodes)
        roots.append(len(nodes) - 1)
    return Circuit(cards, [*nodes, Sum(tuple(roots))], name=f"mixture({len(circuits_)} circuits)")
