"""The mean of what the used edges earn, entropy included: one pass up, and for its gradient one pass down.

In a deterministic circuit a joint value uses one edge of every sum that it reaches. If an edge earns
c = score - temperature * log weight, then the mean of all that is earned below a sum is

    V[sum] = sum over its edges of weight * (c + V[child]),

and the gradient to an edge's logit is P(sum is used) * weight * (c + V[child] - V[sum]): what the edge earns more than
the sum does on average. The derivatives of c through the weights cancel.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from circuits.engine.layers import CompiledCircuit, SumLayer
from circuits.engine.passes import flows

_LEAST_LOG = -1e4
"""Stands for the log of weight 0, whose product with the weight is 0."""


def mean_score(
    compiled: CompiledCircuit, logits: Tensor, normalized: tuple[Tensor, Tensor], scores: Tensor, temperature: float
) -> Tensor:
    """Return V at the root, shape (*batch).

    Args:
        compiled: a deterministic circuit.
        logits: where gradients go, shape (parameters, *batch).
        normalized: their log weights and weights, of the same shape; no gradient goes there.
        scores: of the edges, of the same shape; gradients go there too.
        temperature: worth of a nat of entropy.
    """
    kept = tuple(part.detach() for part in normalized)
    return cast(Tensor, _MeanScore.apply(compiled, logits, *kept, scores, temperature))


class _MeanScore(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        compiled: CompiledCircuit,
        logits: Tensor,
        log_weights: Tensor,
        weights: Tensor,
        scores: Tensor,
        temperature: float,
    ) -> Tensor:
        gains = torch.addcmul(scores, log_weights.clamp_min(_LEAST_LOG), scores.new_tensor(-temperature))
        values = gains.new_zeros((compiled.num_rows, *gains.shape[1:]))
        for layer in compiled.layers:
            if isinstance(layer, SumLayer):
                edges, shares = layer.matrices(gains[layer.edges]), layer.matrices(weights[layer.edges])
                edges += layer.take_inputs(values).unsqueeze(1)
                means = (edges * shares).sum(2)
                layer.outputs(values).copy_(means)
                edges -= means.unsqueeze(2)
            else:
                torch.add(layer.left.take(values), layer.right.take(values), out=values[layer.start : layer.stop])
        ctx.compiled = compiled
        ctx.save_for_backward(weights, gains)
        return values[compiled.root].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weights, advantages = ctx.saved_tensors
        compiled: CompiledCircuit = ctx.compiled
        used = flows(compiled, weights) * gradient
        through = torch.empty_like(weights)
        for layer in compiled.sum_layers:
            sums = used[layer.start : layer.stop].unsqueeze(1)
            torch.mul(layer.fold(weights[layer.edges]), sums, out=layer.fold(through[layer.edges]))
        to_logits = through * advantages if ctx.needs_input_grad[1] else None
        return None, to_logits, None, None, through if ctx.needs_input_grad[4] else None, None
