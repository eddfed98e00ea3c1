"""Spanning forests that together cover all edges, and the log-partition functions of all of them in one sweep."""

from functools import lru_cache
from typing import NamedTuple

import networkx
import numpy
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.numerics import logsumexp
from factor_q.graph import Scope


class Level(NamedTuple):
    """Nodes of all forests at one distance from their roots; a node is a pair (forest, variable)."""

    variables: Int[Tensor, "nodes"]
    arcs: Int[Tensor, "nodes"]
    """Edge to the parent: e when the child is the edge's first variable, e + E when it is the second. Unused at 0."""
    parents: Int[Tensor, "nodes"]
    """Place of the parent in the level above. Unused at distance 0."""


class Forests(NamedTuple):
    """A few spanning forests of one graph."""

    levels: tuple[Level, ...]
    """Roots first."""
    root_forests: Int[Tensor, "roots"]
    """Forest of each root."""
    covers: Float[Tensor, "forests edges"]
    """1 where a forest has an edge."""


@lru_cache(maxsize=64)
def spanning_forests(num_variables: int, edges: tuple[Scope, ...], least: int, device: torch.device) -> Forests:
    """Choose at least `least` spanning forests, more when needed to have every edge in one.

    Each forest takes the edges that were used least so far, ties broken by a fixed random order.
    """
    graph = networkx.empty_graph(num_variables)
    graph.add_edges_from((*scope, {"edge": edge}) for edge, scope in enumerate(edges))
    attributes = [graph.edges[scope] for scope in edges]
    rng = numpy.random.default_rng(0)
    uses = numpy.zeros(len(edges))
    chosen: list[networkx.Graph] = []
    # The table of an edge is shared out among the forests that have it: an edge in none would be divided by zero.
    while len(chosen) < max(least, 1) or (len(edges) and uses.min() == 0):
        for rank, edge in enumerate(numpy.lexsort((rng.random(len(edges)), uses)).tolist()):
            attributes[edge]["weight"] = rank
        chosen.append(networkx.minimum_spanning_tree(graph))
        uses[_edges_of(chosen[-1])] += 1
    levels: list[list[tuple[int, int, int]]] = [[]]
    roots: list[int] = []
    covers = torch.zeros(len(chosen), len(edges), dtype=torch.float64)
    for number, forest in enumerate(chosen):
        covers[number, _edges_of(forest)] = 1.0
        for component in networkx.connected_components(forest):
            roots.append(number)
            _place(levels, forest, _middle(forest, min(component)), edges)
    with torch.inference_mode(False):
        tensors = [torch.tensor(level, dtype=torch.long, device=device).reshape(-1, 3).t() for level in levels]
        roots_tensor = torch.tensor(roots, dtype=torch.long, device=device)
        return Forests(tuple(Level(*rows.unbind(0)) for rows in tensors), roots_tensor, covers.to(device))


def forest_log_partitions(
    forests: Forests,
    nodes: Float[Tensor, "*batch variables values"],
    arcs: Float[Tensor, "*batch arcs values values"],
) -> Float[Tensor, "*batch forests"]:
    """Return log Z of every forest, exactly, by passing messages from the leaves to the roots.

    Args:
        forests: which edges each forest has.
        nodes: log weights of each variable, the same in all forests; -inf beyond its values.
        arcs: log weights of each edge, first variable first, followed by all of them transposed.
    """
    # All trees of all forests move together, one tensor step a level, however many they are.
    incoming: Tensor | None = None
    for depth in range(len(forests.levels) - 1, 0, -1):
        level, above = forests.levels[depth], forests.levels[depth - 1]
        own = nodes.index_select(-2, level.variables)
        own = own if incoming is None else own + incoming
        message = logsumexp(arcs.index_select(-3, level.arcs) + own.unsqueeze(-1), -2)
        shape = (*message.shape[:-2], len(above.variables), message.shape[-1])
        incoming = message.new_zeros(shape).index_add(-2, level.parents, message)
    own = nodes.index_select(-2, forests.levels[0].variables)
    totals = logsumexp(own if incoming is None else own + incoming, -1)
    shape = (*totals.shape[:-1], len(forests.covers))
    return totals.new_zeros(shape).index_add(-1, forests.root_forests, totals)


def _edges_of(forest: networkx.Graph) -> list[int]:
    return [edge for _, _, edge in forest.edges(data="edge")]


def _middle(forest: networkx.Graph, start: int) -> int:
    """Return the middle of a longest path of a tree: rooted there it is as low as possible."""
    far = list(networkx.bfs_tree(forest, start))[-1]
    path = max(networkx.single_source_shortest_path(forest, far).values(), key=len)
    return path[len(path) // 2]


def _place(
    levels: list[list[tuple[int, int, int]]], forest: networkx.Graph, root: int, edges: tuple[Scope, ...]
) -> None:
    """Append the nodes of one tree to the levels, breadth first."""
    levels[0].append((root, 0, 0))
    place = {root: (0, len(levels[0]) - 1)}
    for parent, child in networkx.bfs_edges(forest, root):
        depth, at = place[parent]
        if len(levels) == depth + 1:
            levels.append([])
        edge = forest.edges[parent, child]["edge"]
        arc = edge if edges[edge][0] == child else edge + len(edges)
        place[child] = (depth + 1, len(levels[depth + 1]))
        levels[depth + 1].append((child, arc, at))
