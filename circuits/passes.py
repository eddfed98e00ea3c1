"""The passes over a compiled circuit. Everything else is a reading of these.

Buffers have one row per node and any batch shape behind it: (rows, *batch), (parameters, *batch). Batches are last
because each layer then reads and writes long contiguous lines. Batch shapes of weights and values broadcast.

`push_up` and `push_down` are linear maps and each other's transpose, so each is the other's gradient; the gradient of
`log_up` is `push_down` with posterior weights. Hence all three can be differentiated as often as wanted.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from circuits.layers import CompiledCircuit, ProductLayer, Rows
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
    return _LogUp.apply(compiled, log_weights, log_values)


def push_up(compiled: CompiledCircuit, weights: Tensor, amounts: Tensor) -> Tensor:
    """Return U with U[row] = amounts[row] + sum over the row's edges of weight * U[child] (products: weight 1)."""
    return _PushUp.apply(compiled, weights, amounts)


def push_down(compiled: CompiledCircuit, weights: Tensor, amounts: Tensor) -> Tensor:
    """Return D with D[row] = amounts[row] + sum over the row's parents of weight * D[parent].

    With amount 1 at the root and 0 elsewhere these are the flows: the probability that a row is used.
    """
    return _PushDown.apply(compiled, weights, amounts)


def flows(compiled: CompiledCircuit, weights: Tensor) -> Tensor:
    """Return the probability that each row is used, shape (rows, *batch), for normalised weights."""
    return _PushDown.apply(compiled, weights, None)


def read(buffer: Tensor, rows: Sequence[Rows]) -> tuple[Tensor, ...]:
    """Take several sets of rows from one buffer; their gradients meet in one new buffer instead of one each."""
    return _Read.apply(buffer, rows)  # type: ignore[no-any-return]


