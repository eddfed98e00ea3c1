"""What elimination will do, worked out once per graph and order: which tables are joined, and how large."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from factor_q.graph import FactorGraph, Scope
from factor_q.ordering import checked_order, elimination_cliques, table_size


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


@dataclass(frozen=True)
class Plan:
    """All steps. Tables 0 to F - 1 are the factors, table F + i is the message of step i.

    Variables with a single value are left out, so the number of axes stays below log2 of the entries.
    """

    graph: FactorGraph
    factor_shapes: tuple[tuple[int, ...], ...]
    steps: tuple[Step, ...]
    constants: tuple[int, ...]


def sizes(graph: FactorGraph, order: Sequence[int] | None) -> Sizes:
    """Return what elimination would hold, without the detail of a plan: cheap for hopeless graphs too."""
    return _sizes(graph, checked_order(graph, order))


def make_plan(graph: FactorGraph, order: Sequence[int] | None) -> Plan:
    """Return the steps for an order; None means the best order found."""
    return _make_plan(graph, checked_order(graph, order))


@lru_cache(maxsize=256)
def _sizes(graph: FactorGraph, order: tuple[int, ...]) -> Sizes:
    cliques = elimination_cliques(graph, order)
    joined = [table_size(graph, clique) for clique in cliques]
    messages = [size // graph.cardinalities[variable] for size, (variable, *_) in zip(joined, cliques, strict=True)]
    width = max((len(clique) - 1 for clique in cliques), default=0)
    return Sizes(width, max(joined, default=1), sum(joined), sum(messages))


@lru_cache(maxsize=256)
def _make_plan(graph: FactorGraph, order: tuple[int, ...]) -> Plan:
    free = [variable for variable in order if graph.cardinalities[variable] > 1]
    position = {variable: i for i, variable in enumerate(free)}
    scopes = [tuple(variable for variable in scope if variable in position) for scope in graph.scopes]
    factor_shapes = tuple(_shape(graph, scope) for scope in scopes)
    waiting: list[list[int]] = [[] for _ in free]
    constants: list[int] = []

    def file(table: int) -> None:
        first = min((position[variable] for variable in scopes[table]), default=None)
        (constants if first is None else waiting[first]).append(table)

    for table in range(graph.num_factors):
        file(table)
    steps: list[Step] = []
    cliques = [clique for clique in elimination_cliques(graph, order) if clique[0] in position]
    for clique, bucket in zip(cliques, waiting, strict=True):
        joined = tuple(variable for variable in clique if variable in position)
        # Small tables first: the partial sums then grow as late as possible.
        bucket.sort(key=lambda table: table_size(graph, scopes[table]))
        terms = tuple(_term(graph, table, scopes[table], joined) for table in bucket)
        steps.append(Step(joined[0], joined[1:], _shape(graph, joined), terms))
        scopes.append(joined[1:])
        file(len(scopes) - 1)
    return Plan(graph, factor_shapes, tuple(steps), tuple(constants))


def _shape(graph: FactorGraph, scope: Scope) -> tuple[int, ...]:
    """Return the shape of a table over a scope."""
    return tuple(graph.cardinalities[variable] for variable in scope)


def _term(graph: FactorGraph, table: int, scope: Scope, joined: Scope) -> Term:
    """Line the axes of a table up with those of the joined table, size 1 where the scope lacks a variable."""
    axes = tuple(scope.index(variable) for variable in joined if variable in scope)
    shape = tuple(graph.cardinalities[variable] if variable in scope else 1 for variable in joined)
    return Term(table, axes, shape)
