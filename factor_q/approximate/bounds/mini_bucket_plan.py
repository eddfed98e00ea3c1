"""How mini-buckets are formed: which tables are joined when a variable is eliminated, within a size limit."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from circuits.errors import StructureError
from factor_q.elimination.ordering import elimination_order, table_size
from factor_q.elimination.plan import Term, term
from factor_q.graph import FactorGraph, Scope


@dataclass(frozen=True)
class MiniBucket:
    """Join the terms to a table (variable, *message), then eliminate the variable from it."""

    terms: tuple[Term, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Bucket:
    """All mini-buckets of one variable; more than one is where the bound loses."""

    variable: int
    cardinality: int
    minis: tuple[MiniBucket, ...]


@dataclass(frozen=True)
class MiniBucketPlan:
    """All buckets in elimination order. Tables 0 to F - 1 are the factors, then the messages in order of making."""

    buckets: tuple[Bucket, ...]
    constants: tuple[int, ...]
    """Tables that depend on nothing; their sum is the result."""

    @property
    def is_exact(self) -> bool:
        """Whether no bucket was split."""
        return all(len(bucket.minis) <= 1 for bucket in self.buckets)


def mini_bucket_plan(graph: FactorGraph, order: Sequence[int] | None, max_entries: int) -> MiniBucketPlan:
    """Return the plan; a table of the factors that alone exceeds `max_entries` makes a mini-bucket of its own.

    Raises:
        StructureError: order is not a permutation of the variables, or max_entries is below 1.
    """
    if max_entries < 1:
        raise StructureError(f"mini-buckets: max_entries is {max_entries}, but a table has at least 1 entry.")
    chosen = elimination_order(graph) if order is None else tuple(order)
    if sorted(chosen) != list(range(graph.num_variables)):
        raise StructureError(f"the elimination order {chosen} must name each of {graph.num_variables} variables once.")
    return _plan(graph, chosen, max_entries)


@lru_cache(maxsize=256)
def _plan(graph: FactorGraph, order: tuple[int, ...], max_entries: int) -> MiniBucketPlan:
    position = {variable: i for i, variable in enumerate(order)}
    scopes: list[Scope] = list(graph.scopes)
    waiting: list[list[int]] = [[] for _ in order]
    constants: list[int] = []

    def file(table: int) -> None:
        first = min((position[v] for v in scopes[table]), default=None)
        (constants if first is None else waiting[first]).append(table)

    for table in range(graph.num_factors):
        file(table)
    buckets: list[Bucket] = []
    for variable, tables in zip(order, waiting, strict=True):
        minis: list[MiniBucket] = []
        for members in _partition(graph, scopes, tables, max_entries) or [[]]:
            joined = {v for table in members for v in scopes[table]} - {variable}
            message = tuple(sorted(joined, key=position.__getitem__))
            whole = (variable, *message)
            terms = tuple(term(graph, table, scopes[table], whole) for table in members)
            minis.append(MiniBucket(terms, tuple(graph.cardinalities[v] for v in whole)))
            scopes.append(message)
            file(len(scopes) - 1)
        buckets.append(Bucket(variable, graph.cardinalities[variable], tuple(minis)))
    return MiniBucketPlan(tuple(buckets), tuple(constants))


def _partition(graph: FactorGraph, scopes: list[Scope], tables: list[int], max_entries: int) -> list[list[int]]:
    """Put each table, large ones first, where it adds least to a mini-bucket that stays within the limit."""
    minis: list[tuple[set[int], list[int]]] = []
    for table in sorted(tables, key=lambda table: (-table_size(graph, scopes[table]), table)):
        best: tuple[float, int] | None = None
        for i, (joined, _) in enumerate(minis):
            size = table_size(graph, tuple(joined.union(scopes[table])))
            # Not the smallest result but the smallest growth: a table that lies inside another joins it for nothing.
            growth = size / table_size(graph, tuple(joined))
            if size <= max_entries and (best is None or growth < best[0]):
                best = (growth, i)
        if best is None:
            minis.append((set(scopes[table]), [table]))
        else:
            minis[best[1]][0].update(scopes[table])
            minis[best[1]][1].append(table)
    return [members for _, members in minis]
