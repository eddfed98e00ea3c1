"""In which order to eliminate variables, and how large the tables then become."""

import math
from collections.abc import Sequence
from functools import lru_cache
from random import Random
from typing import Literal

from circuits.errors import StructureError
from circuits.variables import as_tuple
from factor_q.graph import FactorGraph, Scope

Heuristic = Literal["best", "min_fill", "min_degree"]
Order = Sequence[int] | Heuristic | None
"""A permutation of the variables, a way to find one, or None for the best one found."""

_MANY_ENTRIES, _HOPELESS_ENTRIES = 2**21, 2**45
"""Between these numbers of entries of joined tables a longer search for an order pays."""
_MOST_TRIES = 16
_TRIED_VARIABLES = 4000
"""Limits of that search: orders tried, and the sum of their lengths."""


def elimination_order(graph: FactorGraph, heuristic: Heuristic = "best") -> tuple[int, ...]:
    """Return a good order in which to eliminate the variables.

    Args:
        graph: the scopes.
        heuristic: "min_fill" takes next the variable whose elimination joins the fewest new pairs (then the
            smallest table), "min_degree" the smallest table, ties going to the lowest index; "best" compares
            both and the order 0, 1, 2, ... (hard to beat on grids) by the entries of all joined tables, and where
            these are many also "min_fill" with ties broken otherwise. Equal graphs get equal orders.

    Raises:
        StructureError: the heuristic has another name.
    Cost: at most O(n^3) set operations; about n^2 when no fill is needed (trees, complete graphs). Cached.
    Source: Koller & Friedman 2009, section 9.4.

    Example:
        >>> elimination_order(FactorGraph([2, 2, 2], [(0, 1), (0, 2)]))
        (1, 0, 2)
    """
    return checked_order(graph, heuristic)


def elimination_width(graph: FactorGraph, order: Order = None) -> int:
    """Return the induced width, the most variables that a message depends on; None is the best order found.

    Raises:
        StructureError: order is not a permutation of the variables.
    """
    return max((len(clique) - 1 for clique in elimination_cliques(graph, order)), default=0)


def largest_table(graph: FactorGraph, order: Order = None) -> int:
    """Return the entries per batch row of the largest joined table; None is the best order found.

    Raises:
        StructureError: order is not a permutation of the variables.
    """
    sizes = (table_size(graph, clique) for clique in elimination_cliques(graph, order))
    return max(sizes, default=1)


def elimination_cliques(graph: FactorGraph, order: Order = None, num_kept: int = 0) -> list[Scope]:
    """Return for each variable, in elimination order, itself and the variables that its message depends on.

    The message's variables are sorted by when they are eliminated; those with a single value connect nothing and
    are left out. None means the best order found; the last `num_kept` variables are not eliminated.

    Raises:
        StructureError: order is not a permutation of the variables.
    """
    order = checked_order(graph, order)
    position = {variable: i for i, variable in enumerate(order)}
    buckets: list[set[int]] = [set() for _ in order]
    # Buckets hold variables instead of tables: what elimination would need is known without taking the memory.
    for whole in graph.scopes:
        scope = [variable for variable in whole if graph.cardinalities[variable] > 1]
        if scope:
            buckets[min(position[variable] for variable in scope)].update(scope)
    cliques: list[Scope] = []
    for variable, bucket in zip(order, buckets, strict=True):
        message = sorted(bucket - {variable}, key=position.__getitem__)
        if message:
            buckets[position[message[0]]].update(message)
        cliques.append((variable, *message))
    return cliques[: len(order) - num_kept]


def checked_order(graph: FactorGraph, order: Order, kept: Scope = ()) -> tuple[int, ...]:
    """Return a permutation of the variables, or raise when `order` is none.

    Variables that are to be kept come last, in the order in which they are kept.
    """
    if order is None or isinstance(order, str):
        if order is None or order == "best":
            return _best_order(graph, kept)
        if order not in ("min_fill", "min_degree"):
            raise StructureError(
                f"elimination_order: the heuristic {order!r} is not 'best', 'min_fill' or 'min_degree'."
            )
        return _greedy_order(graph, order == "min_fill", kept)
    order = as_tuple(order, "the elimination order", "[1, 0, 2]", StructureError)
    if set(order) != set(range(graph.num_variables)) or len(order) != graph.num_variables:
        raise StructureError(f"the elimination order {order} must name each of {graph.num_variables} variables once.")
    return (*(variable for variable in order if variable not in kept), *kept)


def table_size(graph: FactorGraph, variables: Sequence[int]) -> int:
    """Return the number of joint values of some variables."""
    return math.prod(graph.cardinalities[variable] for variable in variables)


