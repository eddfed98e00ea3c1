"""Ising models on grids with random couplings and no fields, as Factors."""

from typing import Literal

import numpy as np
import torch

from factor_q import FactorGraph, Factors


def ising_grid(
    rows: int,
    columns: int,
    strength: float,
    *,
    seed: int = 1,
    mode: Literal["mixed", "ferromagnetic"] = "mixed",
) -> Factors:
    """Return f(u) = sum over neighbours of w_ij x_i x_j with spins x = 2 u - 1 in {-1, +1}.

    Variable `row * columns + column` is the site; each site is a neighbour of those to the right and below. One
    coupling is drawn for each edge by numpy's default_rng(seed), sites row by row, the edge to the right first.

    Args:
        rows: at least 1.
        columns: at least 1.
        strength: couplings are uniform on (-strength, strength), or on (0, strength) with "ferromagnetic"; nats.
        seed: of the couplings.
        mode: "mixed" or "ferromagnetic".

    Returns:
        Factors in float64 without a batch: one table [[w, -w], [-w, w]] per edge.

    Example:
        >>> ising_grid(2, 2, 1.0).scopes
        ((0, 1), (0, 2), (1, 3), (2, 3))
    """
    low = {"mixed": -strength, "ferromagnetic": 0.0}[mode]
    scopes = []
    for site in range(rows * columns):
        row, column = divmod(site, columns)
        scopes += [(site, site + 1)] if column + 1 < columns else []
        scopes += [(site, site + columns)] if row + 1 < rows else []
    couplings = torch.from_numpy(np.random.default_rng(seed).uniform(low, strength, len(scopes)))
    signs = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
    graph = FactorGraph([2] * (rows * columns), scopes)
    return Factors.from_flat(graph, (couplings.unsqueeze(-1) * signs).flatten())
