"""Colour classes: variables that share no factor, so that they can be updated at once and still one after the other."""

from collections.abc import Iterable, Mapping
from functools import lru_cache

import networkx

from factor_q.graph import FactorGraph


@lru_cache(maxsize=256)
def color_classes(graph: FactorGraph) -> tuple[tuple[int, ...], ...]:
    """Return the variables of each colour; no two of one colour appear in the same factor.

    Greedy, variables with most neighbours first.

    Example:
        >>> color_classes(FactorGraph([2, 2, 2], [(0, 1), (1, 2)]))
        ((0, 2), (1,))
    """
    neighbors = {v: set(found) for v, found in graph.to_networkx().adjacency()}
    colors = greedy_colors(neighbors)
    classes: list[list[int]] = [[] for _ in range(max(colors.values(), default=-1) + 1)]
    for variable in range(graph.num_variables):
        classes[colors[variable]].append(variable)
    return tuple(sorted(tuple(members) for members in classes))


def greedy_colors(neighbors: Mapping[int, Iterable[int]]) -> dict[int, int]:
    """Return a small colour for each node, different from those of its neighbours."""
    colors: dict[int, int] = {}
    degrees = {node: sum(1 for _ in found) for node, found in neighbors.items()}
    for node in sorted(neighbors, key=lambda node: (-degrees[node], node)):
        used = {colors[other] for other in neighbors[node] if other in colors}
        colors[node] = next(color for color in range(len(used) + 1) if color not in used)
    return colors


@lru_cache(maxsize=256)
def breadth_first_levels(graph: FactorGraph) -> tuple[tuple[int, ...], ...]:
    """Return the variables in steps: two that share a factor are in different steps, in breadth-first order.

    On a tree the steps are the distances from a centre. A variable joins the first step after those of its
    neighbours that come earlier in the breadth-first order.
    """
    interactions = graph.to_networkx()
    step: dict[int, int] = {}
    for component in networkx.connected_components(interactions):
        root = max(component, key=lambda variable: (interactions.degree[variable], -variable))
        for variable in [root, *(child for _, child in networkx.bfs_edges(interactions, root))]:
            earlier = [step[other] for other in interactions.neighbors(variable) if other in step]
            step[variable] = 1 + max(earlier, default=-1)
    count = max(step.values(), default=-1) + 1
    return tuple(tuple(sorted(v for v, at in step.items() if at == level)) for level in range(count))
