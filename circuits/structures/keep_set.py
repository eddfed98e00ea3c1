"""Keep-set circuits: a region tree whose labels are the values of the variables most coupled to the outside."""

from collections.abc import Iterable, Sequence
from itertools import product as assignments

import numpy as np

from circuits.circuit import Circuit, CircuitBuilder
from circuits.errors import StructureError
from circuits.structures.regions.coupling import coupling_of
from circuits.structures.regions.labels import Region, choose_labels, fit_labels
from circuits.structures.regions.trees import region_trees
from circuits.structures.size import check_size
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
        max_parameters: most parameters; the weakest couplings are let go until the circuit fits. None: none are, and
            a circuit of more than 2^22 is refused.

    Returns:
        A circuit with at most sum over regions of labels(left) * labels(right) parameters, plus the values of
        variables that are not kept.

    Raises:
        StructureError: labels below 1, an unknown shape, a scope that names an unknown variable, strengths that do
            not fit the scopes, fewer parameters allowed than mean field needs, or more than 2^22 wanted.
    Source: this project; it contains the structure of Shih and Ermon 2020 as the choice of the first variables.
    """
    cards = check_cardinalities(cardinalities)
    if labels < 1:
        raise StructureError(f"keep_set labels is {labels}; it must be at least 1.")
    if shape not in ("auto", "balanced", "chain"):
        raise StructureError(f"keep_set shape is {shape!r}; it must be 'auto', 'balanced' or 'chain'.")
    labels = min(labels, 2**64)  # no circuit has so many, and sizes are counted in floating point
    coupling = coupling_of(len(cards), scopes, strengths)
    most = np.inf if max_parameters is None else max_parameters
    if most < (least := sum(k for k in cards if k > 1)):
        raise StructureError(f"keep_set max_parameters is {max_parameters}, but mean field alone has {least}.")
    trees = region_trees(coupling, shape)
    found = [choose_labels(tree, cards, coupling, labels, 0.0) for tree in trees]
    # Rounded: trees that lose the same coupling differ in its last digits, and the smaller circuit should win.
    chosen = min(range(len(trees)), key=lambda i: (round(found[i].lost, 9), found[i].size))
    best = found[chosen]
    if best.size > most:
        best = fit_labels(trees[chosen], cards, coupling, labels, most)
    check_size("keep_set", best.size, "allow fewer labels, or give max_parameters")
    builder = CircuitBuilder(cards, name=f"keep_set(labels={labels})")
    units = _build(builder, best)
    return builder.build(units[()])


_Units = dict[tuple[int, ...], int]
"""Label (values of the kept variables, in increasing variable order) -> node."""


def _build(builder: CircuitBuilder, root: Region) -> _Units:
    """Build all regions bottom-up and return the root's nodes."""
    # A stack instead of recursion: a chain of 1,000 variables is a tree of depth 1,000.
    done: list[_Units] = []
    stack: list[tuple[Region, bool]] = [(root, False)]
    while stack:
        region, ready = stack.pop()
        if region.parts is None:
            (variable,) = region.variables
            values = range(builder.cardinalities[variable]) if region.kept else ()
            done.append({(value,): builder.input(variable, [value]) for value in values})
            if not region.kept:
                done[-1][()] = builder.input(variable)
        elif ready:
            right, left = done.pop(), done.pop()
            done.append(_join(builder, region, left, right))
        else:
            stack += [(region, True), (region.parts[1], False), (region.parts[0], False)]
    return done.pop()


def _join(builder: CircuitBuilder, region: Region, left: _Units, right: _Units) -> _Units:
    """Group the products of all pairs of labels by the values of the variables that the region keeps."""
    assert region.parts is not None
    kept_below = region.parts[0].kept + region.parts[1].kept
    split = len(region.parts[0].kept)
    # A pair of labels is written left part first, a label of this region in increasing variables: without the positions
    # a value would be read as another variable's whenever the parts interleave.
    position = [kept_below.index(variable) for variable in region.kept]
    groups: dict[tuple[int, ...], list[int]] = {
        label: [] for label in assignments(*(range(builder.cardinalities[v]) for v in region.kept))
    }

    def label_of(values: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(values[p] for p in position)

    # Products are made label by label: the children of one sum stand side by side, and the engine can fold them.
    for values in sorted((a + b for a in left for b in right), key=label_of):
        groups[label_of(values)].append(builder.product(left[values[:split]], right[values[split:]]))
    return {label: members[0] if len(members) == 1 else builder.sum(*members) for label, members in groups.items()}
