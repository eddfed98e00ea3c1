"""Bottleneck assignment: give each goal its own agent so that the largest cost is smallest."""

from itertools import permutations
from math import perm

import numpy as np
from jaxtyping import Int

MAX_TABLE = 720
"""Up to this many assignments (6 agents, 6 goals) all are tried at once, which is fastest."""
CHUNK_ELEMENTS = 4_000_000


def bottleneck_assignment(cost: Int[np.ndarray, "*batch agents goals"]) -> Int[np.ndarray, "*batch"]:
    """Return the smallest possible maximum cost over all ways to give each goal its own agent.

    value = min over injective a: goals -> agents of max over goals g of cost[a(g), g]

    Args:
        cost: whole numbers, shape (*batch, agents, goals), with agents >= goals >= 1.

    Returns:
        Exact optimum, shape (*batch,), in the unit of `cost`.

    Raises:
        ValueError: there are more goals than agents, or none at all.
    Cost: agents! / (agents - goals)! per row up to 720 of them; else a binary search over the
        distinct costs with one bipartite matching (Hopcroft-Karp) per probe.
    Source: Gross 1959 (threshold algorithm for the bottleneck assignment problem).
    """
    agents, goals = cost.shape[-2:]
    if not 1 <= goals <= agents:
        raise ValueError(f"bottleneck_assignment needs 1 <= goals <= agents, got {goals} and {agents}.")
    rows = cost.reshape(-1, agents, goals)
    by_table = perm(agents, goals) <= MAX_TABLE
    optimum = _by_enumeration(rows) if by_table else _by_threshold(rows)
    return optimum.reshape(cost.shape[:-2])


def _by_enumeration(cost: Int[np.ndarray, "rows agents goals"]) -> Int[np.ndarray, " rows"]:
    """Try every assignment, all rows of a chunk at once."""
    rows, agents, goals = cost.shape
    assignments = np.array(list(permutations(range(agents), goals)))
    optimum = np.empty(rows, cost.dtype)
    chunk = max(1, CHUNK_ELEMENTS // assignments.size)
    for start in range(0, rows, chunk):
        costs = cost[start : start + chunk, assignments, np.arange(goals)]
        optimum[start : start + chunk] = costs.max(axis=2).min(axis=1)
    return optimum


def _by_threshold(cost: Int[np.ndarray, "rows agents goals"]) -> Int[np.ndarray, " rows"]:
    """Find, row by row, the smallest threshold under which every goal can be matched."""
    # scipy takes longer to import than all the rest of this package, and small games never need it
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    optimum = np.empty(len(cost), cost.dtype)
    for row, table in enumerate(cost):
        levels = np.unique(table)
        low, high = 0, len(levels) - 1
        while low < high:
            middle = (low + high) // 2
            allowed = csr_array(table <= levels[middle])
            # perm_type="row": the agent of every goal, -1 where it has none
            if (maximum_bipartite_matching(allowed, perm_type="row") >= 0).all():
                high = middle
            else:
                low = middle + 1
        optimum[row] = levels[low]
    return optimum
