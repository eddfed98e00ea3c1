"""Ascent on the evidence lower bound: natural gradient, coordinate ascent region by region, and Adam."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from circuits.engine.layers import CompiledCircuit
from circuits.engine.passes import normalize
from circuits.numerics import NEGATIVE_INFINITY
from factor_q.variational.terms import Terms, bound, edge_values

Point = tuple[Tensor, Tensor | None]
"""Logits (parameters, *batch), and their bound (*batch) when it is known."""


def natural_gradient(
    compiled: CompiledCircuit, terms: Terms, logits: Tensor, scales: Iterator[Tensor]
) -> Iterator[Point]:
    """Yield logits after each natural-gradient step in all weights at once, halved until the bound does not fall.

    A full step puts every sum on its own maximiser given the others; on a tree of decisions that is soft policy
    iteration. A step of size s mixes log weights, (1 - s) old + s maximiser, which is mirror ascent on the bound.
    Each batch row has its own step size; rows that cannot move stay.
    """
    size = torch.ones(logits.shape[1:], dtype=logits.dtype, device=logits.device)
    for scale in scales:
        log_weights, _ = normalize(compiled, logits)
        best = edge_values(compiled, terms, logits, scale)
        goal, _ = normalize(compiled, torch.where(best.isnan(), log_weights, best))
        goal = torch.where(goal.isnan(), log_weights, goal)  # every way is forbidden: there is no better one
        before = _target(compiled, terms, logits, scale)
        moving = torch.ones_like(size, dtype=torch.bool)
        for _ in range(_HALVINGS):
            # At size 1 the old weights must not enter at all: 0 x -inf is nan where they are forbidden.
            mixed = torch.where(size < 1, (1 - size) * log_weights + size * goal, goal)
            rises = _target(compiled, terms, mixed, scale) >= before
            logits = torch.where(moving & rises, mixed, logits)
            moving = moving & ~rises
            if not bool(moving.any()):
                break
            size = torch.where(moving, size / 2, size)
        # Each row remembers its step; grown a little, it is tried again before it is halved again.
        size = (size * _GROWTH).clamp(max=1.0)
        yield logits, bound(compiled, terms, logits)[0]


def _target(compiled: CompiledCircuit, terms: Terms, logits: Tensor, scale: Tensor) -> Tensor:
    """Return scale * E + H, -inf where forbidden entries have mass."""
    exact, target = bound(compiled, terms, logits, scale)
    return target.masked_fill(exact == NEGATIVE_INFINITY, NEGATIVE_INFINITY)


_LEARNING_RATE = 0.05
_HALVINGS = 6
_GROWTH = 1.5


def coordinate_ascent(
    compiled: CompiledCircuit, terms: Terms, logits: Tensor, scales: Iterator[Tensor]
) -> Iterator[Point]:
    """Yield logits after each region's update (the exact maximiser in its weights, the others held).

    The bound is worked out at the end of each sweep only.

    Regions are taken from the leaves to the root, then back, and so on. At scale 1 the bound never falls, there is no
    step size, and a few sweeps reach what takes Adam hundreds of steps.
    """
    regions = [edges.to(logits.device) for edges in _regions(compiled)]
    for scale in scales:
        for edges in regions:
            best = edge_values(compiled, terms, logits, scale)[edges]
            logits = logits.index_copy(0, edges, torch.where(best.isnan(), logits[edges], best))
            yield logits, None
        yield logits, bound(compiled, terms, logits)[0]
        # The maximiser of a region depends on those above and below: back and forth, each sweep begins where the
        # last one ended and carries its news through the whole circuit.
        regions.reverse()


def adam(compiled: CompiledCircuit, terms: Terms, logits: Tensor, scales: Iterator[Tensor]) -> Iterator[Point]:
    """Yield logits before each step of Adam on the exact bound; edges switched off stay off."""
    free = logits.clone().requires_grad_()
    optimizer = torch.optim.Adam([free], lr=_LEARNING_RATE)
    for scale in scales:
        with torch.enable_grad():
            exact, target = bound(compiled, terms, free, scale)
            # Adam divides by each weight's own scale, so the sum over rows and starts does not couple them.
            (free.grad,) = torch.autograd.grad(-target.sum(), free)
        yield free.detach().clone(), exact
        optimizer.step()


class Method(NamedTuple):
    """A way to ascend, and how long it usually takes."""

    ascend: Callable[[CompiledCircuit, Terms, Tensor, Iterator[Tensor]], Iterator[Point]]
    """(circuit, terms of batch (*batch), logits (parameters, *batch), scales of the energy, one per step or sweep)."""
    steps: int
    """Most steps unless the caller says otherwise."""
    annealed: int
    """Steps after which annealed starts have all of their energy."""
    settles: bool
    """Whether a step that changes nothing means that no later step will."""


METHODS: dict[str, Method] = {
    "natural_gradient": Method(natural_gradient, 500, 20, settles=True),
    "coordinate_ascent": Method(coordinate_ascent, 100, 6, settles=True),
    "adam": Method(adam, 1000, 500, settles=False),
}
"""All methods by name."""


def _regions(compiled: CompiledCircuit) -> list[Tensor]:
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
