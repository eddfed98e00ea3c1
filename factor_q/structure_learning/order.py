"""Agent order: place strongly coupled agents next to each other, and the tree that couples them most."""

import networkx
import numpy as np
import torch
from torch import Tensor

from circuits.errors import StructureError
from circuits.learning.chow_liu import spanning_forest
from circuits.structures.regions.coupling import spectral_order
from factor_q.graph import FactorGraph

_EXACT_UP_TO = 12
"""Agents up to which all orders are compared, by dynamic programming over sets: 2^12 of them."""


def agent_order(weights: FactorGraph | Tensor) -> tuple[int, ...]:
    """Return an order of the agents that keeps strongly coupled ones close, for chains and decision diagrams.

    The cost of an order is `order_cost`, the sum over pairs of strength * distance. For up to 12 agents the order has
    the lowest cost there is. Beyond, it starts from 0, 1, 2, ... and from the spectral order of each connected part
    (by the Fiedler vector of its Laplacian), moves one agent at a time to where it costs least while the cost falls,
    and takes the better end: a local optimum, never worse than either start.

    Args:
        weights: symmetric strengths of at least 0, shape (n, n), the diagonal ignored, such as `coupling` returns; or
            a graph, whose pairs of variables in a common scope have strength 1.

    Returns:
        Agents, first to last; of an order and its reverse the one with the smaller first agent.

    Raises:
        StructureError: the strengths are not a finite, symmetric, non-negative matrix.
    Cost: O(2^n n) for up to 12 agents; otherwise O(n^3) per sweep over the agents.
    Source: minimum linear arrangement; spectral order after Juvan & Mohar 1992.

    Example:
        >>> agent_order(FactorGraph([2] * 4, [(2, 0), (0, 3), (3, 1)]))
        (1, 3, 0, 2)
    """
    strengths = _strengths(weights)
    n = len(strengths)
    if n <= _EXACT_UP_TO:
        order = _best_order(strengths)
    else:
        starts = (list(range(n)), _spectral_order(strengths))
        order = min((_refined(start, strengths) for start in starts), key=lambda found: _cost(strengths, found))
    return tuple(order if not order or order[0] < order[-1] else order[::-1])


def order_cost(weights: FactorGraph | Tensor, order: tuple[int, ...]) -> float:
    """Return the sum over pairs of agents of strength * number of places between them; see `agent_order`.

    Raises:
        StructureError: malformed strengths, or the order does not name each agent once.
    """
    strengths = _strengths(weights)
    if sorted(order) != list(range(len(strengths))):
        raise StructureError(f"order_cost: the order {tuple(order)} must name each of {len(strengths)} agents once.")
    return _cost(strengths, list(order))


def chow_liu_parents(weights: FactorGraph | Tensor) -> list[int]:
    """Return the parents of the spanning forest of largest total strength, as `circuits.structures.tree` takes them.

    Args:
        weights: as in `agent_order`; pairs of strength 0 are never joined. With the pairwise mutual information of a
            distribution as strengths this is its Chow-Liu tree.

    Returns:
        For each agent its parent, or -1 for a root; the lowest agent of each connected part is its root.

    Raises:
        StructureError: the strengths are not a finite, symmetric, non-negative matrix.
    Cost: O(n^2).
    Source: Chow & Liu 1968; Prim 1957.

    Example:
        >>> chow_liu_parents(torch.tensor([[0.0, 3.0, 2.0], [3.0, 0.0, 1.0], [2.0, 1.0, 0.0]]))
        [-1, 0, 0]
    """
    strengths = _strengths(weights)
    return spanning_forest(np.where(strengths > 0, strengths, -np.inf))


def _strengths(weights: FactorGraph | Tensor) -> np.ndarray:
    """Return the strengths in float64, the diagonal zero, or raise."""
    if isinstance(weights, FactorGraph):
        return networkx.to_numpy_array(weights.to_networkx())
    if weights.dim() != 2 or weights.shape[0] != weights.shape[1]:
        raise StructureError(f"strengths have shape {tuple(weights.shape)}; give one matrix (agents, agents).")
    result = weights.detach().cpu().to(torch.float64).numpy().copy()
    np.fill_diagonal(result, 0.0)
    if not (np.isfinite(result).all() and (result >= 0).all()):
        first, second = np.argwhere(~(np.isfinite(result) & (result >= 0)))[0].tolist()
        raise StructureError(
            f"the strength of agents {first} and {second} is {result[first, second]}; strengths are finite and at "
            "least 0."
        )
    if not np.allclose(result, result.T):
        raise StructureError("the strengths are not symmetric; give (strengths + strengths.T) / 2.")
    return (result + result.T) / 2


def _cost(strengths: np.ndarray, order: list[int]) -> float:
    places = np.argsort(order)
    return float((strengths * np.abs(places[:, None] - places[None, :])).sum() / 2)


def _best_order(strengths: np.ndarray) -> list[int]:
    """Return an order of lowest cost, which is the sum over all cuts of the order of the strengths that cross them."""
    n = len(strengths)
    members = (np.arange(1 << n)[:, None] >> np.arange(n)) & 1
    cuts = ((members @ strengths) * (1 - members)).sum(1)
    best, last = np.full(1 << n, np.inf), np.zeros(1 << n, dtype=np.int64)
    best[0] = 0.0
    for size in range(1, n + 1):
        sets = np.flatnonzero(members.sum(1) == size)
        for agent in range(n):
            own = sets[members[sets, agent] == 1]
            value = best[own ^ (1 << agent)] + cuts[own]
            better = own[value < best[own]]
            best[better], last[better] = value[value < best[own]], agent
    order: list[int] = []
    left = (1 << n) - 1
    while left:
        order.append(int(last[left]))
        left ^= 1 << order[-1]
    return order[::-1]


def _spectral_order(strengths: np.ndarray) -> list[int]:
    """Return the connected parts one after the other, each sorted by its Fiedler vector."""
    order: list[int] = []
    for part in networkx.connected_components(networkx.from_numpy_array(strengths)):
        agents = sorted(part)
        # The slope that breaks its ties is meant for strengths around one.
        near = strengths[np.ix_(agents, agents)]
        order += [agents[i] for i in spectral_order(near / (near.max() or 1.0))]
    return order


def _refined(order: list[int], strengths: np.ndarray) -> list[int]:
    """Move agents one at a time to their cheapest place until no move helps."""
    cost, improved = _cost(strengths, order), True
    while improved:
        improved = False
        for agent in list(order):
            moved = _moved(order, agent, strengths)
            value = _cost(strengths, moved)
            if value < cost:
                order, cost, improved = moved, value, True
    return order


def _moved(order: list[int], agent: int, strengths: np.ndarray) -> list[int]:
    """Return the order with one agent at its cheapest place."""
    rest = [other for other in order if other != agent]
    count = len(rest)
    own = strengths[np.ix_(rest, rest)]
    # Putting the agent at place p lengthens every pair of others on both sides of it by one.
    left = np.concatenate([[0.0], np.cumsum(np.triu(own).sum(1) - np.tril(own).sum(1))])
    place, position = np.arange(count + 1)[:, None], np.arange(count)[None, :]
    distance = np.where(position >= place, position + 1 - place, place - position)
    best = int((left + distance @ strengths[agent, rest]).argmin())
    return [*rest[:best], agent, *rest[best:]]
