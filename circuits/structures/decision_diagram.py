"""Decision diagrams: variables are read in order, and a state remembers what matters about those already read."""

from collections.abc import Callable, Hashable, Sequence
from itertools import accumulate

import numpy as np

from circuits.circuit import Circuit, CircuitBuilder
from circuits.errors import StructureError
from circuits.structures.size import check_size
from circuits.variables import check_cardinalities

Transition = Callable[[int, Hashable, int], Hashable]
"""(variable, state before it, its value) -> state after it; None forbids the value."""

MOST_STATES = 65_536
"""States that a layer of a user's transition may have unless `width` says otherwise."""


def decision_diagram(
    cardinalities: Sequence[int],
    *,
    width: int | None = None,
    seed: int = 0,
    transition: Transition | None = None,
    start: Hashable = 0,
    accept: Callable[[Hashable], bool] | None = None,
) -> Circuit:
    """Return p(u_0 | s_0) p(u_1 | s_1) ... where the state s_t is computed from the values before variable t.

    Equal states share everything that follows (a shared Shannon decomposition, or multi-valued decision diagram). By
    default states follow from random tables. With a `transition` the circuit is exactly the automaton that you
    wrote: a counter as the state makes the number of variables that took a value decide about those after them.

    Args:
        cardinalities: number of values of each variable, in reading order.
        width: most states per variable, at least 1. None: 16 for random tables, 65,536 for a transition.
        seed: of the random tables (0 or more); every state is reached, and the values of a state lead to different
            states as far as `width` allows. Not used with a transition.
        transition: `transition(t, state, value)` returns the state after variable t takes `value`, any hashable;
            None forbids the value in that state.
        start: the state before the first variable, for a transition.
        accept: `accept(state)` says whether a state after the last variable is allowed (all are when None), so that
            the circuit holds a constraint; values that cannot end in such a state are left out.

    Returns:
        A deterministic circuit. Random tables: sum over t of k_t * s_t parameters (variables with one value have none)
        where s_0 = 1 and s_(t+1) = min(width, s_t * k_t). A transition: one per allowed value of each state that has
        two or more.

    Raises:
        StructureError: width below 1, a negative seed, more states than fit, a state that is not hashable,
            `accept` without `transition`, or a constraint that no joint value meets.
    Cost: linear in states times values.
    """
    cards = check_cardinalities(cardinalities)
    if width is not None and width < 1:
        raise StructureError(f"decision_diagram width is {width}; it must be at least 1.")
    if seed < 0:
        raise StructureError(f"decision_diagram seed is {seed}; it must be 0 or more.")
    if transition is not None:
        name = "decision_diagram(transition)"
        return automaton(cards, transition, start=start, accept=accept, width=width or MOST_STATES, name=name)
    if accept is not None or start != 0:
        raise StructureError("decision_diagram: accept and start describe states of a transition; pass one.")
    width = width or 16
    states = accumulate(cards, lambda before, k: min(width, before * k), initial=1)
    check_size("decision_diagram", sum(k * s for k, s in zip(cards, states, strict=False)), "take a smaller width")
    return _build(cards, _random_tables(cards, width, seed), name=f"decision_diagram(width={width})")


def automaton(
    cardinalities: Sequence[int],
    transition: Transition,
    *,
    start: Hashable,
    accept: Callable[[Hashable], bool] | None,
    width: int,
    name: str,
) -> Circuit:
    """Return the circuit of the joint values that an automaton accepts; see `decision_diagram`."""
    tables: list[_Table] = []
    states: dict[Hashable, None] = {start: None}
    size = 0
    for t, cardinality in enumerate(cardinalities):
        size += len(states) * cardinality
        check_size(name, size, "let the transition forget more, so that it has fewer states")
        table: _Table = {}
        reached: dict[Hashable, None] = {}
        for state in states:
            table[state] = [transition(t, state, value) for value in range(cardinality)]
            try:
                reached.update((after, None) for after in table[state] if after is not None)
            except TypeError:
                raise StructureError(
                    f"{name}: after variable {t} the transition returned {table[state]}, of which some are not "
                    "hashable; return numbers, strings or tuples."
                ) from None
            if len(reached) > width:
                raise StructureError(
                    f"{name}: more than {width:,} states after variable {t}. Let the transition forget what later "
                    "variables do not need, or raise width where it is an option."
                )
        tables.append(table)
        states = reached
    # Backwards, because a forbidden end forbids the values that can only lead there: left in, they would be sums whose
    # weight goes to joint values that do not exist.
    allowed = {state for state in states if accept is None or accept(state)}
    for t in reversed(range(len(tables))):
        alive = {
            state: [after if after in allowed else None for after in row]
            for state, row in tables[t].items()
            if not allowed.isdisjoint(row)
        }
        tables[t], allowed = alive, set(alive)
    if not allowed:
        raise StructureError(f"{name}: no joint value of the variables is allowed; loosen the constraint.")
    return _build(tuple(cardinalities), tables, name=name)


_Table = dict[Hashable, list[Hashable]]
"""State -> the state that each value leads to; None where the value is forbidden."""


def _random_tables(cards: tuple[int, ...], width: int, seed: int) -> list[_Table]:
    """Deal next states like cards from shuffled decks, so that all are used and neighbours differ."""
    rng = np.random.default_rng(seed)
    tables: list[_Table] = []
    states = 1
    for cardinality in cards:
        needed = states * cardinality
        following = min(width, needed)
        # Independent draws would leave some states unreached and send values of one state to the same place by chance.
        decks = [rng.permutation(following) for _ in range(-(-needed // following))]
        dealt = np.concatenate(decks)[:needed].reshape(states, cardinality)
        table: _Table = {state: [*row] for state, row in enumerate(dealt.tolist())}
        tables.append(table)
        states = following
    return tables


def _build(cards: tuple[int, ...], tables: list[_Table], *, name: str) -> Circuit:
    """Build the nodes of all states, last variable first; each table leads to states of the next one."""
    builder = CircuitBuilder(cards, name=name)
    last = len(cards) - 1
    following: dict[Hashable, int] = {}
    """State -> node over the variables from t + 1 on."""
    for t in range(last, -1, -1):
        nodes: dict[Hashable, int] = {}
        indicators = [builder.input(t, [value]) for value in range(cards[t])] if t < last else []
        elements: dict[tuple[int, Hashable], int] = {}
        for state, row in tables[t].items():
            allowed = [(value, after) for value, after in enumerate(row) if after is not None]
            # Nothing follows the last variable, so one input with a weight per value does for a sum over indicators.
            if t == last:
                nodes[state] = builder.input(t, [value for value, _ in allowed])
                continue
            for value, after in allowed:
                # States that a value sends to the same place share the product; each sum weights it by itself.
                if (value, after) not in elements:
                    elements[value, after] = builder.product(indicators[value], following[after])
            children = [elements[edge] for edge in allowed]
            nodes[state] = children[0] if len(children) == 1 else builder.sum(*children)
        following = nodes
    (root,) = following.values()
    return builder.build(root)
