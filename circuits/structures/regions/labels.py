"""Labels of regions: of which variables a region tells its values to the outside."""

from dataclasses import dataclass
from math import prod

import numpy as np

from circuits.structures.regions.trees import RegionTree

_BISECTIONS = 16


@dataclass
class Region:
    """A set of variables, its two parts, and the variables whose values are its labels."""

    variables: tuple[int, ...]
    kept: tuple[int, ...]
    parts: "tuple[Region, Region] | None"
    lost: float
    """Coupling to the outside of variables that are not kept, summed over the region and its parts."""
    size: float
    """Parameters of the region and its parts, at most."""


def choose_labels(
    tree: RegionTree, cards: tuple[int, ...], coupling: np.ndarray, labels: int, weakest: float
) -> Region:
    """Choose each region's kept variables bottom-up: strongest outgoing coupling first, while the labels fit.

    Iterative, because a chain of 1,000 variables is a tree of depth 1,000.
    """

    def label(
        variables: tuple[int, ...], candidates: tuple[int, ...], parts: tuple[Region, Region] | None = None
    ) -> Region:
        # Only what the parts kept can be kept here: the other variables are summed out below and have no label to read.
        # `pull` is how strongly each variable is tied to variables outside, which is all that a label has to remember.
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
            # A leaf that keeps its variable is an indicator for each value, without parameters.
            size = 0.0 if kept or cards[variables[0]] == 1 else float(cards[variables[0]])
        else:
            # At most: pairs that alone carry a label need no sum.
            size = float(prod(cards[v] for part in parts for v in part.kept))
        for part in parts or ():
            lost, size = lost + part.lost, size + part.size
        return Region(variables, tuple(sorted(kept)), parts, lost, size)

    done: list[Region] = []
    stack: list[tuple[RegionTree, bool]] = [(tree, False)]
    while stack:
        node, ready = stack.pop()
        if isinstance(node, int):
            done.append(label((node,), (node,)))
        elif ready:
            right, left = done.pop(), done.pop()
            done.append(label(left.variables + right.variables, left.kept + right.kept, (left, right)))
        else:
            stack += [(node, True), (node[1], False), (node[0], False)]
    return done.pop()


def fit_labels(tree: RegionTree, cards: tuple[int, ...], coupling: np.ndarray, labels: int, most: float) -> Region:
    """Choose labels so that the circuit fits: by bisection, the least coupling below which no variable is kept."""
    # The size falls as `weakest` rises, in steps. `high` fits at any time (nothing is kept where the pull is not above
    # the strongest of all, which is mean field), so `best` is always a circuit that fits.
    low, high = 0.0, float(coupling.sum(1).max())
    best = choose_labels(tree, cards, coupling, labels, high)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        found = choose_labels(tree, cards, coupling, labels, middle)
        if found.size <= most:
            best, high = found, middle
        else:
            low = middle
    return best
