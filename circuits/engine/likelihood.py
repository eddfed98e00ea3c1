"""The log-likelihood straight from the logits: the pass that training repeats most, and nothing but its root.

Normalising every weight first would read and write all of them several times. Here a sum is divided by the total of
its exponentials instead, and the batch is worked off in tiles that fit the cache: per tile, logits are read once and,
where every batch entry has a set of them, their gradient is written once before the tile is forgotten.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from circuits.engine import native
from circuits.engine.blocks import (
    Held,
    PerExampleWeights,
    log_contract,
    log_contract_gradient,
    per_example_contract,
    per_example_contract_gradient,
)
from circuits.engine.layers import CompiledCircuit, SumLayer
from circuits.engine.passes import align, log_root, normalize, sweep_down, sweep_up
from circuits.numerics import NEGATIVE_INFINITY, exponentials, softmax_into

_TILE = 1 << 20
"""Numbers of one kind that a tile of the batch may hold: 4 MB of float32, which fits the cache."""

_Needed = tuple[bool, bool]
"""Whether the logits and the values need a gradient."""

_Backward = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Gradient of the result -> gradients of logits (batch, parameters) and values (values, batch)."""


def log_likelihood(compiled: CompiledCircuit, logits: Tensor, log_values: Tensor) -> Tensor:
    """Return the log value of the root.

    Args:
        compiled: the circuit.
        logits: unnormalised log weights, shape (parameters,), or (*batch, parameters) for a set per batch entry.
        log_values: log weight of each (variable, value) pair, shape (values, *samples, *batch); the evidence.

    Returns:
        Log values, shape (*samples, *batch). Differentiable as often as wanted.
    Cost: one exponential per child of a block, and one per logit.
    """
    shape = log_values.shape[1:]
    if logits.dim() > 1 and shape.numel() * compiled.num_parameters <= _TILE:
        # A copy for every sample that fits the cache costs less than a pass for each.
        logits = logits.expand(*shape, -1)
    return _LogLikelihood.apply(compiled, logits, log_values)  # type: ignore[no-any-return]


def plain_log_likelihood(compiled: CompiledCircuit, logits: Tensor, log_values: Tensor) -> Tensor:
    """Return the same by normalising first, from operations that can be differentiated again."""
    weights = normalize(compiled, logits.movedim(-1, 0).contiguous())[0]
    return log_root(compiled, align(weights, log_values.dim()), log_values)


