"""Likelihoods: of complete joint values, and of any evidence."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.engine.layers import CompiledCircuit
from circuits.engine.likelihood import log_likelihood
from circuits.engine.passes import align, log_root, log_up
from circuits.engine.traced import traced_log_likelihood
from circuits.evidence import Evidence, EvidenceLike, observed_rows
from circuits.shapes import common_shape
from circuits.weights import WeightedCircuit

_CHUNK = 1 << 24
"""Numbers that one pass without gradients may hold; more samples are split."""


def log_prob(distribution: WeightedCircuit, values: Int[Tensor, "*#shape variables"]) -> Float[Tensor, "*#shape"]:
    """Return the log probability of complete joint values, in nats.

    Args:
        distribution: batch shape (*batch).
        values: integers, shape (*sample, *batch, variables) or anything that broadcasts to it.

    Returns:
        Shape (*sample, *batch); -inf for impossible values.
    Cost: one upward pass per sample.
    """
    compiled, logits = distribution.circuit.compiled, distribution.logits
    shape = common_shape([values.shape[:-1], distribution.batch_shape], "values and distribution")

    def likelihood(part: Tensor) -> Tensor:
        rows = observed_rows(part, compiled, logits.dtype)
        # Not over the samples: a batch of weights is the same for all of them.
        each = logits.expand(*rows.shape[rows.dim() - logits.dim() + 1 :], -1)
        if torch.compiler.is_compiling():
            return traced_log_likelihood(compiled.number, each, rows)
        return log_likelihood(compiled, each, rows)

    if shape == distribution.batch_shape:
        return likelihood(values.expand(*shape, -1))
    return for_each_sample(distribution, values, likelihood, held=compiled.num_values if logits.dim() == 1 else None)


def for_each_sample(
    distribution: WeightedCircuit, values: Tensor, one_pass: Callable[[Tensor], Tensor], *, held: int | None = None
) -> Tensor:
    """Broadcast joint values with the batch, and run a pass over as many samples at a time as memory allows.

    Args:
        distribution: batch shape (*batch).
        values: shape (*sample, *batch, variables), or anything that broadcasts to it.
        one_pass: (samples, *batch, variables) -> (samples, *batch, ...).
        held: numbers that a pass holds per sample; all rows and weights of the batch when None.

    Returns:
        Shape (*sample, *batch, ...).
    """
    batch = distribution.batch_shape
    shape = common_shape([values.shape[:-1], batch], "values and distribution")
    values = values.expand(*shape, values.shape[-1])
    depth = len(shape) - len(batch)
    samples = values.reshape(shape[:depth].numel(), *shape[depth:], values.shape[-1])
    compiled = distribution.circuit.compiled
    size = max(1, _CHUNK // (held or (compiled.num_rows + compiled.num_parameters) * max(1, batch.numel())))
    if (torch.is_grad_enabled() and distribution.logits.requires_grad) or len(samples) <= size:
        result = one_pass(samples)
    else:
        result = torch.cat([one_pass(part) for part in samples.split(size)])
    return result.reshape((*shape, *result.shape[len(shape) - depth + 1 :]))


def log_evidence(distribution: WeightedCircuit, evidence: EvidenceLike) -> Float[Tensor, "*batch"]:
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
    logits = distribution.logits
    rows = _evidence_rows(distribution, evidence)
    if logits.dim() == 1 or logits.shape[:-1] == rows.shape[1:]:
        return log_likelihood(distribution.circuit.compiled, logits, rows)
    return log_root(*_aligned(distribution, rows))


def upward(distribution: WeightedCircuit, evidence: EvidenceLike) -> Tensor:
    """Return the log value of every row under evidence, shape (rows, *batch)."""
    return log_up(*_aligned(distribution, _evidence_rows(distribution, evidence)))


def _evidence_rows(distribution: WeightedCircuit, evidence: EvidenceLike) -> Tensor:
    logits, compiled = distribution.logits, distribution.circuit.compiled
    given = Evidence.of(evidence, compiled.cardinalities, dtype=logits.dtype, device=logits.device)
    common_shape([given.log_weights.shape[:-2], distribution.batch_shape], "evidence and distribution")
    return given.rows(compiled)


def _aligned(distribution: WeightedCircuit, rows: Tensor) -> tuple[CompiledCircuit, Tensor, Tensor]:
    weights = distribution.log_weights
    dims = max(weights.dim(), rows.dim())
    return distribution.circuit.compiled, align(weights, dims), align(rows, dims)
