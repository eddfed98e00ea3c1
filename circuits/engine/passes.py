"""The passes over a compiled circuit. Everything else is a reading of these.

Buffers have one row per node and any batch shape behind it: (rows, *batch), (parameters, *batch). Batches are last
because each layer then reads and writes long contiguous lines. Batch shapes of weights and values broadcast.

`push_up` and `push_down` are linear maps and each other's transpose, so each is the other's gradient; the gradient of
`log_up` is `push_down` with posterior weights. Hence all three can be differentiated as often as wanted.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from circuits.engine.blocks import (
    Held,
    are_shared,
    contract,
    contract_back,
    edge_products,
    log_contract,
    log_contract_gradient,
)
from circuits.engine.layers import CompiledCircuit, ProductLayer, Rows, SumLayer
from circuits.numerics import NEGATIVE_INFINITY, logsumexp, posterior, softmax_gradient, softmax_into


def normalize(compiled: CompiledCircuit, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return log weights, and weights, that sum to one at each sum; shapes (parameters, *batch)."""
    return _Normalize.apply(compiled, logits)  # type: ignore[no-any-return]


def log_up(compiled: CompiledCircuit, log_weights: Tensor, log_values: Tensor) -> Tensor:
    """Return the log value of every row.

    Args:
        compiled: the circuit.
        log_weights: normalised log weights, shape (parameters, *batch).
        log_values: log weight of each (variable, value) pair, shape (values, *batch); the evidence.

    Returns:
        Log values, shape (rows, *batch); the root's row holds the log-evidence.
    Cost: one exponential per edge.
    """
    return _LogUp.apply(compiled, log_weights, log_values, slice(None))


def log_root(compiled: CompiledCircuit, log_weights: Tensor, log_values: Tensor) -> Tensor:
    """Return the root's row of `log_up`, the log-evidence, shape (*batch)."""
    return _LogUp.apply(compiled, log_weights, log_values, compiled.root)


def push_up(compiled: CompiledCircuit, weights: Tensor, amounts: Tensor) -> Tensor:
    """Return U with U[row] = amounts[row] + sum over the row's edges of weight * U[child] (products: weight 1)."""
    return _Push.apply(compiled, weights, amounts, True)


def push_down(compiled: CompiledCircuit, weights: Tensor, amounts: Tensor) -> Tensor:
    """Return D with D[row] = amounts[row] + sum over the row's parents of weight * D[parent].

    With amount 1 at the root and 0 elsewhere these are the flows: the probability that a row is used.
    """
    return _Push.apply(compiled, weights, amounts, False)


def flows(compiled: CompiledCircuit, weights: Tensor) -> Tensor:
    """Return the probability that each row is used, shape (rows, *batch), for normalised weights."""
    return _Push.apply(compiled, weights, None, False)


def read(buffer: Tensor, rows: Sequence[Rows]) -> tuple[Tensor, ...]:
    """Take several sets of rows from one buffer; their gradients meet in one new buffer instead of one each."""
    return _Read.apply(buffer, rows)  # type: ignore[no-any-return]