class _LogLikelihood(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, compiled: CompiledCircuit, logits: Tensor, log_values: Tensor) -> Tensor:
        found = _run(compiled, logits, log_values, ctx.needs_input_grad[1:])
        result, ctx.way_back = found or (plain_log_likelihood(compiled, logits, log_values), None)
        ctx.compiled, ctx.is_plain = compiled, found is None
        ctx.save_for_backward(logits, log_values)
        return result.reshape(log_values.shape[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        logits, log_values = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        again = torch.is_grad_enabled()
        if again or ctx.is_plain:  # to be differentiated again, or numbers too far apart for sums of products
            inputs = [x for x, needs in zip((logits, log_values), needed, strict=True) if needs]
            with torch.enable_grad():
                result = plain_log_likelihood(ctx.compiled, logits, log_values)
            found = iter(torch.autograd.grad(result, inputs, gradient, create_graph=again))
            return None, next(found) if needed[0] else None, next(found) if needed[1] else None
        way_back, ctx.way_back = ctx.way_back, None  # it uses its memory up, which saves a copy
        if way_back is None:
            _, way_back = _run(ctx.compiled, logits, log_values, needed) or (None, None)
        assert way_back is not None
        to_logits, to_values = way_back(gradient.reshape(-1))
        return (
            None,
            to_logits.reshape(logits.shape) if needed[0] else None,
            to_values.reshape(log_values.shape) if needed[1] else None,
        )


def _run(
    compiled: CompiledCircuit, logits: Tensor, log_values: Tensor, needed: _Needed
) -> tuple[Tensor, _Backward] | None:
    """Return the log values, (entries,), and the way back; None where that would lose digits."""
    if not compiled.sum_layers or not log_values.numel():
        return None  # nothing to contract
    values = log_values.reshape(len(log_values), log_values.shape[1:].numel())
    sets = logits.reshape(-1, compiled.num_parameters)
    shared = len(sets) == 1
    if not shared and values.shape[1] != len(sets):
        return _samples(compiled, sets, values, needed)
    if native.applies_to(logits, log_values):
        return _native(compiled, (sets[0] if shared else sets).contiguous(), values.contiguous(), needed)
    if shared:
        return _shared_weights(compiled, sets.t(), values, needed)
    return _per_example_weights(compiled, sets, values, needed)


def _samples(
    compiled: CompiledCircuit, sets: Tensor, values: Tensor, needed: _Needed
) -> tuple[Tensor, _Backward] | None:
    """Run many samples of every set of weights, one after the other.

    All at once, weights and their gradients would be copied for every sample, which costs more than passes for each
    as soon as the copies leave the cache.
    """
    parts = values.split(len(sets), 1)
    runs = [run for part in parts if (run := _run(compiled, sets, part, needed)) is not None]
    if len(runs) < len(parts):
        return None

    def backward(gradient: Tensor) -> tuple[Tensor, Tensor]:
        to_logits, to_values = torch.zeros_like(sets), []
        for (_, way_back), above in zip(runs, gradient.split(len(sets)), strict=True):
            of_logits, of_values = way_back(above)
            if needed[0]:
                to_logits += of_logits
            to_values.append(of_values)
        return to_logits, torch.cat(to_values, 1)

    return torch.cat([result for result, _ in runs]), backward


def _native(
    compiled: CompiledCircuit, logits: Tensor, values: Tensor, needed: _Needed
) -> tuple[Tensor, _Backward] | None:
    if not any(needed) or (logits.dim() == 1 and values.shape[1] > 1):
        result = native.log_likelihood(compiled, logits, values)
        return None if result is None else (result, partial(native.gradients, compiled, logits, values))
    # As below: forward and at once backward.
    found = native.log_likelihood_and_gradients(compiled, logits, values, torch.ones_like(values[0]))
    return None if found is None else (found[0], partial(_scaled, found[1], found[2]))


def _scaled(to_logits: Tensor, to_values: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Scale, in place, gradients (batch, parameters) and (values, batch) of each entry's result."""
    to_logits.view(len(gradient), -1).mul_(gradient.unsqueeze(1))
    return to_logits, to_values.mul_(gradient)


def _shared_weights(
    compiled: CompiledCircuit, logits: Tensor, values: Tensor, needed: _Needed
) -> tuple[Tensor, _Backward] | None:
    """Run all tiles with the same weights, shape (parameters, 1); matrix products do the work."""
    log_weights, weights = torch.empty_like(logits), torch.empty_like(logits)
    for group in compiled.groups:
        softmax_into(*(_folded(part, group) for part in (logits, log_weights, weights)), dim=1)

    runs: list[tuple[slice, Tensor, list[Held]]] = []
    for tile in _tiles(values.shape[1], _TILE // compiled.num_rows):
        rows, held = _upward(compiled, values[:, tile], partial(log_contract, weights))
        if held is None:
            return None
        runs.append((tile, rows[compiled.root], held if any(needed) else []))

    def backward(gradient: Tensor) -> tuple[Tensor, Tensor]:
        to_log_weights, to_values = torch.zeros_like(weights), torch.empty_like(values)

        def back(layer: SumLayer, held: Held, above: Tensor) -> Tensor:
            to_below, to_edges = log_contract_gradient(weights, layer, held, above)
            to_log_weights[layer.edges] += to_edges
            return to_below

        for tile, root, held in runs:
            adjoint = values.new_zeros((compiled.num_rows, len(root)))
            # Below an impossible root every sum may be zero, and its slope 1 / 0; nothing is the limit we want.
            adjoint[compiled.root] = torch.where(root > NEGATIVE_INFINITY, gradient[tile], 0.0)
            sweep_down(compiled, adjoint, held, back)
            to_values[:, tile] = adjoint[: compiled.num_values]
        for group in compiled.groups:
            slope, share = _folded(to_log_weights, group), _folded(weights, group)
            slope -= share * slope.sum(1, keepdim=True)
        return to_log_weights, to_values

    return torch.cat([root for _, root, _ in runs]), backward


def _per_example_weights(
    compiled: CompiledCircuit, logits: Tensor, values: Tensor, needed: _Needed
) -> tuple[Tensor, _Backward] | None:
    """Run each tile with weights per example, logits of shape (batch, parameters), forward and at once backward.

    Going back while a tile is still in the cache saves reading its logits again and a second exponential.
    """
    # The way back runs at once, for a gradient of one; the true gradient of each entry only scales it, see `_scaled`.
    result, to_values = torch.empty_like(values[0]), torch.empty_like(values)
    to_logits = torch.empty_like(logits) if needed[0] else logits
    tiles = _tiles(len(logits), _TILE // compiled.num_parameters)
    # Taken once for all tiles: fresh memory is handed out page by page, which takes longer than the arithmetic.
    memory = logits.new_empty(compiled.num_parameters * tiles[0].stop)
    scratch = logits.new_empty(max(layer.size * layer.fan_in for layer in compiled.sum_layers) * tiles[0].stop)
    for tile in tiles:
        count = tile.stop - tile.start
        weights = memory[: compiled.num_parameters * count].view(compiled.num_parameters, count).copy_(logits[tile].t())
        totals = torch.cat([exponentials(_folded(weights, group), 1) for group in compiled.groups])
        numbers = PerExampleWeights(weights, totals, scratch)
        rows, held = _upward(compiled, values[:, tile], partial(per_example_contract, numbers))
        if held is None:
            return None
        result[tile] = rows[compiled.root]
        if any(needed):
            adjoint = torch.zeros_like(rows)
            adjoint[compiled.root] = rows[compiled.root] > NEGATIVE_INFINITY
            sweep_down(compiled, adjoint, held, partial(per_example_contract_gradient, numbers))
            to_values[:, tile] = adjoint[: compiled.num_values]
            if needed[0]:
                to_logits[tile] = weights.t()
    return result, partial(_scaled, to_logits, to_values)


def _upward(
    compiled: CompiledCircuit, log_values: Tensor, contract: Callable[[SumLayer, Tensor, Tensor], Held | None]
) -> tuple[Tensor, list[Held] | None]:
    rows, held = sweep_up(compiled, log_values, contract)
    exact = [part for part in held if part is not None]
    return rows, exact if len(exact) == len(held) else None


def _folded(edges: Tensor, group: tuple[slice, int]) -> Tensor:
    return edges[group[0]].unflatten(0, (-1, group[1]))


def _tiles(count: int, width: int) -> list[slice]:
    width = max(16, width - width % 16)  # whole vector registers
    return [slice(start, min(start + width, count)) for start in range(0, count, width)]
