"""Keep-set circuits: a region tree whose labels are the values of the variables most coupled to the outside."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product as assignments
from math import prod

import numpy as np

from circuits.circuit import Circuit, CircuitBuilder
from circuits.errors import StructureError
from circuits.structures.regions.trees import RegionTree, coupling_of, region_trees
from circuits.variables import check_cardinalities


def keep_set(
    cardinalities: Sequence[int],
    scopes: Iterable[Sequence[int]] | None = None,
    *,
    labels: int = 16,
    shape: str = "auto",
    strengths: Sequence[float] | None = None,
    max_parameters: int | None = None,
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
        strengths: how strong the coupling of each scope is, not negative; all equal when None.
        max_parameters: most parameters; the weakest couplings are let go until the circuit fits. None: no limit.

    Returns:
        A circuit with at most sum over regions of labels(left) * labels(right) parameters, plus the values of
        variables that are not kept.

    Raises:
        StructureError: labels below 1, an unknown shape, a scope that names an unknown variable, strengths that do
            not fit the scopes, or fewer parameters allowed than mean field needs.
    Source: this project; it contains the structure of Shih and Ermon 2020 as the choice of the first variables.
    """
    cards = check_cardinalities(cardinalities)
    if labels < 1:
        raise StructureError(f"keep_set labels is {labels}; it must be at least 1.")
    if shape not in ("auto", "balanced", "chain"):
        raise StructureError(f"keep_set shape is {shape!r}; it must be 'auto', 'balanced' or 'chain'.")
    coupling = coupling_of(len(cards), scopes, strengths, "keep_set")
    most = np.inf if max_parameters is None else max_parameters
    if most < (least := sum(k for k in cards if k > 1)):
        raise StructureError(f"keep_set max_parameters is {max_parameters}, but mean field alone has {least}.")
    trees = region_trees(coupling, shape)
    found = [_choose_labels(tree, cards, coupling, labels, 0.0) for tree in trees]
    chosen = min(range(len(trees)), key=lambda i: (round(found[i].lost, 9), found[i].size))
    best = found[chosen]
    if best.size > most:
        best = _fit_labels(trees[chosen], cards, coupling, labels, most)
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
    """Parameters of the region and its parts, at most."""


def _fit_labels(tree: RegionTree, cards: tuple[int, ...], coupling: np.ndarray, labels: int, most: float) -> _Region:
    """Choose labels so that the circuit fits: by bisection, the least coupling below which no variable is kept."""
    low, high = 0.0, float(coupling.sum(1).max())
    best = _choose_labels(tree, cards, coupling, labels, high)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        found = _choose_labels(tree, cards, coupling, labels, middle)
        if found.size <= most:
            best, high = found, middle
        else:
            low = middle
    return best


_BISECTIONS = 16


def _choose_labels(
    tree: RegionTree, cards: tuple[int, ...], coupling: np.ndarray, labels: int, weakest: float
) -> _Region:
    """Choose each region's kept variables bottom-up: strongest outgoing coupling first, while the labels fit.

    Iterative, because a chain of 1,000 variables is a tree of depth 1,000.
    """
    done: list[_Region] = []
    stack: list[tuple[RegionTree, bool]] = [(tree, False)]
    while stack:
        node, ready = stack.pop()
        if isinstance(node, int):
            done.append(_label((node,), (node,), None, cards, coupling, labels, weakest))
        elif ready:
            right, left = done.pop(), done.pop()
            variables = left.variables + right.variables
            done.append(_label(variables, left.kept + right.kept, (left, right), cards, coupling, labels, weakest))
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
    weakest: float,
) -> _Region:
    outside = np.ones(len(cards), dtype=np.bool_)
    outside[list(variables)] = False
    pull = coupling[list(variables)][:, outside].sum(1) if outside.any() else np.zeros(len(variables))
    strength = dict(zip(variables, pull.tolist(), strict=True))
    kept: list[int] = []
    for variable in sorted(candidates, key=lambda v: (-strength[v], v)):
        if strength[variable] > weakest and prod(cards[v] for v in kept) * cards[variable] <= labels:
            kept.append(variable)
    lost = sum(strength.values()) - sum(strength[v] for v in kept)
    if parts is None:
        size = 0.0 if kept or cards[variables[0]] == 1 else float(cards[variables[0]])
    else:
        size = _num_labels(parts[0], cards) * _num_labels(parts[1], cards)
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
