"""States of regions: circuits over the joint values whose combined state is accepted, split like another circuit."""

from collections import defaultdict
from collections.abc import Callable, Hashable
from typing import TypeVar

from circuits.circuit import Circuit, CircuitBuilder
from circuits.errors import NotTractableError, StructureError
from circuits.nodes import Product
from circuits.variables import describe_scope

MOST_PRODUCTS = 1 << 20

State = TypeVar("State", bound=Hashable)


def region_states(
    like: Circuit,
    *,
    first: Callable[[int, int], State | None],
    merge: Callable[[State, State], State | None],
    accept: Callable[[State], bool],
    name: str,
) -> Circuit:
    """Return a circuit over the joint values whose state is accepted, compatible with a given circuit.

    The state of one variable is a function of its value, that of a region is merged from its parts. What is not
    possible has the state None.

    Args:
        like: a structured circuit; its regions are split in the same way here.
        first: (variable, value) -> state.
        merge: of the states of two disjoint regions; associative and commutative.
        accept: which states of all variables together count.
        name: of the circuit.

    Returns:
        A deterministic circuit: a joint value has one state in every region, so it takes one way only.

    Raises:
        NotTractableError: `like` is not structured, or there are more than 2^20 pairs of states.
        StructureError: no joint value is accepted.
    """
    if not like.is_structured:
        raise NotTractableError(
            f"{name} needs a circuit that is structured, but {like.name!r} splits some scope in two ways; build it "
            "without `like`, or take a structure with one split per region, such as keep_set."
        )
    builder = CircuitBuilder(like.cardinalities, name=name)
    splits = {
        like.scopes[index]: [like.scopes[child] for child in node.children]
        for index, node in enumerate(like.nodes)
        if isinstance(node, Product) and len(node.children) > 1
    }
    found: dict[int, dict[State, int]] = {}
    products = 0
    # Smallest first: the parts of a scope are smaller than it, so they are there when it is their turn.
    for scope in sorted({*like.scopes}, key=int.bit_count):
        if scope in splits:
            parts = [found[part] for part in splits[scope]]
            # Counted before they are made: one split of two regions with many states each would fill the memory.
            products += sum(len(a) * len(b) for a, b in zip(parts, parts[1:], strict=False))
            if products > MOST_PRODUCTS:
                raise NotTractableError(
                    f"{name} has over {MOST_PRODUCTS:,} pairs of states at {describe_scope(scope)}."
                )
            found[scope] = _merged(builder, parts, merge)
        elif scope.bit_count() == 1:
            found[scope] = _of_variable(builder, scope.bit_length() - 1, first)
    accepted = [node for state, node in found[(1 << len(like.cardinalities)) - 1].items() if accept(state)]
    if not accepted:
        raise StructureError(f"{name}: no joint value of cardinalities {like.cardinalities} meets the constraint.")
    root = accepted[0] if len(accepted) == 1 else builder.sum(*accepted)
    return builder.build(root, determinism="a joint value has one state in every region")


def _of_variable(builder: CircuitBuilder, variable: int, first: Callable[[int, int], State | None]) -> dict[State, int]:
    values: dict[State, list[int]] = defaultdict(list)
    for value in range(builder.cardinalities[variable]):
        state = first(variable, value)
        if state is not None:
            values[state].append(value)
    return {state: builder.input(variable, members) for state, members in values.items()}


def _merged(
    builder: CircuitBuilder, parts: list[dict[State, int]], merge: Callable[[State, State], State | None]
) -> dict[State, int]:
    """Merge the parts one by one."""
    result = parts[0]
    for part in parts[1:]:
        choices: dict[State, list[int]] = defaultdict(list)
        for one, left in result.items():
            for other, right in part.items():
                state = merge(one, other)
                if state is not None:
                    choices[state].append(builder.product(left, right))
        result = {state: ways[0] if len(ways) == 1 else builder.sum(*ways) for state, ways in choices.items()}
    return result