def max_up(compiled: CompiledCircuit, log_weights: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the largest log probability below each row and each sum layer's best child.

    Returns:
        Log values (rows, *batch), and per sum layer the best edge of each sum, (size, *batch).
    Requires: a deterministic circuit, otherwise the maximum is only a lower bound.
    """
    values = log_weights.new_zeros((compiled.num_rows, *log_weights.shape[1:]))
    best: list[Tensor] = []
    for layer in compiled.layers:
        if isinstance(layer, ProductLayer):
            torch.add(layer.left.take(values), layer.right.take(values), out=values[layer.start : layer.stop])
        else:
            scores = layer.fold(layer.children.take(values) + log_weights[layer.edges])
            top, choice = scores.max(1)
            values[layer.start : layer.stop] = top
            best.append(choice)
    return values, best


def align(rows: Tensor, dims: int) -> Tensor:
    """Insert batch axes of length one behind the first axis, so that shallower batches broadcast with deeper ones."""
    return rows.reshape(rows.shape[0], *(1,) * (dims - rows.dim()), *rows.shape[1:])


def _sum_to(gradient: Tensor, like: torch.Size) -> Tensor:
    return gradient if gradient.shape == like else gradient.sum_to_size(like)


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, compiled: CompiledCircuit, logits: Tensor) -> tuple[Tensor, Tensor]:
        log_weights, weights = torch.empty_like(logits), torch.empty_like(logits)
        for layer in compiled.sum_layers:
            own, log_own, weights_own = (layer.fold(part[layer.edges]) for part in (logits, log_weights, weights))
            softmax_into(own, 1, log_own, weights_own)
        ctx.compiled = compiled
        ctx.save_for_backward(weights)
        return log_weights, weights

    @staticmethod
    def backward(ctx: Any, to_log_weights: Tensor, to_weights: Tensor) -> tuple[None, Tensor]:
        (weights,) = ctx.saved_tensors
        parts: list[Tensor] = []
        for layer in ctx.compiled.sum_layers:
            own = [layer.fold(part[layer.edges]) for part in (to_log_weights, to_weights, weights)]
            parts.append(softmax_gradient(own[0], own[1], own[2], 1).flatten(0, 1))
        return None, torch.cat(parts) if parts else torch.zeros_like(weights)


class _LogUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, compiled: CompiledCircuit, log_weights: Tensor, log_values: Tensor) -> Tensor:
        batch = torch.broadcast_shapes(log_weights.shape[1:], log_values.shape[1:])
        values = log_values.new_empty((compiled.num_rows, *batch))
        values[: compiled.num_values] = log_values
        for layer in compiled.layers:
            if isinstance(layer, ProductLayer):
                torch.add(layer.left.take(values), layer.right.take(values), out=values[layer.start : layer.stop])
            else:
                joint = layer.children.take(values) + log_weights[layer.edges]
                values[layer.start : layer.stop] = logsumexp(layer.fold(joint), 1)
        ctx.compiled, ctx.value_shape = compiled, log_values.shape
        ctx.save_for_backward(log_weights, values)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        log_weights, values = ctx.saved_tensors
        compiled: CompiledCircuit = ctx.compiled
        # A row of value zero has no meaningful gradient; zero is the limit we want.
        gradient = torch.where(values > NEGATIVE_INFINITY, gradient, 0.0)
        weights = posterior(log_weights + compiled.edge_child.take(values), compiled.edge_sum.take(values))
        adjoint = push_down(compiled, weights, gradient)
        for_weights = for_values = None
        if ctx.needs_input_grad[1]:
            for_weights = _sum_to(weights * compiled.edge_sum.take(adjoint), log_weights.shape)
        if ctx.needs_input_grad[2]:
            for_values = _sum_to(adjoint[: compiled.num_values], ctx.value_shape)
        return None, for_weights, for_values


def _linear_gradients(
    ctx: Any, adjoint: Tensor, *, above: Tensor, below: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of a push to its weights (value above times value below each edge) and its amounts."""
    compiled: CompiledCircuit = ctx.compiled
    for_weights = for_amounts = None
    if ctx.needs_input_grad[1]:
        edges = compiled.edge_sum.take(above) * compiled.edge_child.take(below)
        for_weights = _sum_to(edges, ctx.saved_tensors[0].shape)
    if ctx.needs_input_grad[2]:
        for_amounts = _sum_to(adjoint, ctx.amount_shape)
    return for_weights, for_amounts


class _PushUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, compiled: CompiledCircuit, weights: Tensor, amounts: Tensor) -> Tensor:
        batch = torch.broadcast_shapes(weights.shape[1:], amounts.shape[1:])
        result = amounts.expand((compiled.num_rows, *batch)).clone()
        for layer in compiled.layers:
            own = result[layer.start : layer.stop]
            if isinstance(layer, ProductLayer):
                own += layer.left.take(result)
                own += layer.right.take(result)
            else:
                own += layer.fold(layer.children.take(result) * weights[layer.edges]).sum(1)
        ctx.compiled, ctx.amount_shape = compiled, amounts.shape
        ctx.save_for_backward(weights, result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        weights, result = ctx.saved_tensors
        compiled: CompiledCircuit = ctx.compiled
        adjoint = push_down(compiled, weights, gradient)
        return None, *_linear_gradients(ctx, adjoint, above=adjoint, below=result)


class _PushDown(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, compiled: CompiledCircuit, weights: Tensor, amounts: Tensor | None) -> Tensor:
        if amounts is None:  # one at the root: the flows
            result = weights.new_zeros((compiled.num_rows, *weights.shape[1:]))
            result[compiled.root] = 1.0
        else:
            batch = torch.broadcast_shapes(weights.shape[1:], amounts.shape[1:])
            result = amounts.expand((compiled.num_rows, *batch)).clone()
        for layer in reversed(compiled.layers):
            own = result[layer.start : layer.stop]
            if isinstance(layer, ProductLayer):
                own = own.clone()  # indexed addition refuses to read from the buffer that it writes to
                layer.left.add_to(result, own)
                layer.right.add_to(result, own)
            else:
                passed = own.unsqueeze(1) * layer.fold(weights[layer.edges])
                layer.children.add_to(result, passed.flatten(0, 1))
        ctx.compiled, ctx.amount_shape = compiled, None if amounts is None else amounts.shape
        ctx.save_for_backward(weights, result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        weights, result = ctx.saved_tensors
        compiled: CompiledCircuit = ctx.compiled
        adjoint = push_up(compiled, weights, gradient)
        return None, *_linear_gradients(ctx, adjoint, above=result, below=adjoint)


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
        for own, part in zip(rows, parts, strict=True):
            own.add_to(buffer, part)
        return buffer

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *read(gradient, ctx.rows)
