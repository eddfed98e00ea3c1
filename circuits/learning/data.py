"""Data at the door of the learners: one row per joint observation, -1 where a value is missing."""

from collections.abc import Sequence

import torch
from torch import Tensor

from circuits.engine.layers import CompiledCircuit
from circuits.errors import EvidenceError
from circuits.evidence import observed_rows

MISSING = -1
"""What stands in the data for a value that was not recorded."""


def check_data(data: Tensor, cardinalities: Sequence[int], *, name: str = "data") -> Tensor:
    """Return data as long integers, shape (rows, variables), or say what is wrong with it and where."""
    if data.dim() != 2 or data.shape[1] != len(cardinalities):
        raise EvidenceError(
            f"{name} has shape {tuple(data.shape)}; it must be (rows, variables) with {len(cardinalities)} variables."
        )
    if data.is_floating_point() or data.is_complex() or data.dtype == torch.bool:
        raise EvidenceError(f"{name} has type {data.dtype}; use integers from 0, and -1 for missing values.")
    if not len(data):
        raise EvidenceError(f"{name} has no rows; at least one is needed.")
    values = data.long()
    limits = torch.as_tensor(tuple(cardinalities), device=data.device)
    wrong = (values < MISSING) | (values >= limits)
    if wrong.any():
        row, variable = wrong.nonzero()[0].tolist()
        raise EvidenceError(
            f"{name} row {row} gives variable {variable} the value {int(values[row, variable])}; its values are "
            f"0 to {cardinalities[variable] - 1}, or -1 when missing."
        )
    return values


def complete_rows(
    data: Tensor,
    cardinalities: Sequence[int],
    what: str,
    way_out: str,
    *,
    weights: Tensor | None = None,
    name: str = "data",
) -> tuple[Tensor, Tensor]:
    """Return data without missing values, as `check_data` does, and the weights of its rows."""
    values = check_data(data, cardinalities, name=name)
    missing = values == MISSING
    if missing.any():
        row, variable = missing.nonzero()[0].tolist()
        raise EvidenceError(
            f"{what} needs complete data, but {int(missing.any(1).sum())} rows have missing values (-1), first row "
            f"{row}, variable {variable}. {way_out}"
        )
    return values, check_weights(weights, values)


def check_weights(weights: Tensor | None, data: Tensor) -> Tensor:
    """Return row weights in float64, shape (rows,); ones when None."""
    if weights is None:
        return torch.ones(len(data), dtype=torch.float64, device=data.device)
    if weights.shape != data.shape[:1]:
        raise EvidenceError(f"weights have shape {tuple(weights.shape)}; data has {len(data)} rows, give one each.")
    checked = weights.detach().to(data.device, torch.float64)
    wrong = ~((checked >= 0) & (checked < float("inf")))
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise EvidenceError(f"the weight of row {row} is {float(checked[row])}; weights are finite and at least 0.")
    if not checked.sum() > 0:
        raise EvidenceError("all row weights are zero; at least one must be positive.")
    return checked


def check_smoothing(smoothing: float) -> None:
    """Raise unless a pseudo-count is finite and at least zero."""
    if not 0 <= smoothing < float("inf"):
        raise EvidenceError(f"smoothing is {smoothing}; it is a number of rows, finite and at least 0.")


def evidence_rows(data: Tensor, compiled: CompiledCircuit) -> Tensor:
    """Return the first rows of a pass, shape (values, rows): 0 where the data allows a value, -inf elsewhere."""
    cards = torch.tensor(compiled.cardinalities, device=data.device)
    rows = observed_rows(data.clamp_min(0), compiled, torch.float64)
    return rows.masked_fill((data == MISSING).T.repeat_interleave(cards, 0), 0.0)
