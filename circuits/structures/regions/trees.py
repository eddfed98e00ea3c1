"""Region trees: how to halve variables again and again so that few strong couplings are cut."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from circuits.structures.regions.coupling import boundary_order, spectral_order

RegionTree = int | tuple[Any, Any]
"""A variable, or a pair of trees."""

_SPECTRAL_LIMIT = 512
"""Most variables for which a spectral order is tried; its cost grows with their third power."""


def region_trees(coupling: np.ndarray, shape: str) -> list[RegionTree]:
    """Return trees to try.

    Args:
        coupling: of each pair of variables, not negative.
        shape: "balanced" gives trees of logarithmic depth: orders (spectral, smallest boundary, given) cut where
            little is lost near the middle, and bisection, where each half finds a spectral order again; "chain" gives
            the orders with one variable split off at a time; "auto" gives both.
    """
    count = len(coupling)
    orders = [boundary_order(coupling), list(range(count))]
    if count <= _SPECTRAL_LIMIT:
        orders.insert(0, spectral_order(coupling))
    distinct = list(dict.fromkeys(map(tuple, orders)))
    makers = {"balanced": [_balanced], "chain": [_chain], "auto": [_balanced, _chain]}[shape]
    trees = [make(order, coupling) for order in distinct for make in makers]
    return trees if shape == "chain" else [*trees, _bisected(tuple(range(count)), coupling)]


def _bisected(members: tuple[int, ...], coupling: np.ndarray) -> RegionTree:
    """Halve the variables along the spectral order of each part in turn: on a grid, blocks instead of strips."""
    if len(members) == 1:
        return members[0]
    inside = coupling[np.ix_(members, members)]
    order = spectral_order(inside) if len(members) <= _SPECTRAL_LIMIT else boundary_order(inside)
    cut = _weakest_cut(order, inside)
    left, right = (tuple(sorted(members[i] for i in side)) for side in (order[:cut], order[cut:]))
    return _bisected(left, coupling), _bisected(right, coupling)


def _balanced(order: Sequence[int], coupling: np.ndarray) -> RegionTree:
    """Halve the order where the cut is weakest, not far from the middle."""
    if len(order) == 1:
        return order[0]
    cut = _weakest_cut(order, coupling)
    return _balanced(order[:cut], coupling), _balanced(order[cut:], coupling)


def _weakest_cut(order: Sequence[int], coupling: np.ndarray) -> int:
    """Return after how many variables to cut an order, at most an eighth of its length from the middle."""
    middle = len(order) / 2
    reach = max(0.5, len(order) / 8)
    options = [cut for cut in range(1, len(order)) if abs(cut - middle) <= reach]
    weights = coupling[np.ix_(order, order)]
    # Summing the quarter of the matrix beyond each cut anew would cost a cube. total[i, j] is the sum of all weights up
    # to row i and column j, so the rows before a cut, less their columns before it, are what crosses.
    total = weights.cumsum(0).cumsum(1)
    crossing = {cut: total[cut - 1, -1] - total[cut - 1, cut - 1] for cut in options}
    # Running totals leave errors in the last digits: rounded, equal cuts tie and the middle one wins everywhere.
    return min(options, key=lambda cut: (round(float(crossing[cut]), 9), abs(cut - middle), -cut))


def _chain(order: Sequence[int], _: np.ndarray) -> RegionTree:
    """Split off one variable at a time."""
    return reduce(lambda tree, variable: (tree, variable), order)