def max_up(compiled: CompiledCircuit, log_weights: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the largest log probability below each row and each sum layer's best child.

    Returns:
        Log values (rows, *batch), and per sum layer the best edge of each sum, (size, *batch).
    Requires: a deterministic circuit, otherwise the maximum is only a lower bound.
    """

    def contract(layer: SumLayer, below: Tensor, out: Tensor) -> Tensor:
        scores = layer.matrices(log_weights[layer.edges]) + below.unsqueeze(1)
        top, choice = scores.max(2)
        out.copy_(top)
        return choice.flatten(0, 1)

    return sweep_up(compiled, log_weights.new_zeros((compiled.num_values, *log_weights.shape[1:])), contract)


def align(rows: Tensor, dims: int) -> Tensor:
    """Insert batch axes of length one behind the first axis, so that shallower batches broadcast with deeper ones."""
    return rows.reshape(rows.shape[0], *(1,) * (dims - rows.dim()), *rows.shape[1:])


def _sum_to(gradient: Tensor, like: torch.Size) -> Tensor:
    return gradient if gradient.shape == like else gradient.sum_to_size(like)


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, compiled: CompiledCircuit, logits: Tensor) -> tuple[Tensor, Tensor]:
        log_weights, weights = torch.empty_like(logits), torch.empty_like(logits)
        for edges, fan_in in compiled.groups:
            folded = [part[edges].unflatten(0, (-1, fan_in)) for part in (logits, log_weights, weights)]
            softmax_into(folded[0], folded[1], folded[2], dim=1)
        ctx.compiled = compiled
        ctx.save_for_backward(weights)
        return log_weights, weights

    @staticmethod
    def backward(ctx: Any, to_log_weights: Tensor, to_weights: Tensor) -> tuple[None, Tensor]:
        (weights,) = ctx.saved_tensors
        parts: list[Tensor] = []
        for edges, fan_in in ctx.compiled.groups:
            folded = [part[edges].unflatten(0, (-1, fan_in)) for part in (to_log_weights, to_weights, weights)]
            parts.append(softmax_gradient(folded[0], folded[1], folded[2], 1).flatten(0, 1))
        return None, torch.cat(parts) if parts else torch.zeros_like(weights)


class _LogUp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, compiled: CompiledCircuit, log_weights: Tensor, log_values: Tensor, rows: slice | int
    ) -> Tensor:
        values, ctx.held = _log_values(compiled, log_weights, log_values)
        ctx.compiled, ctx.value_shape, ctx.rows = compiled, log_values.shape, rows
        ctx.save_for_backward(log_weights, log_values, values)
        return values if rows == slice(None) else values[rows].clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor | None, Tensor | None, None]:
        log_weights, log_values, values = ctx.saved_tensors
        compiled: CompiledCircuit = ctx.compiled
        if torch.is_grad_enabled() and ctx.rows != slice(None):
            values = log_up(compiled, log_weights, log_values)  # the kept ones do not know what they came from
        adjoint = torch.zeros_like(values)
        # A row of value zero has no meaningful gradient; zero is the limit we want.
        adjoint[ctx.rows] = torch.where(values[ctx.rows] > NEGATIVE_INFINITY, gradient, 0.0)
        if torch.is_grad_enabled():  # the gradient will be differentiated again
            weights = posterior(log_weights + compiled.edge_child.take(values), compiled.edge_sum.take(values))
            adjoint = push_down(compiled, weights, adjoint)
            for_weights = weights * compiled.edge_sum.take(adjoint)
        else:
            for_weights = _log_gradients(compiled, log_weights, values, ctx.held, adjoint)
        return (
            None,
            _sum_to(for_weights, log_weights.shape) if ctx.needs_input_grad[1] else None,
            _sum_to(adjoint[: compiled.num_values], ctx.value_shape) if ctx.needs_input_grad[2] else None,
            None,
        )


def _log_values(compiled: CompiledCircuit, log_weights: Tensor, log_values: Tensor) -> tuple[Tensor, list[Held | None]]:
    shared = are_shared(log_weights, log_values.shape[1:])
    weights = log_weights.exp() if shared else None

    def contract(layer: SumLayer, below: Tensor, out: Tensor) -> Held | None:
        held = None if weights is None else log_contract(weights, layer, below, out)
        # A matrix product of exponentials loses what is far below the largest child; logsumexp per edge does not.
        if held is None:
            out.copy_(logsumexp(layer.matrices(log_weights[layer.edges]) + below.unsqueeze(1), 2))
        return held

    batch = torch.broadcast_shapes(log_weights.shape[1:], log_values.shape[1:])
    return sweep_up(compiled, log_values.expand(-1, *batch), contract)


def _log_gradients(
    compiled: CompiledCircuit, log_weights: Tensor, values: Tensor, held: list[Held | None], adjoint: Tensor
) -> Tensor:
    """Return the gradient to the log weights; `adjoint`, that of the rows, is completed in place."""
    shared = are_shared(log_weights, values.shape[1:])
    weights = log_weights.exp() if shared else log_weights
    # Shared weights: summed over the batch in each layer. A gradient per entry first would be as large as the batch
    # times all parameters.
    result = values.new_empty(log_weights.shape if shared else (compiled.num_parameters, *values.shape[1:]))

    def back(layer: SumLayer, held: Held | None, above: Tensor) -> Tensor:
        edges = result[layer.edges]
        if held is not None:
            below, found = log_contract_gradient(weights, layer, held, above)
        else:
            joint = layer.matrices(log_weights[layer.edges]) + layer.take_inputs(values).unsqueeze(1)
            share = posterior(joint, layer.outputs(values).unsqueeze(2)).mul_(above.unsqueeze(2))
            below, found = share.sum(1).flatten(0, 1), share.flatten(0, 2)
        edges.copy_(_sum_to(found, edges.shape))
        return below

    sweep_down(compiled, adjoint, held, back)
    return result


_Held = TypeVar("_Held")


def sweep_up(
    compiled: CompiledCircuit, log_values: Tensor, contract: Callable[[SumLayer, Tensor, Tensor], _Held]
) -> tuple[Tensor, list[_Held]]:
    """Run a pass upward over log values: products add, and `contract` does the sums.

    Args:
        compiled: the circuit.
        log_values: of the first rows, shape (values, *batch).
        contract: (layer, children's values (blocks, fan_in, *batch), where the results (blocks, width, *batch) go) ->
            what the way back needs.

    Returns:
        The values of all rows, (rows, *batch), and what `contract` returned, per sum layer.
    """
    rows = log_values.new_empty((compiled.num_rows, *log_values.shape[1:]))
    rows[: compiled.num_values] = log_values
    held: list[_Held] = []
    for layer in compiled.layers:
        if isinstance(layer, ProductLayer):
            torch.add(layer.left.take(rows), layer.right.take(rows), out=rows[layer.start : layer.stop])
        else:
            held.append(contract(layer, layer.take_inputs(rows), layer.outputs(rows)))
    return rows, held


def sweep_down(
    compiled: CompiledCircuit,
    adjoint: Tensor,
    held: Sequence[_Held],
    back: Callable[[SumLayer, _Held, Tensor], Tensor],
) -> None:
    """Run the way back of `sweep_up`: complete the gradients of all rows, (rows, *batch), in place.

    `back` gets (layer, what its way up kept, gradients (blocks, width, *batch)) and returns the gradients to the
    children, (blocks * fan_in, *batch).
    """
    kept = iter(reversed(held))
    # All parents of a row stand in later layers, so a layer's gradient is complete when its turn comes.
    for layer in reversed(compiled.layers):
        if isinstance(layer, ProductLayer):
            _pass_on(layer, adjoint)
        else:
            layer.inputs.add_to(adjoint, back(layer, next(kept), layer.outputs(adjoint)))


def _pass_on(layer: ProductLayer, buffer: Tensor) -> None:
    """Add what arrived at products to their children."""
    arrived = buffer[layer.start : layer.stop]
    if not (layer.left.is_slice and layer.right.is_slice):
        arrived = arrived.clone()  # indexed addition refuses to read from the buffer that it writes to
    layer.left.add_to(buffer, arrived)
    layer.right.add_to(buffer, arrived)


class _Push(torch.autograd.Function):
    """`push_up` and `push_down`: the transpose of each is the other one."""

    @staticmethod
    def forward(ctx: Any, compiled: CompiledCircuit, weights: Tensor, amounts: Tensor | None, up: bool) -> Tensor:
        if amounts is None:  # one at the root: the flows, without a second buffer that holds nothing but zeros
            result = weights.new_zeros((compiled.num_rows, *weights.shape[1:]))
            result[compiled.root] = 1.0
        else:  # a clone, because it is written to, which a broadcast must not be
            batch = torch.broadcast_shapes(weights.shape[1:], amounts.shape[1:])
            result = amounts.expand((compiled.num_rows, *batch)).clone()
        shared = are_shared(weights, result.shape[1:])
        for layer in compiled.layers if up else reversed(compiled.layers):
            if isinstance(layer, SumLayer):
                if up:
                    total = layer.outputs(result)
                    total += contract(layer, weights, layer.take_inputs(result), shared=shared)
                else:
                    passed = contract_back(layer, weights, layer.outputs(result), shared=shared)
                    layer.inputs.add_to(result, passed.flatten(0, 1))
            elif up:
                total = result[layer.start : layer.stop]
                total += layer.left.take(result)
                total += layer.right.take(result)
            else:
                _pass_on(layer, result)
        ctx.compiled, ctx.up, ctx.amount_shape = compiled, up, None if amounts is None else amounts.shape
        ctx.save_for_backward(weights, result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor | None, Tensor | None, None]:
        """Push the gradient the other way; that of a weight is the value above times the value below its edge."""
        weights, result = ctx.saved_tensors
        adjoint = _Push.apply(ctx.compiled, weights, gradient, not ctx.up)
        for_weights = for_amounts = None
        if ctx.needs_input_grad[1]:
            above, below = (adjoint, result) if ctx.up else (result, adjoint)
            shared = are_shared(weights, above.shape[1:])
            for_weights = _sum_to(edge_products(ctx.compiled, above, below, shared=shared), weights.shape)
        if ctx.needs_input_grad[2]:
            for_amounts = _sum_to(adjoint, ctx.amount_shape)
        return None, for_weights, for_amounts, None


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, buffer: Tensor, rows: Sequence[Rows]) -> tuple[Tensor, ...]:
        ctx.rows, ctx.shape = rows, buffer.shape
        # A view of an input may not be returned as if it were new.
        return tuple(part.take(buffer).clone() if part.is_slice else part.take(buffer) for part in rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Spread.apply(ctx.rows, ctx.shape, *gradients), None


class _Spread(torch.autograd.Function):
    """The transpose of `_Read`: add every part to its rows."""

    @staticmethod
    def forward(ctx: Any, rows: Sequence[Rows], shape: torch.Size, *parts: Tensor) -> Tensor:
        ctx.rows = rows
        buffer = parts[0].new_zeros(shape)
        for place, part in zip(rows, parts, strict=True):
            place.add_to(buffer, part)
        return buffer

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *read(gradient, ctx.rows)
