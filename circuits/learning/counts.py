"""Expected edge counts of data, and the weights that maximise the likelihood of such counts."""

import torch
from torch import Tensor

from circuits.engine.layers import CompiledCircuit
from circuits.engine.passes import log_up, push_down
from circuits.errors import ImpossibleEvidenceError, listed
from circuits.learning.data import evidence_rows
from circuits.numerics import NEGATIVE_INFINITY, posterior

_CHUNK = 1 << 21
"""Numbers that a buffer of one pass may hold; more rows are split."""


def rows_at_once(compiled: CompiledCircuit) -> int:
    """Return how many rows one pass takes."""
    return max(1, _CHUNK // max(1, compiled.num_rows + compiled.num_parameters))


def log_likelihoods(compiled: CompiledCircuit, log_weights: Tensor, data: Tensor) -> Tensor:
    """Return the log-likelihood of the recorded part of each row, shape (rows,)."""
    parts = data.split(rows_at_once(compiled))
    weights = log_weights.unsqueeze(1)
    return torch.cat([log_up(compiled, weights, evidence_rows(part, compiled))[compiled.root] for part in parts])


def expected_counts(
    compiled: CompiledCircuit, log_weights: Tensor, data: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Return how often each edge is used given the data, and the log-likelihood of each row.

    The count of an edge is the gradient of the weighted log-likelihood to its log weight: the flows of the
    distribution given each row, summed over rows. In a deterministic circuit with complete data they are plain
    counts and do not depend on the (positive) weights.

    Args:
        compiled: the circuit.
        log_weights: normalised, shape (parameters,).
        data: shape (rows, variables), -1 where missing.
        weights: of the rows, shape (rows,).

    Returns:
        Counts (parameters,) and log-likelihoods (rows,). An impossible row counts nothing.
    Cost: one upward and one downward pass, O(edges) per row.
    """
    counts = torch.zeros_like(log_weights)
    scores: list[Tensor] = []
    per_edge = log_weights.unsqueeze(1)
    size = rows_at_once(compiled)
    with torch.no_grad():
        for part, part_weights in zip(data.split(size), weights.split(size), strict=True):
            values = log_up(compiled, per_edge, evidence_rows(part, compiled))
            local = posterior(per_edge + compiled.edge_child.take(values), compiled.edge_sum.take(values))
            amounts = torch.zeros_like(values)
            amounts[compiled.root] = part_weights
            used = push_down(compiled, local, amounts)
            counts += torch.einsum("er,er->e", local, compiled.edge_sum.take(used))
            scores.append(values[compiled.root])
    return counts, torch.cat(scores)


def weights_from_counts(compiled: CompiledCircuit, counts: Tensor, smoothing: float) -> Tensor:
    """Return log weights in proportion to the counts plus `smoothing / fan-in`; a sum that nothing reached is uniform.

    Args:
        compiled: the circuit.
        counts: at least 0, shape (parameters,).
        smoothing: pseudo-count of each sum, in rows.

    Returns:
        Normalised log weights, shape (parameters,); -inf for an edge of count zero without smoothing.
    """
    shares = torch.empty_like(counts)
    for layer in compiled.sum_layers:
        shares[layer.edges] = shares_of(layer.fold(counts[layer.edges]) + smoothing / layer.fan_in).flatten()
    return shares.log()


def shares_of(table: Tensor) -> Tensor:
    """Return rows, (rows, columns), that sum to 1; a row of zeros becomes uniform."""
    total = table.sum(1, keepdim=True)
    return torch.where(total > 0, table / torch.where(total > 0, total, 1.0), 1.0 / table.shape[1])


def check_rows_possible(scores: Tensor, weights: Tensor, way_out: str, *, name: str = "data") -> None:
    """Raise `ImpossibleEvidenceError` that names the rows of positive weight and log-likelihood -inf."""
    impossible = ((scores == NEGATIVE_INFINITY) & (weights > 0)).nonzero().flatten().tolist()
    if impossible:
        raise ImpossibleEvidenceError(f"{name} rows {listed(impossible)} have probability zero. {way_out}")