@lru_cache(maxsize=256)
def _best_order(graph: FactorGraph, kept: Scope) -> tuple[int, ...]:
    raster = (*(variable for variable in range(graph.num_variables) if variable not in kept), *kept)
    orders = [_greedy_order(graph, True, kept), _greedy_order(graph, False, kept), raster]
    least, best = min(((_entries(graph, order, kept), order) for order in orders), key=lambda pair: pair[0])
    # Ties are many and decide much: other choices halve the tables again and again on irregular graphs.
    pays = _MANY_ENTRIES < least < _HOPELESS_ENTRIES
    tries = min(_MOST_TRIES, _TRIED_VARIABLES // max(1, graph.num_variables)) if pays else 0
    for seed in range(1, tries + 1):
        order = _greedy_order(graph, True, kept, seed)
        entries = _entries(graph, order, kept)
        if entries < least:
            least, best = entries, order
    return best


def _entries(graph: FactorGraph, order: tuple[int, ...], kept: Scope) -> int:
    """Return the entries of all joined tables."""
    return sum(table_size(graph, clique) for clique in elimination_cliques(graph, order, len(kept)))


@lru_cache(maxsize=256)
def _greedy_order(graph: FactorGraph, count_fill: bool, kept: Scope, seed: int = 0) -> tuple[int, ...]:
    search = _GreedySearch(graph, count_fill, kept, seed)
    return (*(search.eliminate_best() for _ in range(graph.num_variables - len(kept))), *kept)


class _GreedySearch:
    """The interaction graph while variables are eliminated; neighbourhoods are bit masks.

    Scores are kept up to date instead of recomputed: a variable without fill changes its neighbours only.
    """

    def __init__(self, graph: FactorGraph, count_fill: bool, kept: Scope, seed: int) -> None:
        self._cardinalities = graph.cardinalities
        self._neighbors = [0] * graph.num_variables
        self._sizes = list(graph.cardinalities)
        self._count_fill = count_fill
        self._remaining = set(range(graph.num_variables))
        for scope in graph.scopes:
            for variable in scope:
                self._join(variable, scope)
        self._fill = [self._missing_pairs(variable) for variable in self._remaining]
        self._remaining.difference_update(kept)
        self._ranks = list(range(graph.num_variables))
        if seed:
            Random(seed).shuffle(self._ranks)  # noqa: S311 - ties, not secrets
        self._seed = seed

    def eliminate_best(self) -> int:
        """Remove the best variable, join its neighbours, and return it."""
        best = min(self._remaining, key=self._score)
        neighbors = _members(self._neighbors[best])
        self._remaining.remove(best)
        for neighbor in neighbors:
            # No longer missing here: the pairs of the eliminated variable with those it was not joined to.
            lost = self._neighbors[neighbor] & ~self._neighbors[best] & ~(1 << best)
            self._neighbors[neighbor] &= ~(1 << best)
            self._sizes[neighbor] //= self._cardinalities[best]
            self._fill[neighbor] -= lost.bit_count() if self._count_fill else 0
        if self._fill[best] or not self._count_fill:
            self._fill_in(neighbors)
        return best

    def _score(self, variable: int) -> tuple[int, int, int]:
        """Return what makes a variable good to eliminate next: small numbers. Every other search looks at fill only."""
        size = 0 if self._seed % 2 else self._sizes[variable]
        return self._fill[variable], size, self._ranks[variable]

    def _fill_in(self, clique: list[int]) -> None:
        """Join all pairs of a clique and bring the scores around it up to date."""
        changed = 0
        for variable in clique:
            self._join(variable, clique)
            changed |= self._neighbors[variable]
        for variable in _members(changed) if self._count_fill else []:
            self._fill[variable] = self._missing_pairs(variable)

    def _join(self, variable: int, others: Sequence[int]) -> None:
        """Make the variable a neighbour of the others (it may be among them)."""
        for other in others:
            if other != variable and not self._neighbors[variable] >> other & 1:
                self._neighbors[variable] |= 1 << other
                self._sizes[variable] *= self._cardinalities[other]

    def _missing_pairs(self, variable: int) -> int:
        """Count the pairs of neighbours that are not joined yet (0 where fill is not counted)."""
        if not self._count_fill:
            return 0
        neighbors = self._neighbors[variable]
        missing = (neighbors & ~self._neighbors[member] & ~(1 << member) for member in _members(neighbors))
        return sum(mask.bit_count() for mask in missing) // 2


def _members(mask: int) -> list[int]:
    """Return the positions of the set bits, ascending."""
    return [i for i, bit in enumerate(reversed(f"{mask:b}")) if bit == "1"]
