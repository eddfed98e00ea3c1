"""Likelihoods: of complete joint values, and of any evidence."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.evidence import Evidence, EvidenceLike, observed_rows
from circuits.layers import CompiledCircuit
from circuits.likelihood import log_likelihood
from circuits.passes import align, log_root, log_up

if TYPE_CHECKING:
    from circuits.distribution import CircuitDistribution

_CHUNK = 1 << 24
"""Numbers that one pass without gradients may hold; more samples are split."""


def log_prob(distribution: "CircuitDistribution", values: Int[Tensor, "*#shape variables"]) -> Float[Tensor, "*#shape"]:
    """Return the log probability of complete joint values, in nats.

    Args:
        distribution: batch shape (*batch).
        values: integers, shape (*sample, *batch, variables) or anything that broadcasts to it.

    Returns:
        Shape (*sample, *batch); -inf for impossible values.
    Cost: one upward pass per sample.
    """
    compiled = distribution.circuit.compiled
    logits = distribution.logits
    shape = torch.broadcast_shapes(values.shape[:-1], distribution.batch_shape)
    if logits.dim() == 1 or shape == distribution.batch_shape:
        rows = observed_rows(values.expand(*shape, -1), compiled, logits.dtype)
        return log_likelihood(compiled, logits, rows)
    weights = distribution.log_weights.unsqueeze(1)

    def one_pass(part: Tensor) -> Tensor:
        return log_root(compiled, weights, observed_rows(part, compiled, weights.dtype))

    return for_each_sample(distribution, values, one_pass)


def for_each_sample(
    distribution: "CircuitDistribution", values: Tensor, one_pass: Callable[[Tensor], Tensor]
) -> Tensor:
    """Broadcast joint values with the batch, and run a pass over as many samples at a time as memory allows.

    Args:
        distribution: batch shape (*batch).
        values: shape (*sample, *batch, variables), or anything that broadcasts to it.
        one_pass: (samples, *batch, variables) -> (samples, *batch, ...).

    Returns:
        Shape (*sample, *batch, ...).
    """
    compiled = distribution.circuit.compiled
    batch = distribution.batch_shape
    shape = torch.broadcast_shapes(values.shape[:-1], batch)
    values = values.expand(*shape, values.shape[-1])
    depth = len(shape) - len(batch)
    samples = values.reshape(shape[:depth].numel(), *shape[depth:], values.shape[-1])
    held = (compiled.num_rows + compiled.num_parameters) * max(1, shape[depth:].numel())
    size = max(1, _CHUNK // held)
    if (torch.is_grad_enabled() and distribution.log_weights.requires_grad) or len(samples) <= size:
        result = one_pass(samples)
    else:
        result = torch.cat([one_pass(part) for part in samples.split(size)])
    return result.reshape((*shape, *result.shape[len(shape) - depth + 1 :]))


def log_evidence(distribution: "CircuitDistribution", evidence: EvidenceLike) -> Float[Tensor, "*batch"]:
    """Return log P(evidence), in nats; with soft evidence the log of the expected weight.

    Args:
        distribution: batch shape (*batch).
        evidence: see `Evidence.of`; its batch shape broadcasts with the distribution's.

    Returns:
        Shape (*batch); -inf where the evidence is impossible.

    Raises:
        EvidenceError: malformed evidence.
    Cost: one upward pass, O(edges) per row.
    """
    compiled, weights, rows = _upward(distribution, evidence)
    return log_root(compiled, weights, rows)


def upward(distribution: "CircuitDistribution", evidence: EvidenceLike) -> Tensor:
    """Return the log value of every row under evidence, shape (rows, *batch)."""
    return log_up(*_upward(distribution, evidence))


def _upward(distribution: "CircuitDistribution", evidence: EvidenceLike) -> tuple[CompiledCircuit, Tensor, Tensor]:
    weights = distribution.log_weights
    compiled = distribution.circuit.compiled
    table = Evidence.of(evidence, compiled.cardinalities, dtype=weights.dtype, device=weights.device)
    rows = table.rows(compiled)
    dims = max(weights.dim(), rows.dim())
    return compiled, align(weights, dims), align(rows, dims)
