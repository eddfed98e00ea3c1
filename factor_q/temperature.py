"""Temperature: every Boltzmann query is about exp(f / temperature), so it starts by dividing."""

import bisect
import math
from numbers import Real

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import ImpossibleEvidenceError, StructureError, in_batch_rows
from circuits.numerics import NEGATIVE_INFINITY
from circuits.shapes import common_shape
from factor_q.tables import AnyTables, Tables

Temperature = float | Float[Tensor, "..."]
"""Positive and finite: one number, or a tensor that broadcasts to one per batch row."""


def tempered(factors: AnyTables, temperature: Temperature, query: str) -> AnyTables:
    """Return f / temperature with batch shapes broadcast, as `divided` does, of entries that `check_entries` takes."""
    check_entries(factors, query)
    return type(factors).from_flat(factors.graph, divided(factors.flat, temperature, query))


def require_factors(factors: object, query: str) -> None:
    """Raise where something else stands in the place of factors."""
    if not isinstance(factors, Tables):
        raise StructureError(f"{query} takes Factors, not a {type(factors).__name__}.")


def check_entries(factors: Tables, query: str) -> None:
    """Raise where an entry is nan or +inf, of which no query could make sense; the message names factor and entry."""
    require_factors(factors, query)
    flat = factors.flat
    if not flat.numel() or bool(flat.amax() < math.inf):  # of nan and anything the maximum is nan
        return
    *row, position = (~(flat < math.inf)).nonzero()[0].tolist()
    graph = factors.graph
    factor = bisect.bisect_right(graph.offsets, position) - 1
    entry = np.unravel_index(position - graph.offsets[factor], graph.table_shapes[factor])
    raise StructureError(
        f"{query}: factor {factor} over variables {list(graph.scopes[factor])} holds {flat[*row, position].item()} at "
        f"entry {[int(i) for i in entry]}" + (f" in batch row {row}" if row else "") + "; entries are finite or -inf."
    )


def divided(entries: Float[Tensor, "*batch entries"], temperature: Temperature, query: str) -> Tensor:
    """Return entries / temperature with batch shapes broadcast; -inf passes no gradient to the temperature.

    Raises:
        StructureError: the temperature is not positive and finite, or its shape does not broadcast.
    """
    if isinstance(temperature, bool) or not isinstance(temperature, Real | np.number | Tensor):
        raise StructureError(f"{query}: the temperature is {temperature!r}; give a number, or a tensor of them.")
    scale = torch.as_tensor(temperature, dtype=entries.dtype, device=entries.device)
    if not bool(((scale > 0) & scale.isfinite()).all()):
        raise StructureError(
            f"{query}: the temperature is {temperature}, but it must be positive and finite as {entries.dtype}; "
            "the maximum is the limit of temperature 0."
        )
    # So low a temperature may turn finite entries into infinite ones, and a single one into nan.
    if scale.numel() and entries.numel() and (lowest := float(scale.detach().min())) < 1.0:
        largest = _largest_finite(entries.detach())
        if largest / lowest > torch.finfo(entries.dtype).max:
            raise StructureError(
                f"{query}: entries of up to {largest:g} at temperature {lowest:g} exceed {entries.dtype}; take a "
                "higher temperature or float64, or ask for the maximum, the limit of temperature 0."
            )
    if scale.ndim:
        common_shape([scale.shape, entries.shape[:-1]], "temperature and factors")
    scale = scale.unsqueeze(-1)
    if not scale.requires_grad:
        return entries / scale
    # The slope -x / t^2 of x / t is infinite at a forbidden entry, and inf * 0 is nan.
    forbidden = entries == NEGATIVE_INFINITY
    return (entries.masked_fill(forbidden, 0.0) / scale).masked_fill(forbidden, NEGATIVE_INFINITY)


def _largest_finite(entries: Tensor) -> float:
    """Return the largest absolute value of finite entries; in one pass over them where nothing is forbidden."""
    lowest, highest = (float(end) for end in entries.aminmax())
    if math.isfinite(lowest) and math.isfinite(highest):
        return max(-lowest, highest)
    return float(entries.masked_fill(entries.isinf(), 0.0).abs().max())


def check_possible(log_partition: Tensor, query: str) -> None:
    """Raise unless every batch row allows some assignment."""
    impossible = log_partition == NEGATIVE_INFINITY
    if bool(impossible.any()):
        raise ImpossibleEvidenceError(
            f"{query}: every assignment is forbidden{in_batch_rows(impossible)}, so there is no distribution; allow "
            "one there, or ask log_partition first (it returns -inf)."
        )
