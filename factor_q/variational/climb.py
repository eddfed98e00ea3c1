"""Ways up: region-wise exact sweeps, and Adam."""

from collections.abc import Iterator

import torch
from torch import Tensor

from circuits.layers import CompiledCircuit
from factor_q.variational.terms import Terms, bound, edge_values

Point = tuple[Tensor, Tensor | None]
"""Logits (parameters, *batch), and their bound (*batch) when it is known."""


def sweeps(compiled: CompiledCircuit, terms: Terms, logits: Tensor, scales: Iterator[Tensor]) -> Iterator[Point]:
    """Yield logits after each region's update (the exact maximiser in its weights, the others held).

    The bound is worked out at the end of each sweep only.

    Regions are taken from the leaves to the root, then back, and so on. At scale 1 the bound never falls, there is no
    step size, and a few sweeps reach what takes Adam hundreds of steps.

    Args:
        compiled: the circuit.
        terms: batch (*batch).
        logits: shape (parameters, *batch).
        scales: of the energy, one per sweep.
    """
    regions = [edges.to(logits.device) for edges in regions_of(compiled)]
    for scale in scales:
        for edges in regions:
            best = edge_values(compiled, terms, logits, scale)[edges]
            logits = logits.index_copy(0, edges, torch.where(best.isnan(), logits[edges], best))
            yield logits, None
        yield logits, bound(compiled, terms, logits)[0]
        regions.reverse()


def adam(
    compiled: CompiledCircuit, terms: Terms, logits: Tensor, scales: Iterator[Tensor], *, learning_rate: float
) -> Iterator[Point]:
    """Yield logits before each step of Adam on the exact bound; edges switched off stay off.

    Args:
        compiled: the circuit.
        terms: batch (*batch).
        logits: shape (parameters, *batch).
        scales: of the energy, one per step.
        learning_rate: step size in logits.
    """
    free = logits.clone().requires_grad_()
    optimizer = torch.optim.Adam([free], lr=learning_rate)
    for scale in scales:
        with torch.enable_grad():
            exact, target = bound(compiled, terms, free, scale)
            (free.grad,) = torch.autograd.grad(-target.sum(), free)
        yield free.detach().clone(), exact
        optimizer.step()


def regions_of(compiled: CompiledCircuit) -> list[Tensor]:
    """Return the edges of the sums over each region, bottom-up; sums of one level and scope are never nested."""
    key = "variational regions"
    if key not in compiled.cache:
        groups: dict[tuple[int, int], list[Tensor]] = {}
        for level, layer in enumerate(compiled.sum_layers):
            edges = torch.arange(layer.edges.start, layer.edges.stop).reshape(layer.size, layer.fan_in)
            for row, own in enumerate(edges, layer.start):
                groups.setdefault((level, compiled.row_scopes[row]), []).append(own)
        compiled.cache[key] = [torch.cat(group) for group in groups.values()]
    return compiled.cache[key]  # type: ignore[return-value]
