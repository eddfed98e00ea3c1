"""The downward pass over derivatives of the network polynomial, in the sum and in the max semiring.

The value S of a circuit is multilinear in the indicators, so its derivative for indicator (i, x) is S with variable i
set to x and everything else as observed: one pass answers all single-variable questions at once. Gradients of
`log_up` cannot tell, because they divide by values that may be zero. Here the derivative of a child is passed down as

    D[child] = combine over parents of D[parent] + (log weight, or the log value of the sibling in a product),

which never divides: only siblings' values enter, not the child's. Internal to the queries.

Source: Darwiche 2003, A differential approach to inference in Bayesian networks.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuits.engine.layers import CompiledCircuit, ProductLayer, Rows
from circuits.numerics import NEGATIVE_INFINITY, add_logs_into, max_into, posterior

Combine = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(held rows, index, amounts) -> held rows combined with the amounts that go to each."""


def log_derivatives(compiled: CompiledCircuit, log_weights: Tensor, log_values: Tensor) -> Tensor:
    """Return the log derivative of the root's value for every row's value, shape (rows, *batch).

    Args:
        compiled: the circuit.
        log_weights: shape (parameters, *batch), broadcasting with the values.
        log_values: what `log_up` returned, shape (rows, *batch).

    Differentiable once, in weights and values.
    Cost: one downward pass.
    """
    return _LogDerivatives.apply(compiled, log_weights, log_values)  # type: ignore[no-any-return]


def max_derivatives(compiled: CompiledCircuit, log_weights: Tensor, log_values: Tensor) -> Tensor:
    """Return, for every row, the largest log weight of what surrounds it in a selection that uses it.

    Args and shapes as in `log_derivatives`, with the values of `max_up`. Not differentiable.
    """
    return _push(compiled, log_weights, log_values, max_into)


def by_variable(compiled: CompiledCircuit, rows: Tensor, *, beyond: float = NEGATIVE_INFINITY) -> Tensor:
    """Lay the indicator rows of a buffer out as (*batch, variables, max cardinality), `beyond` where values end."""
    width = max(compiled.cardinalities)
    shape = (len(compiled.cardinalities) * width, *rows.shape[1:])
    padded = torch.full(shape, beyond, dtype=rows.dtype, device=rows.device)
    padded = padded.index_copy(0, compiled.padded_values.index(rows.device), rows[: compiled.num_values])
    return padded.movedim(0, -1).unflatten(-1, (len(compiled.cardinalities), width))


def _push(compiled: CompiledCircuit, log_weights: Tensor, values: Tensor, combine: Combine) -> Tensor:
    result = torch.full_like(values, NEGATIVE_INFINITY)
    result[compiled.root] = 0.0
    targets = _targets(compiled)

    def send(slot: Rows, amounts: Tensor) -> None:
        rows, place = targets[id(slot)]
        combined = combine(rows.take(result), place.index(amounts.device), amounts)
        result.index_copy_(0, rows.index(amounts.device), combined)

    for layer in reversed(compiled.layers):
        above = result[layer.start : layer.stop]
        if isinstance(layer, ProductLayer):
            to_left, to_right = above + layer.right.take(values), above + layer.left.take(values)
            send(layer.left, to_left)
            send(layer.right, to_right)
        else:
            send(layer.children, (above.unsqueeze(1) + layer.fold(log_weights[layer.edges])).flatten(0, 1))
    return result


def _targets(compiled: CompiledCircuit) -> dict[int, tuple[Rows, Rows]]:
    """Return for each child slot the distinct rows it sends to, and which of them each entry goes to."""
    # In logs, all amounts of a row have to be combined at once, and a copy by index keeps one of several. Hence
    # distinct rows, and for each amount which of them it goes to. Slots live as long as this cache, so their identity
    # names them.
    if "derivative targets" not in compiled.cache:
        targets: dict[int, tuple[Rows, Rows]] = {}
        for layer in compiled.layers:
            for slot in (layer.left, layer.right) if isinstance(layer, ProductLayer) else (layer.children,):
                rows, place = np.unique(slot.positions, return_inverse=True)
                targets[id(slot)] = (Rows(rows), Rows(place.reshape(-1)))
        compiled.cache["derivative targets"] = targets
    return compiled.cache["derivative targets"]  # type: ignore[return-value]


class _LogDerivatives(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, compiled: CompiledCircuit, log_weights: Tensor, values: Tensor) -> Tensor:
        result = _push(compiled, log_weights, values, add_logs_into)
        ctx.compiled = compiled
        ctx.save_for_backward(log_weights, values, result)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor]:
        """Send each row's gradient up to the parents it came from, and to the weights and siblings on the way."""
        log_weights, values, result = ctx.saved_tensors
        compiled: CompiledCircuit = ctx.compiled
        adjoint, to_values = gradient.clone(), torch.zeros_like(values)
        to_weights = values.new_empty((compiled.num_parameters, *values.shape[1:]))
        for layer in compiled.layers:
            above, layer_adjoint = result[layer.start : layer.stop], adjoint[layer.start : layer.stop]
            if isinstance(layer, ProductLayer):
                # The share of a parent in its child's derivative; posterior() takes 0 of 0 for 0.
                for child, sibling in ((layer.left, layer.right), (layer.right, layer.left)):
                    share = posterior(above + sibling.take(values), child.take(result)) * child.take(adjoint)
                    layer_adjoint += share
                    sibling.add_to(to_values, share)
            else:
                joint = above.unsqueeze(1) + layer.fold(log_weights[layer.edges])
                below, below_adjoint = (layer.fold(layer.children.take(part)) for part in (result, adjoint))
                share = posterior(joint, below) * below_adjoint
                layer_adjoint += share.sum(1)
                to_weights[layer.edges] = share.flatten(0, 1)
        return None, to_weights.sum_to_size(log_weights.shape), to_values
