"""Chow-Liu: the tree-shaped distribution closest to the data."""

from collections.abc import Sequence
from math import log
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.errors import StructureError
from circuits.learning.data import check_smoothing, complete_rows
from circuits.learning.maximum_likelihood import maximum_likelihood
from circuits.numerics import entropy_of
from circuits.structures import tree
from circuits.variables import check_cardinalities, value_offsets


def chow_liu(
    data: Tensor,
    cardinalities: Sequence[int],
    *,
    weights: Tensor | None = None,
    smoothing: float = 1.0,
    penalty: float = 0.0,
) -> list[int]:
    """Return the parents of the tree of largest total mutual information, which is the most likely tree.

    Args:
        data: integers, shape (rows, variables).
        cardinalities: number of values of each variable.
        weights: how often each row counts, shape (rows,), at least 0; one each when None.
        smoothing: rows spread evenly over the joint values of each pair before information is measured.
        penalty: an edge must gain more than `penalty * (k_i - 1)(k_j - 1) log(rows) / 2` nats of log-likelihood.
            0 gives the classic tree, 1 the forest of largest BIC score.

    Returns:
        For each variable its parent or -1, as `structures.tree` takes them; variable 0 is a root.

    Raises:
        EvidenceError: malformed data or weights, or missing values.
        StructureError: a negative penalty.
    Cost: O(rows K^2) time and O(K^2) memory, K the sum of the cardinalities; O(variables^2) for the tree.
    Source: Chow and Liu 1968.

    Example:
        >>> import torch, circuits
        >>> same = torch.tensor([[0, 0, 1], [1, 1, 0], [0, 0, 0], [1, 1, 1]])
        >>> circuits.learning.chow_liu(same, [2, 2, 2], penalty=1.0)
        [-1, 0, -1]
    """
    cards = check_cardinalities(cardinalities)
    way_out = "Drop or fill those rows, or fix a structure and use learning.expectation_maximization(...)."
    values, row_weights = complete_rows(data, cards, "Chow-Liu", way_out, weights=weights)
    check_smoothing(smoothing)
    price = parameter_price(penalty, row_weights)
    counts = pair_counts(values, cards, row_weights)
    return spanning_forest(forest_gains(counts, cards, smoothing=smoothing, price=price).edges)


def chow_liu_tree(
    data: Tensor,
    cardinalities: Sequence[int],
    *,
    weights: Tensor | None = None,
    smoothing: float = 1.0,
    penalty: float = 0.0,
) -> tuple[Circuit, Float[Tensor, "parameters"]]:
    """Return the Chow-Liu tree of the data as a deterministic circuit, with its most likely logits.

    Arguments and errors are those of `chow_liu`; `smoothing` also goes to `maximum_likelihood`.

    Returns:
        The circuit of `structures.tree`, and normalised log weights in float64, shape (parameters,).
    """
    parents = chow_liu(data, cardinalities, weights=weights, smoothing=smoothing, penalty=penalty)
    circuit = tree(cardinalities, parents)
    return circuit, maximum_likelihood(circuit, data, weights=weights, smoothing=smoothing)


def parameter_price(penalty: float, weights: Tensor) -> float:
    """Return what one free parameter costs in nats: penalty * log(rows) / 2, and nothing below one row."""
    if not 0 <= penalty < float("inf"):
        raise StructureError(f"structure learning got penalty {penalty}; it is at least 0 (1 is BIC).")
    return penalty * max(0.0, log(float(weights.sum()))) / 2


class ForestGains(NamedTuple):
    """Penalised log-likelihood, in nats, of independent variables and of each edge added to them."""

    alone: np.ndarray
    """Shape (variables,): -rows * entropy, less the price of the parameters."""
    edges: np.ndarray
    """Shape (variables, variables): rows * mutual information, less the price."""


def pair_counts(data: Tensor, cards: Sequence[int], weights: Tensor) -> Tensor:
    """Return how often each pair of values occurs together, shape (values, values); the diagonal counts values."""
    offsets = torch.as_tensor(value_offsets(cards)[:-1], device=data.device)
    counts = torch.zeros(sum(cards), sum(cards), dtype=torch.float64, device=data.device)
    # Rows of indicators of all values: with them every pair is one matrix product, but all rows at once would not fit.
    for part, part_weights in zip(data.split(4096), weights.split(4096), strict=True):
        seen = torch.zeros(len(part), sum(cards), dtype=torch.float64, device=data.device)
        seen.scatter_(1, part + offsets, 1.0)
        counts += seen.T @ (seen * part_weights.unsqueeze(1))
    return counts


def forest_gains(counts: Tensor, cards: Sequence[int], *, smoothing: float, price: float) -> ForestGains:
    """Return the scores of variables and edges from pair counts.

    Args:
        counts: from `pair_counts`.
        cards: number of values of each variable.
        smoothing: rows spread evenly over the values of each pair.
        price: nats that one free parameter costs.
    """
    sizes = torch.tensor(cards, dtype=torch.float64, device=counts.device)
    owner = torch.arange(len(cards), device=counts.device).repeat_interleave(sizes.long())
    member = torch.nn.functional.one_hot(owner, len(cards)).to(torch.float64)
    # The values of one variable together count every row once.
    rows = float(counts.diagonal()[: cards[0]].sum())
    total = max(rows + smoothing, torch.finfo(torch.float64).tiny)
    share = 1.0 / sizes[owner]
    single = entropy_of((counts.diagonal() + smoothing * share) / total) @ member
    pairs = entropy_of((counts + smoothing * share * share.unsqueeze(1)) / total)
    information = single + single.unsqueeze(1) - member.T @ pairs @ member
    free = sizes - 1
    alone = -rows * single - price * free
    edges = rows * information.clamp_min(0.0) - price * free * free.unsqueeze(1)
    return ForestGains(alone.cpu().numpy(), edges.cpu().numpy())


def spanning_forest(gains: np.ndarray) -> list[int]:
    """Return parents of the forest of largest total gain, rooted at variable 0; edges of negative gain are left out.

    Cost: O(variables^2).
    Source: Prim 1957.
    """
    count = len(gains)
    parents = [-1] * count
    best, link = np.full(count, -np.inf), np.full(count, -1)
    waiting = np.ones(count, dtype=np.bool_)
    for _ in range(count):
        # The first variable of the largest gain; variable 0 when nothing is linked yet.
        current = int(np.where(waiting, best, -np.inf).argmax()) if not waiting.all() else 0
        waiting[current] = False
        if best[current] >= 0:
            parents[current] = int(link[current])
        closer = waiting & (gains[current] > best)
        best[closer], link[closer] = gains[current][closer], current
    return parents
