"""Conditioning: the family is closed under it, so a conditional is a distribution on the same circuit."""

import torch

from circuits.engine.passes import align
from circuits.errors import ImpossibleEvidenceError, in_batch_rows
from circuits.evidence import EvidenceLike
from circuits.numerics import NEGATIVE_INFINITY
from circuits.queries.log_prob import upward
from circuits.weights import Weighted


def condition(distribution: Weighted, evidence: EvidenceLike) -> Weighted:
    """Return the distribution given evidence, on the same circuit with new numbers.

    Each sum's weights become w_j v_j / sum_i w_i v_i, where v are the children's values under the evidence.

    Args:
        distribution: batch shape (*batch).
        evidence: see `Evidence.of`; its batch shape broadcasts with the distribution's.

    Returns:
        A distribution with the broadcast batch shape. Differentiable.

    Raises:
        EvidenceError: malformed evidence.
        ImpossibleEvidenceError: some batch row gives the evidence probability zero; the message names the rows.
    Cost: one upward pass.
    """
    compiled = distribution.circuit.compiled
    values = upward(distribution, evidence)
    impossible = values[compiled.root] == NEGATIVE_INFINITY
    if impossible.any():
        raise ImpossibleEvidenceError(
            f"the evidence has probability zero{in_batch_rows(impossible)}; loosen it, or ask log_evidence first "
            "(it returns -inf)."
        )
    log_weights = align(distribution.log_weights, values.dim())
    # A sum that the evidence rules out cannot be reached; its old weights do no harm, nan would.
    possible = compiled.edge_sum.take(values) > NEGATIVE_INFINITY
    joint = torch.where(possible, log_weights + compiled.edge_child.take(values), log_weights)
    # Normalised again, not divided by the sums' values: these carry rounding errors of the magnitude of the logs.
    return distribution.with_circuit(distribution.circuit, joint.movedim(0, -1))
