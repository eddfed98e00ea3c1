"""Keep-set circuits: a region tree whose labels are the values of the variables most coupled to the outside."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product as assignments
from math import prod
from typing import Any

import numpy as np

from circuits.circuit import Circuit, CircuitBuilder
from circuits.errors import StructureError
from circuits.variables import check_cardinalities

_SPECTRAL_LIMIT = 512
"""Most variables for which the spectral order is tried; its cost grows with their third power."""


def keep_set(
    cardinalities: Sequence[int],
    scopes: Iterable[Sequence[int]] | None = None,
    *,
    labels: int = 16,
    shape: str = "auto",
) -> Circuit:
    """Return a deterministic circuit that keeps what couples each region of variables to the rest.

    The variables are halved again and again into a tree of regions. A region has one node per label, and a label is
    a joint value of its kept variables: those that share the strongest scopes with variables outside, as many as fit.
    When the kept variables separate every region from the rest, the circuit holds exp(Q) exactly for every Q with
    these scopes. Balanced trees and chains in several orders are tried; the one that loses the least coupling wins.

    Args:
        cardinalities: number of values of each variable.
        scopes: sets of variables that interact (the scopes of a factor graph); all pairs when None.
        labels: most labels per region, at least 1. With fewer labels than a variable has values, that variable is
            never kept; labels=1 is mean field.
        shape: "balanced" halves the variables again and again, so that passes take about 2 log2(n) steps; "chain"
            splits off one at a time, which needs the fewest labels on line-like scopes but takes 2 n steps;
            "auto" takes the one that loses less coupling.

    Returns:
        A circuit with at most sum over regions of labels(left) * labels(right) parameters, plus the values of
        variables that are not kept.

    Raises:
        StructureError: labels below 1, an unknown shape, or a scope that names an unknown variable.
    Source: this project; it contains the structure of Shih and Ermon 2020 as the choice of the first variables.
    """
    cards = check_cardinalities(cardinalities)
    if labels < 1:
        raise StructureError(f"keep_set labels is {labels}; it must be at least 1.")
    if shape not in ("auto", "balanced", "chain"):
        raise StructureError(f"keep_set shape is {shape!r}; it must be 'auto', 'balanced' or 'chain'.")
    coupling = _coupling(len(cards), scopes)
    candidates = [_choose_labels(tree, cards, coupling, labels) for tree in _region_trees(coupling, shape)]
    best = min(candidates, key=lambda regions: (round(regions.lost, 9), regions.size))
    builder = CircuitBuilder(cards, name=f"keep_set(labels={labels})")
    units = _build(builder, best)
    return builder.build(units[()])


@dataclass
class _Region:
    """A set of variables, its two parts, and the variables whose values are its labels."""

    variables: tuple[int, ...]
    kept: tuple[int, ...]
    parts: "tuple[_Region, _Region] | None"
    lost: float
    """Coupling to the outside of variables that are not kept, summed over the region and its parts."""
    size: float
    """Edges of the region and its parts."""


_Tree = int | tuple[Any, Any]
"""A variable, or a pair of trees."""


def _coupling(count: int, scopes: Iterable[Sequence[int]] | None) -> np.ndarray:
    """Return how many scopes each pair of variables shares."""
    if scopes is None:
        return np.ones((count, count)) - np.eye(count)
    weights = np.zeros((count, count))
    for scope in scopes:
        for variable in scope:
            if not 0 <= variable < count:
                raise StructureError(f"keep_set: scope {tuple(scope)} names variable {variable}, of {count}.")
        members = np.array(sorted(set(scope)), dtype=np.int64)
        weights[np.ix_(members, members)] += 1
    np.fill_diagonal(weights, 0)
    return weights


def _region_trees(coupling: np.ndarray, shape: str) -> list[_Tree]:
    """Return trees to try: balanced halving and chains, over a spectral order and a smallest-boundary order."""
    count = len(coupling)
    orders = [_boundary_order(coupling), list(range(count))]
    if count <= _SPECTRAL_LIMIT:
        orders.insert(0, _spectral_order(coupling))
    distinct = list(dict.fromkeys(map(tuple, orders)))
    makers = {"balanced": [_balanced], "chain": [_chain], "auto": [_balanced, _chain]}[shape]
    return [make(order, coupling) for order in distinct for make in makers]


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


def _balanced(order: Sequence[int], coupling: np.ndarray) -> _Tree:
    """Halve the order where the cut is weakest, not far from the middle."""
    if len(order) == 1:
        return order[0]
    middle = len(order) / 2
    reach = max(0.5, len(order) / 8)
    options = [cut for cut in range(1, len(order)) if abs(cut - middle) <= reach]
    weights = coupling[np.ix_(order, order)]
    cut = min(options, key=lambda cut: (weights[:cut, cut:].sum(), abs(cut - middle), -cut))
    return _balanced(order[:cut], coupling), _balanced(order[cut:], coupling)


def _chain(order: Sequence[int], coupling: np.ndarray) -> _Tree:
    """Split off one variable at a time."""
    tree: _Tree = order[0]
    for variable in order[1:]:
        tree = (tree, variable)
    return tree


def _choose_labels(tree: _Tree, cards: tuple[int, ...], coupling: np.ndarray, labels: int) -> _Region:
    """Choose each region's kept variables bottom-up: strongest outgoing coupling first, while the labels fit.

    Iterative, because a chain of 1,000 variables is a tree of depth 1,000.
    """
    done: list[_Region] = []
    stack: list[tuple[_Tree, bool]] = [(tree, False)]
    while stack:
        node, ready = stack.pop()
        if isinstance(node, int):
            done.append(_label((node,), (node,), None, cards, coupling, labels))
        elif ready:
            right, left = done.pop(), done.pop()
            variables = left.variables + right.variables
            done.append(_label(variables, left.kept + right.kept, (left, right), cards, coupling, labels))
        else:
            stack += [(node, True), (node[1], False), (node[0], False)]
    return done.pop()


def _label(
    variables: tuple[int, ...],
    candidates: tuple[int, ...],
    parts: tuple[_Region, _Region] | None,
    cards: tuple[int, ...],
    coupling: np.ndarray,
    labels: int,
) -> _Region:
    outside = np.ones(len(cards), dtype=np.bool_)
    outside[list(variables)] = False
    pull = coupling[list(variables)][:, outside].sum(1) if outside.any() else np.zeros(len(variables))
    strength = dict(zip(variables, pull.tolist(), strict=True))
    kept: list[int] = []
    for variable in sorted(candidates, key=lambda v: (-strength[v], v)):
        if strength[variable] > 0 and prod(cards[v] for v in kept) * cards[variable] <= labels:
            kept.append(variable)
    lost = sum(strength.values()) - sum(strength[v] for v in kept)
    size = float(cards[variables[0]]) if parts is None else _num_labels(parts[0], cards) * _num_labels(parts[1], cards)
    for part in parts or ():
        lost, size = lost + part.lost, size + part.size
    return _Region(variables, tuple(sorted(kept)), parts, lost, size)


def _num_labels(region: _Region, cards: tuple[int, ...]) -> float:
    return float(prod(cards[v] for v in region.kept))


_Units = dict[tuple[int, ...], int]
"""Label (values of the kept variables, in increasing variable order) -> node."""


def _build(builder: CircuitBuilder, root: _Region) -> _Units:
    """Build all regions bottom-up and return the root's nodes."""
    done: list[_Units] = []
    stack: list[tuple[_Region, bool]] = [(root, False)]
    while stack:
        region, ready = stack.pop()
        if region.parts is None:
            done.append(_build_leaf(builder, region))
        elif ready:
            right, left = done.pop(), done.pop()
            done.append(_join(builder, region, left, right))
        else:
            stack += [(region, True), (region.parts[1], False), (region.parts[0], False)]
    return done.pop()


def _build_leaf(builder: CircuitBuilder, region: _Region) -> _Units:
    (variable,) = region.variables
    if not region.kept:
        return {(): builder.input(variable)}
    return {(value,): builder.input(variable, [value]) for value in range(builder.cardinalities[variable])}


def _join(builder: CircuitBuilder, region: _Region, left: _Units, right: _Units) -> _Units:
    """Group the products of all pairs of labels by the values of the region's own kept variables."""
    assert region.parts is not None
    kept_below = region.parts[0].kept + region.parts[1].kept
    position = [kept_below.index(variable) for variable in region.kept]
    groups: dict[tuple[int, ...], list[int]] = {
        label: [] for label in assignments(*(range(builder.cardinalities[v]) for v in region.kept))
    }
    joint = {a + b: None for a in left for b in right}
    for values in sorted(joint, key=lambda values: tuple(values[p] for p in position)):
        split = len(region.parts[0].kept)
        element = builder.product(left[values[:split]], right[values[split:]])
        groups[tuple(values[p] for p in position)].append(element)
    return {label: members[0] if len(members) == 1 else builder.sum(*members) for label, members in groups.items()}
