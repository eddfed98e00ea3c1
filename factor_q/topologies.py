"""Common factor graphs: complete, ring, grid, nearest neighbours, random pairs, any networkx graph."""

import math
from collections.abc import Iterable, Sequence
from itertools import combinations

import networkx
import numpy

from circuits.errors import StructureError
from factor_q.graph import FactorGraph, Scope


def complete(cardinalities: Sequence[int], order: int = 2, unary: bool = True) -> FactorGraph:
    """Join every group of `order` variables.

    Args:
        cardinalities: number of values of each variable.
        order: variables per factor, at least 1; with fewer variables than that, one factor joins them all.
        unary: also give every variable a factor of its own.

    Returns:
        A graph with C(n, order) factors, and n more with `unary`.

    Raises:
        StructureError: order is below 1.
    """
    if order < 1:
        raise StructureError(f"complete: order is {order}, but a factor needs at least one variable.")
    num_variables = len(cardinalities)
    groups = combinations(range(num_variables), min(order, num_variables))
    return _with_unary(cardinalities, (group for group in groups if group), unary)


def ring(cardinalities: Sequence[int], unary: bool = True) -> FactorGraph:
    """Join each variable with the next one, and the last with the first.

    Args:
        cardinalities: number of values of each variable; two variables give one pair, a single one none.
        unary: also give every variable a factor of its own.
    """
    num_variables = len(cardinalities)
    pairs = [(i, i + 1) for i in range(num_variables - 1)]
    if num_variables > 2:
        pairs.append((0, num_variables - 1))
    return _with_unary(cardinalities, pairs, unary)


def grid(cardinalities: Sequence[int], rows: int, columns: int, unary: bool = True) -> FactorGraph:
    """Join horizontal and vertical neighbours of a grid; variable r * columns + c sits in row r, column c.

    Args:
        cardinalities: number of values of each variable, rows * columns of them, row by row.
        rows: number of rows.
        columns: number of columns.
        unary: also give every variable a factor of its own.

    Raises:
        StructureError: the number of variables is not rows * columns.
    """
    if rows < 0 or columns < 0 or rows * columns != len(cardinalities):
        raise StructureError(
            f"grid: {rows} rows of {columns} columns need {rows * columns} cardinalities, got {len(cardinalities)}."
        )
    right = [(r * columns + c, r * columns + c + 1) for r in range(rows) for c in range(columns - 1)]
    down = [(r * columns + c, (r + 1) * columns + c) for r in range(rows - 1) for c in range(columns)]
    return _with_unary(cardinalities, sorted(right + down), unary)


def nearest_neighbors(cardinalities: Sequence[int], reach: int = 1, unary: bool = True) -> FactorGraph:
    """Join variables whose indices differ by at most `reach`: a chain for reach 1.

    Args:
        cardinalities: number of values of each variable.
        reach: largest distance that still interacts, at least 0; the induced width equals it.
        unary: also give every variable a factor of its own.

    Raises:
        StructureError: reach is negative.
    """
    if reach < 0:
        raise StructureError(f"nearest_neighbors: reach is {reach}, but a distance is at least 0.")
    num_variables = len(cardinalities)
    pairs = [(i, j) for i in range(num_variables) for j in range(i + 1, min(i + reach, num_variables - 1) + 1)]
    return _with_unary(cardinalities, pairs, unary)


def random_pairs(cardinalities: Sequence[int], count: int, seed: int = 0, unary: bool = True) -> FactorGraph:
    """Join `count` random pairs, each at most once and every variable in at least one.

    Args:
        cardinalities: number of values of each variable.
        count: number of pairs; n (n - 1) / 2 or more gives all of them.
        seed: the same seed gives the same pairs.
        unary: also give every variable a factor of its own.

    Raises:
        StructureError: count is below n / 2, so some variable would stay alone.
    """
    num_variables = len(cardinalities)
    every_pair = list(combinations(range(num_variables), 2))
    if count >= len(every_pair):
        return _with_unary(cardinalities, every_pair, unary)
    needed = math.ceil(num_variables / 2)
    if count < needed:
        raise StructureError(
            f"random_pairs: {count} pairs leave some of {num_variables} variables without a partner; "
            f"ask for at least {needed}."
        )
    generator = numpy.random.default_rng(seed)
    chosen = _random_cover(num_variables, generator)
    rest = [pair for pair in every_pair if pair not in chosen]
    extra = generator.choice(len(rest), size=count - len(chosen), replace=False)
    return _with_unary(cardinalities, sorted(chosen | {rest[i] for i in extra}), unary)


def from_networkx(graph: networkx.Graph, cardinalities: Sequence[int], unary: bool = True) -> FactorGraph:
    """Join the pairs that are edges of a networkx graph with nodes 0 to n - 1.

    Args:
        graph: undirected or directed; directions are ignored.
        cardinalities: number of values of each variable, by node number.
        unary: also give every variable a factor of its own.

    Raises:
        StructureError: the nodes are not 0 to n - 1, or an edge joins a node with itself.
    """
    if set(graph.nodes) != set(range(len(cardinalities))):
        raise StructureError(
            f"from_networkx: {len(cardinalities)} cardinalities need the nodes "
            f"0 to {len(cardinalities) - 1}; rename them with networkx.convert_node_labels_to_integers."
        )
    pairs = {(min(edge), max(edge)) for edge in graph.edges()}
    loops = sorted(first for first, second in pairs if first == second)
    if loops:
        raise StructureError(f"from_networkx: node {loops[0]} has an edge to itself; remove it or use unary=True.")
    return _with_unary(cardinalities, sorted(pairs), unary)


def _with_unary(cardinalities: Sequence[int], scopes: Iterable[Scope], unary: bool) -> FactorGraph:
    """Build the graph, unary scopes first when asked for."""
    singles = [(variable,) for variable in range(len(cardinalities))] if unary else []
    already = frozenset(singles)
    return FactorGraph(cardinalities, [*singles, *(scope for scope in scopes if scope not in already)])


def _random_cover(num_variables: int, generator: numpy.random.Generator) -> set[Scope]:
    """Pair the variables up in random order; an odd one out joins the first pair's first variable."""
    shuffled = [int(variable) for variable in generator.permutation(num_variables)]
    if num_variables % 2:
        shuffled.append(shuffled[0])
    return {(min(pair), max(pair)) for pair in zip(shuffled[::2], shuffled[1::2], strict=True)}
