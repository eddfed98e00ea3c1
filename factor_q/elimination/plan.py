"""What elimination will do, worked out once per graph and order: which tables are joined, and how large."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from factor_q.elimination.ordering import Order, checked_order, elimination_cliques, table_size
from factor_q.graph import FactorGraph, Scope

SLICE = 2**18
"""Entries of a joined table that are made at a time where no gradient is recorded: few enough for a cache."""


class Sizes(NamedTuple):
    """How much an elimination holds, in table entries per batch row."""

    width: int
    """Most variables that a message depends on."""
    largest: int
    """Entries of the largest joined table."""
    total: int
    """Entries of all joined tables."""
    messages: int
    """Entries of all messages."""


@dataclass(frozen=True)
class Term:
    """A table that enters a join: which one, the order of its axes, and its shape beside the others."""

    table: int
    axes: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """Eliminate one variable: join the terms to a table (variable, *message), then reduce its first axis."""

    variable: int
    message: Scope
    shape: tuple[int, ...]
    terms: tuple[Term, ...]
    twin: int | None
    """An earlier message with the same variables that waits for the same join, so that the two can be added."""


@dataclass(frozen=True)
class Plan:
    """All steps. Tables 0 to F - 1 are the factors, table F + i is the message of step i.

    What is left in the end, `root`, is joined to a table over `kept`: the variables that are not eliminated.
    Variables with a single value are left out, so the number of axes stays below log2 of the entries.
    """

    graph: FactorGraph
    factor_shapes: tuple[tuple[int, ...], ...]
    steps: tuple[Step, ...]
    root: tuple[Term, ...]
    kept: Scope

    @property
    def root_shape(self) -> tuple[int, ...]:
        """Shape of the table that is left."""
        return _shape(self.graph, self.kept)


def sizes(graph: FactorGraph, order: Order, kept: Scope = ()) -> Sizes:
    """Return what elimination would hold, without the detail of a plan: cheap for hopeless graphs too."""
    return _sizes(graph, checked_order(graph, order, kept), len(kept))


def peak(graph: FactorGraph, order: Order, batch: int = 1, kept: Scope = ()) -> int:
    """Return the most entries that elimination without gradients holds at once, all batch rows together.

    That is the messages that still wait to be joined, the new one, and the slice of the joined table in work.
    """
    return _peak(graph, checked_order(graph, order, kept), len(kept), batch)


def make_plan(graph: FactorGraph, order: Order, kept: Scope = ()) -> Plan:
    """Return the steps for an order; None means the best order found. The kept variables are not eliminated."""
    return _make_plan(graph, checked_order(graph, order, kept), len(kept))


def amount(count: int) -> str:
    """Write a count, large ones as a power of ten."""
    return f"{count:,}" if count < 10**12 else f"about 10^{math.log10(count):.0f}"


@lru_cache(maxsize=256)
def _sizes(graph: FactorGraph, order: tuple[int, ...], num_kept: int) -> Sizes:
    cliques = elimination_cliques(graph, order, num_kept)
    joined = [table_size(graph, clique) for clique in cliques]
    messages = [size // graph.cardinalities[variable] for size, (variable, *_) in zip(joined, cliques, strict=True)]
    if num_kept:
        joined.append(table_size(graph, order[-num_kept:]))
    width = max((len(clique) - 1 for clique in cliques), default=0)
    return Sizes(width, max(joined, default=1), sum(joined), sum(messages))


@lru_cache(maxsize=256)
def _peak(graph: FactorGraph, order: tuple[int, ...], num_kept: int, batch: int) -> int:
    cliques = elimination_cliques(graph, order, num_kept)
    arriving: dict[int, dict[Scope, int]] = {variable: {} for variable in order}
    live = most = 0
    for variable, *message in cliques:
        joined = table_size(graph, (variable, *message))
        made = joined // graph.cardinalities[variable]
        # A slice is never smaller than all values of the first axis for all rows: the reduction needs them together.
        slice_entries = min(joined * batch, max(SLICE, graph.cardinalities[variable] * batch))
        most = max(most, (live + made) * batch + slice_entries)
        # Only now are the messages to this variable freed: while they are joined, they and the new one both live.
        live -= sum(arriving[variable].values())
        waiting = arriving[message[0]] if message else {}
        live += 0 if tuple(message) in waiting else made
        waiting[tuple(message)] = made
    return max(most, (live + table_size(graph, order[len(cliques) :])) * batch if num_kept else 0)


@lru_cache(maxsize=256)
def _make_plan(graph: FactorGraph, order: tuple[int, ...], num_kept: int) -> Plan:
    # Torch's kernels take at most 64 axes. Variables of one value would be axes that add nothing, so they take no
    # part; of the others a table that fits into memory has fewer.
    free = [variable for variable in order if graph.cardinalities[variable] > 1]
    position = {variable: i for i, variable in enumerate(free)}
    kept = tuple(variable for variable in order[len(order) - num_kept :] if variable in position)
    scopes = [tuple(variable for variable in scope if variable in position) for scope in graph.scopes]
    factor_shapes = tuple(_shape(graph, scope) for scope in scopes)
    waiting: list[list[int]] = [[] for _ in range(len(free) - len(kept) + 1)]

    def file(table: int) -> None:
        # A table waits for the first of its variables that is eliminated. Constants, and tables over kept variables
        # only, wait in the last bucket, which is the root.
        first = min((position[variable] for variable in scopes[table]), default=len(free))
        waiting[min(first, len(waiting) - 1)].append(table)

    def terms(bucket: list[int], joined: Scope) -> tuple[Term, ...]:
        # Small tables first: the partial sums then grow as late as possible.
        bucket.sort(key=lambda table: table_size(graph, scopes[table]))
        return tuple(term(graph, table, scopes[table], joined) for table in bucket)

    for table in range(graph.num_factors):
        file(table)
    steps: list[Step] = []
    messages: dict[Scope, int] = {}
    cliques = [clique for clique in elimination_cliques(graph, order, num_kept) if clique[0] in position]
    for clique, bucket in zip(cliques, waiting, strict=False):
        joined = tuple(variable for variable in clique if variable in position)
        # A scope names its join, and no message over it can come after that: its first variable is gone.
        twin = messages.setdefault(joined[1:], len(scopes))
        known = twin if twin < len(scopes) else None
        steps.append(Step(joined[0], joined[1:], _shape(graph, joined), terms(bucket, joined), known))
        scopes.append(joined[1:])
        file(len(scopes) - 1)
    return Plan(graph, factor_shapes, tuple(steps), terms(waiting[-1], kept), kept)


def _shape(graph: FactorGraph, scope: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of a table over a scope."""
    return tuple(graph.cardinalities[variable] for variable in scope)


def term(graph: FactorGraph, table: int, scope: Scope, joined: Scope) -> Term:
    """Line the axes of a table up with those of the joined table, size 1 where the scope lacks a variable."""
    place = {variable: axis for axis, variable in enumerate(scope)}
    axes = tuple(place[variable] for variable in joined if variable in place)
    shape = tuple(graph.cardinalities[variable] if variable in place else 1 for variable in joined)
    return Term(table, axes, shape)
