"""Region trees: how to halve variables again and again so that few strong couplings are cut."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from circuits.errors import StructureError

RegionTree = int | tuple[Any, Any]
"""A variable, or a pair of trees."""

_SPECTRAL_LIMIT = 512
"""Most variables for which a spectral order is tried; its cost grows with their third power."""


def coupling_of(
    count: int, scopes: Iterable[Sequence[int]] | None, strengths: Sequence[float] | None, name: str
) -> np.ndarray:
    """Return for each pair of variables the strengths of the scopes that they share, added up.

    Args:
        count: number of variables.
        scopes: sets of variables that interact; all pairs when None.
        strengths: one number from 0 per scope; ones when None.
        name: of the caller, for messages.

    Raises:
        StructureError: a scope names an unknown variable, or the strengths do not fit the scopes.
    """
    if scopes is None:
        if strengths is not None:
            raise StructureError(f"{name}: strengths belong to scopes; give the scopes too.")
        return np.ones((count, count)) - np.eye(count)
    scopes = [tuple(scope) for scope in scopes]
    strengths = [1.0] * len(scopes) if strengths is None else list(strengths)
    if len(strengths) != len(scopes) or not all(0 <= strength < np.inf for strength in strengths):
        raise StructureError(f"{name}: strengths must be {len(scopes)} finite numbers from 0, one per scope.")
    weights = np.zeros((count, count))
    for scope, strength in zip(scopes, strengths, strict=True):
        for variable in scope:
            if not 0 <= variable < count:
                raise StructureError(f"{name}: scope {scope} names variable {variable}, of {count}.")
        members = np.array(sorted(set(scope)), dtype=np.int64)
        weights[np.ix_(members, members)] += strength
    np.fill_diagonal(weights, 0)
    return weights


def region_trees(coupling: np.ndarray, shape: str) -> list[RegionTree]:
    """Return trees to try.

    Args:
        coupling: of each pair of variables, not negative.
        shape: "balanced" gives trees of logarithmic depth: orders (spectral, smallest boundary, given) cut where
            little is lost near the middle, and bisection, where each half finds its own spectral order; "chain" gives
            the orders with one variable split off at a time; "auto" gives both.
    """
    count = len(coupling)
    orders = [_boundary_order(coupling), list(range(count))]
    if count <= _SPECTRAL_LIMIT:
        orders.insert(0, _spectral_order(coupling))
    distinct = list(dict.fromkeys(map(tuple, orders)))
    makers = {"balanced": [_balanced], "chain": [_chain], "auto": [_balanced, _chain]}[shape]
    trees = [make(order, coupling) for order in distinct for make in makers]
    return trees if shape == "chain" else [*trees, _bisected(tuple(range(count)), coupling)]


def _spectral_order(coupling: np.ndarray) -> list[int]:
    """Order variables along the second eigenvector of the Laplacian, so that coupled ones are near."""
    laplacian = np.diag(coupling.sum(0)) - coupling
    # A tiny slope along the index breaks ties the same way on every machine.
    slope = np.linspace(0, 1, len(coupling))
    _, vectors = np.linalg.eigh(laplacian + 1e-6 * np.diag(slope))
    fiedler = vectors[:, min(1, len(coupling) - 1)]
    if fiedler @ (slope - slope.mean()) < 0:
        fiedler = -fiedler
    return np.argsort(np.round(fiedler, 6), kind="stable").tolist()


def _boundary_order(coupling: np.ndarray) -> list[int]:
    """Order variables so that the set placed so far has few variables coupled to the rest, greedily."""
    count = len(coupling)
    neighbours = [np.flatnonzero(row) for row in coupling > 0]
    degree = np.array([len(own) for own in neighbours])
    placed = np.zeros(count, dtype=np.bool_)
    # Of each variable: links to variables not placed, links to placed ones, and how many of the latter it would close.
    open_links, touches, closes = degree.copy(), np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    closable = np.zeros(count, dtype=np.bool_)
    order: list[int] = []
    for _ in range(count):
        # Placing v adds v to the boundary unless it has no open links, and closes those whose last link it was.
        growth = (open_links > 0) - closes
        rank = (growth * (count + 1) - touches) * (count + 1) + degree
        best = int(np.where(placed, np.iinfo(np.int64).max, rank).argmin())
        placed[best] = True
        order.append(best)
        open_links[neighbours[best]] -= 1
        touches[neighbours[best]] += 1
        for variable in (*neighbours[best].tolist(), best):
            now = bool(placed[variable] and open_links[variable] == 1)
            if now != closable[variable]:
                closes[neighbours[variable]] += 1 if now else -1
                closable[variable] = now
    return order


def _bisected(members: tuple[int, ...], coupling: np.ndarray) -> RegionTree:
    """Halve the variables along a spectral order of their own, again and again: on a grid, blocks instead of strips."""
    if len(members) == 1:
        return members[0]
    own = coupling[np.ix_(members, members)]
    order = _spectral_order(own) if len(members) <= _SPECTRAL_LIMIT else _boundary_order(own)
    cut = _weakest_cut(order, own)
    sides = (tuple(sorted(members[i] for i in side)) for side in (order[:cut], order[cut:]))
    left, right = (_bisected(side, coupling) for side in sides)
    return left, right


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
    # What crosses a cut, from running totals: summing each quarter of the matrix anew would cost a cube.
    total = weights.cumsum(0).cumsum(1)
    crossing = {cut: total[cut - 1, -1] - total[cut - 1, cut - 1] for cut in options}
    return min(options, key=lambda cut: (round(float(crossing[cut]), 9), abs(cut - middle), -cut))


def _chain(order: Sequence[int], coupling: np.ndarray) -> RegionTree:
    """Split off one variable at a time."""
    tree: RegionTree = order[0]
    for variable in order[1:]:
        tree = (tree, variable)
    return tree
