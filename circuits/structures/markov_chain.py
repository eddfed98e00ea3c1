"""Markov chain: each variable depends on the few before it."""

from collections.abc import Sequence
from itertools import product as assignments
from math import prod

from circuits.circuit import Circuit, CircuitBuilder
from circuits.errors import StructureError
from circuits.structures.size import check_size


def markov_chain(cardinalities: Sequence[int], *, order: int = 1) -> Circuit:
    """Return p(u_0) p(u_1 | u_0) ... where each variable depends on the `order` variables before it.

    Args:
        cardinalities: number of values of each variable, in chain order.
        order: how many variables back a variable may look; 0 is mean field.

    Returns:
        A deterministic circuit with sum over t of k_t * (product of the `order` cardinalities before t) parameters
        (variables with one value have none).

    Raises:
        StructureError: order is negative, or there would be more than 2^22 parameters; raised before it is built.
    """
    if order < 0:
        raise StructureError(f"markov_chain order is {order}; it must be 0 or more.")
    builder = CircuitBuilder(cardinalities, name=f"markov_chain(order={order})")
    cards = builder.cardinalities
    size = sum(k * prod(cards[max(0, t - order) : t]) for t, k in enumerate(cards))
    check_size("markov_chain", size, "take a lower order, or keep_set, whose size you choose")
    following: dict[tuple[int, ...], int] = {}
    for t in reversed(range(len(cards))):
        indicators = [builder.input(t, [value]) for value in range(cards[t])]
        elements: dict[tuple[int, tuple[int, ...]], int] = {}
        nodes: dict[tuple[int, ...], int] = {}
        for previous in assignments(*(range(k) for k in cards[max(0, t - order) : t])):
            children = []
            for value in range(cards[t]):
                state = (*previous, value)[-order:] if order else ()
                # States that forget the oldest variable lead to the same continuation: share it.
                if (value, state) not in elements:
                    rest = (following[state],) if following else ()
                    elements[value, state] = builder.product(indicators[value], *rest)
                children.append(elements[value, state])
            nodes[previous] = builder.sum(*children) if len(children) > 1 else children[0]
        following = nodes
    return builder.build(following[()])
