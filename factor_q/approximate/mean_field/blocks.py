"""Which variables structured mean field keeps together."""

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor

from circuits.errors import StructureError
from factor_q.factors import Factors
from factor_q.graph import FactorGraph

BlockRule = Literal["auto", "rows", "pairs", "chains", "trees"]
"""How to choose blocks."""


def choose_blocks(factors: Factors, rule: BlockRule | Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Return the blocks that a rule names; every variable is in exactly one.

    Args:
        factors: their graph, and for "chains" and "trees" the strength of their couplings.
        rule: as `blocks` of `structured_mean_field`; "chains" and "trees" join the strongest couplings first, as long
            as the factors inside every block form a chain or a tree. Lists are taken as they are.

    Raises:
        StructureError: the rule is unknown, or "rows" is asked for on something else than a grid.
    """
    graph = factors.graph
    if not isinstance(rule, str):
        return tuple(tuple(int(variable) for variable in block) for block in rule if len(block))
    columns = grid_columns(graph) if rule in ("auto", "rows") else None
    if columns is not None:
        return tuple(tuple(range(i, i + columns)) for i in range(0, graph.num_variables, columns))
    if rule == "pairs":
        return tuple(tuple(range(i, min(i + 2, graph.num_variables))) for i in range(0, graph.num_variables, 2))
    if rule in ("chains", "trees", "auto"):
        return _grow(factors, 2 if rule == "chains" else graph.num_variables)
    reason = "the interactions do not form a grid" if rule == "rows" else "there is no such rule"
    raise StructureError(
        f"structured_mean_field: blocks={rule!r}, but {reason}; choose 'auto', 'pairs', 'chains' or 'trees', "
        "or give lists of variables."
    )


def grid_columns(graph: FactorGraph) -> int | None:
    """Return the number of columns when the interactions are those of a grid numbered row by row, else None."""
    pairs = {pair for scope in graph.scopes for pair in combinations(sorted(scope), 2)}
    steps = {second - first for first, second in pairs}
    columns = max(steps, default=0)
    size = graph.num_variables
    if columns < 2 or size % columns or not steps <= {1, columns}:
        return None
    right = {(v, v + 1) for v in range(size) if (v + 1) % columns}
    down = {(v, v + columns) for v in range(size - columns)}
    return columns if pairs == right | down else None


def _grow(factors: Factors, most_neighbors: int) -> tuple[tuple[int, ...], ...]:
    """Join blocks over the strongest couplings, while one coupling is all that joins the two."""
    graph = factors.graph
    strengths = _strengths(factors)
    neighbors = {v: set(found) for v, found in graph.to_networkx().adjacency()}
    block = {v: [v] for v in range(graph.num_variables)}
    degree = [0] * graph.num_variables
    for first, second in sorted(strengths, key=lambda pair: (-strengths[pair], pair)):
        mine, theirs = block[first], block[second]
        if mine is theirs or max(degree[first], degree[second]) >= most_neighbors:
            continue
        small, large = sorted((mine, theirs), key=len)
        inside = set(large)
        if sum(len(neighbors[v] & inside) for v in small) != 1:
            continue
        joined = _oriented(mine, first, last=True) + _oriented(theirs, second, last=False)
        for v in joined:
            block[v] = joined
        degree[first] += 1
        degree[second] += 1
    return tuple(sorted({id(members): tuple(members) for members in block.values()}.values()))


def _oriented(members: list[int], variable: int, *, last: bool) -> list[int]:
    """Turn a chain round when that brings its end point next to the joint: equal chains then get equal graphs."""
    return members[::-1] if members[0 if last else -1] == variable else list(members)


def _strengths(factors: Factors) -> dict[tuple[int, int], float]:
    """Return for each pair in a factor how much the tables say about the two together, averaged over the batch.

    The measure is the spread of the table after its means along either variable are taken away; forbidden entries
    count as a low number of the size of the table.
    """
    found: dict[tuple[int, int], float] = {}
    for scope, table in factors:
        flat = table.detach().reshape(-1, *table.shape[len(factors.batch_shape) :])
        for first, second in combinations(range(len(scope)), 2):
            pair = (min(scope[first], scope[second]), max(scope[first], scope[second]))
            strength = float(_interaction(_finite(flat), first + 1, second + 1).mean()) if flat.shape[0] else 0.0
            found[pair] = max(found.get(pair, 0.0), strength)
    return found


def _finite(table: Tensor) -> Tensor:
    """Replace -inf by a low number of the size of the table."""
    blocked = table == -torch.inf
    highest = table.masked_fill(blocked, 0.0).abs().amax(tuple(range(1, table.ndim)), keepdim=True)
    return torch.where(blocked, -3 * highest - 10, table)


def _interaction(table: Tensor, first: int, second: int) -> Tensor:
    """Return the spread of the doubly centred table, for each row."""
    centered = table - table.mean(first, keepdim=True)
    centered = centered - centered.mean(second, keepdim=True)
    return centered.flatten(1).amax(1) - centered.flatten(1).amin(1)
