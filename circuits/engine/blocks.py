"""Arithmetic of one sum layer: blocks of small matrices times the values of their children.

Weights have shape (parameters, *batch). Where their batch axes all have length one, every batch entry shares them and
a dense layer is one batched matrix product; otherwise each weight is used once, and multiplying and adding reads it
once.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from circuits.engine.layers import CompiledCircuit, SumLayer
from circuits.numerics import keep_precision, shifted_exp


def are_shared(weights: Tensor, batch: torch.Size) -> bool:
    """Return whether one set of weights, (parameters, *batch), serves several batch entries."""
    return weights.shape[1:].numel() == 1 and batch.numel() > 1


def contract(layer: SumLayer, weights: Tensor, below: Tensor, *, shared: bool) -> Tensor:
    """Return the weighted sums of the children's values, (blocks, fan_in, *batch) -> (blocks, width, *batch)."""
    matrices = layer.matrices(weights[layer.edges])
    if shared:
        return _product(matrices.flatten(2), below.flatten(2)).unflatten(2, below.shape[2:])
    return (matrices * below.unsqueeze(1)).sum(2)


def contract_back(layer: SumLayer, weights: Tensor, above: Tensor, *, shared: bool) -> Tensor:
    """Return the transposed product, (blocks, width, *batch) -> (blocks, fan_in, *batch)."""
    matrices = layer.matrices(weights[layer.edges])
    if shared:
        return _product(matrices.flatten(2).transpose(1, 2), above.flatten(2)).unflatten(2, above.shape[2:])
    if layer.width == 1:
        return matrices.squeeze(1) * above
    return (matrices * above.unsqueeze(2)).sum(1)


class Held(NamedTuple):
    """What a sum layer keeps for its gradient."""

    parts: Tensor
    """exp(value - shift) of the children, shape (blocks, fan_in, entries)."""
    sums: Tensor
    """Their weighted sums, shape (blocks, width, entries)."""
    positive: bool
    """Whether all sums are."""


def log_contract(weights: Tensor, layer: SumLayer, below: Tensor, out: Tensor) -> Held | None:
    """Write log(weights exp(below)) for shared weights: one exponential per child, not per edge.

    Args:
        weights: normalised, shape (parameters, *(1, ...)).
        layer: the layer.
        below: log values, shape (blocks, fan_in, *batch).
        out: where the log sums go, shape (blocks, width, *batch).

    Returns:
        What the gradient needs; None, and nothing useful in `out`, where numbers are so far apart that the sums would
        lose digits.
    """
    # One shift for all sums of a block, the largest child, so that exponentials are per child. A sum may then lie so
    # far below its shift that nothing is left of it, and that is what keep_precision looks for.
    parts, shift = shifted_exp(below.flatten(2), 1)
    sums = _product(layer.matrices(weights[layer.edges]).flatten(2), parts)
    exact, positive = keep_precision(sums, parts, 1)
    if not exact:
        return None
    torch.add(sums.log(), shift, out=out.view(sums.shape))
    return Held(parts, sums, positive)


def log_contract_gradient(weights: Tensor, layer: SumLayer, held: Held, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of `log_contract` to the children, (blocks * fan_in, *batch), and to the log weights."""
    matrices = layer.matrices(weights[layer.edges]).flatten(2)
    above = gradient.flatten(2) / held.sums
    if not held.positive:
        above = torch.where(held.sums > 0, above, 0.0)
    below = _product(matrices.transpose(1, 2), above).mul_(held.parts)
    edges = (above @ held.parts.transpose(1, 2)).mul_(matrices)
    return below.view(-1, *gradient.shape[2:]), edges.view(-1, *weights.shape[1:])


class PerExampleWeights(NamedTuple):
    """Weights of which each batch entry has a set, for a few entries at a time."""

    weights: Tensor
    """Not normalised, shape (parameters, entries)."""
    totals: Tensor
    """Of the weights of each sum, in the order of the parameters, shape (sums, entries)."""
    scratch: Tensor
    """Memory for products of one layer's edges: taking it anew each time would cost more than the arithmetic."""

    def of(self, layer: SumLayer) -> tuple[Tensor, Tensor, Tensor]:
        """Return a layer's weights (blocks, width, fan_in, entries), totals (blocks, width, entries) and scratch."""
        matrices = layer.matrices(self.weights[layer.edges])
        totals = self.totals[layer.sums].view(layer.blocks, layer.width, -1)
        return matrices, totals, self.scratch[: matrices.numel()].view(matrices.shape)


def per_example_contract(numbers: PerExampleWeights, layer: SumLayer, below: Tensor, out: Tensor) -> Held | None:
    """Write log(sum of weights exp(below) / totals), like `log_contract` for weights that no two entries share.

    Args:
        numbers: the weights.
        layer: the layer.
        below: log values, shape (blocks, fan_in, entries).
        out: where the log sums go, shape (blocks, width, entries).
    """
    matrices, totals, scratch = numbers.of(layer)
    parts, shift = shifted_exp(below, 1)
    sums = torch.mul(matrices, parts.unsqueeze(1), out=scratch).sum(2)
    exact, positive = keep_precision(sums, parts, 1)
    if not exact:
        return None
    torch.add((sums / totals).log_(), shift, out=out)
    return Held(parts, sums, positive)


def per_example_contract_gradient(numbers: PerExampleWeights, layer: SumLayer, held: Held, gradient: Tensor) -> Tensor:
    """Return the gradient of `per_example_contract` to the children; that of the logits replaces the weights."""
    matrices, totals, scratch = numbers.of(layer)
    above = gradient / held.sums
    if not held.positive:
        above = torch.where(held.sums > 0, above, 0.0)
    above = above.unsqueeze(2)
    below = torch.mul(matrices, above, out=scratch).sum(1).mul_(held.parts)
    # The slope of log(sum_i w_i p_i / sum_i w_i) in log w_i. It overwrites the weights, which nobody reads again: the
    # tile then holds the gradient of its logits without having taken any memory for it.
    spent = (gradient / totals).neg_().unsqueeze(2)
    matrices *= torch.addcmul(spent, above, held.parts.unsqueeze(1), out=scratch)
    return below.flatten(0, 1)


def _product(matrices: Tensor, values: Tensor) -> Tensor:
    """Multiply (blocks, m, k) by (blocks, k, entries); many products with one row are slower as matrices."""
    if matrices.shape[1] == 1 and len(matrices) > 1:
        return (matrices.transpose(1, 2) * values).sum(1, keepdim=True)
    if matrices.shape[2] == 1:
        return matrices * values
    return matrices @ values


def edge_products(compiled: CompiledCircuit, above: Tensor, below: Tensor, *, shared: bool) -> Tensor:
    """Return the value above times the value below each edge, from rows (rows, *batch) each.

    Returns:
        Shape (parameters, *batch); for shared weights the sums over the batch, whose axes then have length one.
    """
    parts: list[Tensor] = []
    for layer in compiled.sum_layers:
        up, down = layer.outputs(above), layer.take_inputs(below)
        if shared:
            product = up.flatten(2) @ down.flatten(2).transpose(1, 2)
            parts.append(product.reshape(-1, *(1,) * (above.dim() - 1)))
        else:
            parts.append((up.unsqueeze(2) * down.unsqueeze(1)).flatten(0, 2))
    return torch.cat(parts) if parts else above[:0]
