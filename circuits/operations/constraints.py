"""Constraints on joint values as circuits: their support is exactly the joint values that meet the constraint."""

import operator
from collections.abc import Collection, Hashable, Sequence

from circuits.circuit import Circuit
from circuits.errors import StructureError
from circuits.structures.decision_diagram import MOST_STATES, automaton
from circuits.structures.regions.states import region_states
from circuits.variables import check_cardinalities


def exactly(
    cardinalities: Sequence[int],
    count: int | Collection[int],
    *,
    action: int | Collection[int] = 1,
    like: Circuit | None = None,
) -> Circuit:
    """Return a circuit over the joint values in which exactly `count` variables choose `action`.

    The state of its decision diagram is the number of choices so far, so what a variable does may depend on it.

    Args:
        cardinalities: number of values of each variable.
        count: how many; a collection allows each of several counts (`range(3)` is "at most two").
        action: the value that counts, or a collection of values that do (`range(1, 6)` is "acts", if 0 is waiting).
        like: count along the splits of this circuit, so that its distributions can be given the constraint; None
            counts along the variables in order, which suits chains and decision diagrams.

    Returns:
        A deterministic circuit with at most sum over t of k_t * min(t + 1, largest count + 1) parameters; with `like`,
        at most (largest count + 1)^2 per split and k_t per variable.

    Raises:
        StructureError: a negative count or action, no count at all, or a constraint that no joint value meets.
        NotTractableError: `like` is not structured.
    """
    cards = _cards_of(cardinalities, like)
    counts, actions = _as_set(count), _as_set(action)
    if not counts or min(counts) < 0:
        raise StructureError(f"exactly: count is {count!r}; it must be 0 or more, or a collection of such counts.")
    if not actions or not 0 <= min(actions) <= max(actions) < max(cards):
        raise StructureError(f"exactly: action is {action!r}; it must be within 0 to {max(cards) - 1}.")
    largest = max(counts)

    def counted(_: int, state: Hashable, value: int) -> int | None:
        assert isinstance(state, int)
        after = state + (value in actions)
        return after if after <= largest else None

    name = f"exactly(count={_short(counts)}, action={_short(actions)})"
    if like is not None:
        return region_states(
            like,
            first=lambda _, value: counted(0, 0, value),
            merge=lambda a, b: a + b if a + b <= largest else None,
            accept=counts.__contains__,
            name=name,
        )
    return automaton(cards, counted, start=0, accept=counts.__contains__, width=len(cards) + 1, name=name)


def all_different(
    cardinalities: Sequence[int], *, exempt: Collection[int] = (), like: Circuit | None = None
) -> Circuit:
    """Return a circuit over the joint values in which no two variables choose the same value.

    The state of its decision diagram is the set of values that are taken and that a later variable could still choose.

    Args:
        cardinalities: number of values of each variable.
        exempt: values that any number of variables may share, such as waiting.
        like: as in `exactly`.

    Returns:
        A deterministic circuit with at most sum over t of k_t * (number of sets of at most t values that are not
        exempt) parameters: 2^k in the number of values, linear in the number of variables. With `like`, a split has
        as many as there are pairs of disjoint sets of values.

    Raises:
        StructureError: an exempt value below 0, more than 65,536 sets of taken values, or more variables than values.
        NotTractableError: `like` is not structured, or there are too many pairs of sets.
    """
    cards = _cards_of(cardinalities, like)
    if any(value < 0 for value in exempt):
        raise StructureError(f"all_different: exempt is {sorted(exempt)}; values are 0 or more.")
    shared = frozenset(exempt)
    asked_later = [max(cards[t + 1 :], default=0) for t in range(len(cards))]
    """Values below this may still be chosen after variable t; the others need no memory."""

    def taken(t: int, state: Hashable, value: int) -> Hashable:
        assert isinstance(state, int)
        if value in shared:
            after = state
        elif state >> value & 1:
            return None
        else:
            after = state | 1 << value
        return after & ((1 << asked_later[t]) - 1)

    name = f"all_different(exempt={_short(shared)})"
    if like is not None:
        return region_states(
            like,
            first=lambda _, value: 0 if value in shared else 1 << value,
            merge=lambda a, b: None if a & b else a | b,
            accept=lambda _: True,
            name=name,
        )
    return automaton(cards, taken, start=0, accept=None, width=MOST_STATES, name=name)


def _cards_of(cardinalities: Sequence[int], like: Circuit | None) -> tuple[int, ...]:
    cards = check_cardinalities(cardinalities)
    if like is not None and like.cardinalities != cards:
        raise StructureError(f"like is a circuit over cardinalities {like.cardinalities}, the constraint over {cards}.")
    return cards


def _as_set(given: int | Collection[int]) -> set[int]:
    return set(given) if isinstance(given, Collection) else {operator.index(given)}


def _short(values: Collection[int]) -> str:
    """Return values as people write them: `2`, `0..3` or `1,4`."""
    ordered = sorted(values)
    if len(ordered) > 2 and ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"{ordered[0]}..{ordered[-1]}"
    return ",".join(map(str, ordered)) or "none"
