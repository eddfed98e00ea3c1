"""Place the boxes of a layered picture: ranks from the top, few crossings, straight routes for long edges."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import networkx as nx
import numpy as np
from jaxtyping import Float

_SWEEPS = 12
_GAP_X = 0.16
"""Free inches between neighbours in a layer."""
_ROUTE_WIDTH = 0.1
_SMALLEST_GAP_Y, _LARGEST_GAP_Y = 0.62, 1.9


@dataclass(frozen=True)
class Layout:
    """Where everything is, in inches, with y pointing up and the top layer at y = 0."""

    centers: Float[np.ndarray, "boxes 2"]
    routes: tuple[Float[np.ndarray, "_ 2"], ...]
    """For each edge, the points it passes: parent, one point per layer in between, child."""
    layers: tuple[tuple[int, ...], ...]
    """Boxes of each layer from left to right."""


def layered_layout(sizes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int]]) -> Layout:
    """Return the places of boxes in layers, every parent above its children.

    Layers are longest distances from the top; an edge that skips layers gets a bend in each. Crossings are reduced by
    barycentre sweeps (Sugiyama, Tagawa and Toda 1981); then every box moves as near to the mean of its neighbours as
    the boxes beside it allow. The result depends on the arguments only.

    Args:
        sizes: width and height of each box, in inches.
        edges: (parent, child) pairs; a child's number is lower than its parent's.
    """
    graph = _Layers(sizes, edges)
    graph.reduce_crossings()
    x = graph.place_x()
    y = graph.place_y(x)
    points = np.stack([x, y[graph.rank]], axis=1)
    layers = tuple(tuple(v for v in layer if v < len(sizes)) for layer in graph.order)
    return Layout(points[: len(sizes)], tuple(points[chain] for chain in graph.chains), layers)


class _Layers:
    """The graph cut into unit steps: boxes first, then the bends of long edges."""

    def __init__(self, sizes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int]]) -> None:
        self.width = [width for width, _ in sizes]
        self.height = [height for _, height in sizes]
        graph = nx.DiGraph(edges)
        graph.add_nodes_from(range(len(sizes)))
        rank_of = {vertex: rank for rank, layer in enumerate(nx.topological_generations(graph)) for vertex in layer}
        self.rank = [rank_of[vertex] for vertex in range(len(sizes))]
        self.chains: list[list[int]] = []
        for parent, child in edges:
            # Long edges become chains of unit steps with an invisible vertex in every layer between: only so can a
            # sweep that looks at neighbouring layers see that a long edge crosses something, and keep room for it.
            bends = range(len(self.rank), len(self.rank) + self.rank[child] - self.rank[parent] - 1)
            self.rank += range(self.rank[parent] + 1, self.rank[child])
            self.width += [_ROUTE_WIDTH] * len(bends)
            self.height += [0.0] * len(bends)
            self.chains.append([parent, *bends, child])
        self.below: list[list[int]] = [[] for _ in self.rank]
        self.above: list[list[int]] = [[] for _ in self.rank]
        for upper, lower in (step for chain in self.chains for step in pairwise(chain)):
            self.below[upper].append(lower)
            self.above[lower].append(upper)
        self.order = self._first_order()

    def _first_order(self) -> list[list[int]]:
        """Order each layer as a depth-first walk from the top meets it."""
        order: list[list[int]] = [[] for _ in range(max(self.rank) + 1)]
        walk = nx.DiGraph((-1, v) for v in reversed(range(len(self.rank))) if not self.above[v])  # -1 is above all
        walk.add_edges_from((v, child) for v, below in enumerate(self.below) for child in below)
        for vertex in list(nx.dfs_preorder_nodes(walk, -1))[1:]:
            order[self.rank[vertex]].append(vertex)
        return order

    def reduce_crossings(self) -> None:
        """Sort layers by the mean place of their neighbours, down and up in turn, and keep the best order seen."""
        best, fewest = [list(layer) for layer in self.order], self.crossings()
        for sweep in range(_SWEEPS):
            if fewest == 0:
                break
            down = sweep % 2 == 0
            ranks = range(1, len(self.order)) if down else range(len(self.order) - 2, -1, -1)
            for rank in ranks:
                self._sort(rank, self.above if down else self.below, rank - 1 if down else rank + 1)
            crossings = self.crossings()
            if crossings < fewest:
                best, fewest = [list(layer) for layer in self.order], crossings
        self.order = best

    def _sort(self, rank: int, neighbours: list[list[int]], fixed: int) -> None:
        place = {vertex: position for position, vertex in enumerate(self.order[fixed])}
        before = {vertex: position for position, vertex in enumerate(self.order[rank])}

        def key(vertex: int) -> tuple[float, int]:
            near = [place[other] for other in neighbours[vertex]]
            # Rounded, so that equal means tie on every machine; ties keep their order, or sweeps would go round in
            # circles.
            return round(sum(near) / len(near), 9) if near else float(before[vertex]), before[vertex]

        self.order[rank].sort(key=key)

    def crossings(self) -> int:
        """Count the pairs of steps that cross."""
        total = 0
        for upper, lower in pairwise(self.order):
            place = {vertex: position for position, vertex in enumerate(lower)}
            ends = [(i, place[v]) for i, vertex in enumerate(upper) for v in self.below[vertex]]
            if ends:
                a, b = np.array(sorted(ends)).T
                # Two steps cross when one begins to the left of the other and ends to its right; the strict signs leave
                # out steps that share an end.
                total += int(((a[:, None] < a) & (b[:, None] > b)).sum())
        return total

    def place_x(self) -> Float[np.ndarray, " vertices"]:
        """Return x coordinates: near the neighbours, in order, without overlap."""
        width = np.array(self.width)
        x = np.zeros(len(width))
        for layer in self.order:
            x[layer] = _apart(np.zeros(len(layer)), width[layer])
        for sweep in range(2 * _SWEEPS):
            ranks = range(len(self.order)) if sweep % 2 == 0 else reversed(range(len(self.order)))
            for rank in ranks:
                layer = self.order[rank]
                wanted = [float(np.mean(x[self.above[v] + self.below[v]])) if len(x) > 1 else 0.0 for v in layer]
                x[layer] = _apart(np.array(wanted), width[layer])
        return x

    def place_y(self, x: Float[np.ndarray, " vertices"]) -> Float[np.ndarray, " layers"]:
        """Return the y coordinate of each layer; wide and tangled steps get more height, so that lines stay apart."""
        heights = [max(self.height[v] for v in layer) for layer in self.order]
        y = [0.0]
        for rank, layer in enumerate(self.order[:-1]):
            reach = max(abs(x[v] - x[w]) for v in layer for w in self.below[v])
            tangle = max(len(self.below[v]) for v in layer) * max(len(self.above[v]) for v in self.order[rank + 1])
            gap = float(np.clip(max(0.34 * reach, 0.15 * tangle), _SMALLEST_GAP_Y, _LARGEST_GAP_Y))
            y.append(y[-1] - (heights[rank] + heights[rank + 1]) / 2 - gap)
        return np.array(y)


def _apart(wanted: Float[np.ndarray, " boxes"], width: Float[np.ndarray, " boxes"]) -> Float[np.ndarray, " boxes"]:
    """Return the places nearest to the wanted ones, in squares, that keep the order and a gap."""
    from scipy.optimize import isotonic_regression

    # Without its least distance from the first, every box only has to stand no further left than the one before: that
    # is isotonic regression.
    offset = np.concatenate([[0.0], np.cumsum((width[1:] + width[:-1]) / 2 + _GAP_X)])
    return isotonic_regression(wanted - offset).x + offset
