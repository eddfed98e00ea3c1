"""How strongly each factor couples its variables, in two units."""

from collections.abc import Iterator

import torch
from torch import Tensor

from circuits.numerics import entropy_of, exponentials
from factor_q.factors import Factors

_FORBIDDEN_STRENGTH = 20.0
"""Forbidden entries count as so many nats below the lowest allowed one."""


def factor_strengths(factors: Factors) -> list[float]:
    """Return how much each factor couples its variables: the root mean square of its pure interaction, in its unit.

    The pure interaction is what is left of a table after the best sum of functions of single variables is taken away
    (the means along all axes but one). Averaged over batch rows.
    """
    return [_interaction(table, axes) if len(axes) > 1 else 0.0 for table, axes in _tables(factors)]


def factor_informations(factors: Factors) -> list[float]:
    """Return how much each factor alone makes its variables tell about each other: their total correlation, in nats.

    Under the distribution proportional to exp of the factor's table. Unlike `factor_strengths` it saturates: a
    coupling that fixes its variables cannot do more. Averaged over batch rows.
    """
    return [_information(table, axes) if len(axes) > 1 else 0.0 for table, axes in _tables(factors)]


def _tables(factors: Factors) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
    """Yield the tables with finite numbers for forbidden entries, and the axes of their variables."""
    for scope, table in factors:
        table = table.detach()
        blocked = table == -torch.inf
        lowest = float(table.masked_fill(blocked, 0.0).amin()) if table.numel() else 0.0
        axes = tuple(range(table.dim() - len(scope), table.dim()))
        yield table.masked_fill(blocked, lowest - _FORBIDDEN_STRENGTH), axes


def _information(table: Tensor, axes: tuple[int, ...]) -> float:
    flat = table.flatten(axes[0]).clone()
    totals = exponentials(flat, -1)
    joint = (flat / totals.unsqueeze(-1)).reshape(table.shape)
    alone = sum(entropy_of(joint.sum(tuple(other for other in axes if other != axis))).sum(-1) for axis in axes)
    return max(0.0, float((alone - entropy_of(joint).sum(axes)).mean()))


def _interaction(table: Tensor, axes: tuple[int, ...]) -> float:
    rest = table - table.mean(axes, keepdim=True)
    for axis in axes:
        rest = rest - rest.mean(tuple(other for other in axes if other != axis), keepdim=True)
    return float(rest.square().mean(axes).sqrt().mean())
