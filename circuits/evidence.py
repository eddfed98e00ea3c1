"""Evidence: one log weight per (variable, value). Observation, mask and soft evidence are all this one table."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuits.engine.layers import CompiledCircuit
from circuits.errors import EvidenceError, NotTractableError
from circuits.numerics import NEGATIVE_INFINITY
from circuits.shapes import MOST_NUMBERS
from circuits.variables import value_offsets

_LARGEST = 1e30
"""Log weights from here on could overflow when they add up over variables."""


class Evidence:
    """A log weight for each value of each variable: 0 allowed, -inf forbidden, anything finite in between soft.

    Args:
        cardinalities: number of values of each variable.
        log_weights: shape (*batch, variables, max cardinality); entries beyond a variable's values are ignored.

    Raises:
        EvidenceError: wrong shape, nan, or a log weight too large to add up.
    """

    def __init__(self, cardinalities: Sequence[int], log_weights: Tensor) -> None:
        self.cardinalities = tuple(cardinalities)
        expected = (len(self.cardinalities), max(self.cardinalities))
        if log_weights.shape[-2:] != expected:
            raise EvidenceError(
                f"evidence has shape {tuple(log_weights.shape)}; it must end in "
                f"(variables, max cardinality) = {expected}."
            )
        # A finite weight of -3e38 would become -inf when it is added to another one: forbidden, unasked.
        finite = log_weights.detach().nan_to_num(nan=_LARGEST, posinf=_LARGEST, neginf=0.0)
        if finite.numel() and not bool(finite.abs().amax() < _LARGEST):
            raise EvidenceError(
                f"evidence contains nan or a finite log weight beyond {_LARGEST:g}; use 0 for allowed values, "
                "-inf for forbidden ones, and moderate numbers between."
            )
        self.log_weights = log_weights

    @classmethod
    def of(
        cls,
        evidence: "EvidenceLike",
        cardinalities: Sequence[int],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> "Evidence":
        """Read evidence in any of its forms.

        Args:
            evidence: an `Evidence`; a mapping {variable: value or list of allowed values}; a boolean tensor or
                array (True = allowed) or a floating one of log weights, shape (*batch, variables, max cardinality).
            cardinalities: number of values of each variable.
            dtype: floating type of the log weights.
            device: where they live.

        Raises:
            EvidenceError: unknown variable, value out of range, wrong type or shape.
        """
        if isinstance(evidence, Evidence):
            if evidence.cardinalities != tuple(cardinalities):
                raise EvidenceError(
                    f"evidence is about cardinalities {evidence.cardinalities}, the circuit has {tuple(cardinalities)}."
                )
            return cls(cardinalities, evidence.log_weights.to(device=device, dtype=dtype))
        if isinstance(evidence, Mapping):
            allowed = torch.from_numpy(_allowed_by(evidence, cardinalities)).to(device)
        elif isinstance(evidence, Tensor | np.ndarray):
            allowed = torch.as_tensor(evidence, device=device)
        else:
            raise EvidenceError(
                f"evidence is a {type(evidence).__name__}; pass a dict {{variable: value}}, a boolean or log-weight "
                "tensor (*batch, variables, max cardinality), or circuits.Evidence."
            )
        if allowed.dtype == torch.bool:
            return cls(cardinalities, torch.where(allowed, 0.0, NEGATIVE_INFINITY).to(dtype))
        if not allowed.is_floating_point():
            raise EvidenceError(
                f"evidence has type {allowed.dtype}; use bool (True = allowed) or a floating type (log weights)."
            )
        return cls(cardinalities, allowed.to(dtype))

    def rows(self, compiled: CompiledCircuit) -> Tensor:
        """Return the log weights as the first rows of a pass, shape (values, *batch)."""
        flat = self.log_weights.flatten(-2).movedim(-1, 0)
        return compiled.padded_values.take(flat)


EvidenceLike = Evidence | Mapping[int, Any] | Tensor | np.ndarray


def _allowed_by(evidence: Mapping[Any, Any], cardinalities: Sequence[int]) -> np.ndarray:
    if (padded := len(cardinalities) * max(cardinalities)) > MOST_NUMBERS:
        raise NotTractableError(
            f"evidence about {len(cardinalities):,} variables of up to {max(cardinalities):,} values is a table of "
            f"{padded:,}, more than {MOST_NUMBERS:,}."
        )
    allowed = np.ones((len(cardinalities), max(cardinalities)), dtype=np.bool_)
    for name, values in evidence.items():
        if isinstance(name, bool) or not isinstance(name, int | np.integer):
            raise EvidenceError(f"evidence names variable {name!r}; variables are integers from 0.")
        if not 0 <= name < len(cardinalities):
            raise EvidenceError(f"evidence names variable {name}, but the variables are 0 to {len(cardinalities) - 1}.")
        variable = int(name)
        options = [values] if isinstance(values, int | np.integer) else values
        if isinstance(options, Tensor):
            options = options.reshape(-1).tolist()
        if not isinstance(options, Sequence | np.ndarray | set | frozenset | range) or isinstance(options, str):
            raise EvidenceError(f"evidence for variable {variable} is {values!r}; give a value or a list of values.")
        allowed[variable] = False
        for value in options:
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise EvidenceError(f"evidence for variable {variable} holds {value!r}; values are integers from 0.")
            if not 0 <= value < cardinalities[variable]:
                raise EvidenceError(
                    f"evidence gives variable {variable} the value {value}, but its values are "
                    f"0 to {cardinalities[variable] - 1}."
                )
            allowed[variable, int(value)] = True
    return allowed


def observed_rows(values: Tensor, compiled: CompiledCircuit, dtype: torch.dtype) -> Tensor:
    """Return the rows of complete evidence: log weight 0 at the given values and -inf elsewhere.

    Args:
        values: shape (*batch, variables), checked by the caller.
        compiled: the circuit.
        dtype: floating type of the result.

    Returns:
        Shape (values, *batch).
    """
    offsets = torch.as_tensor(value_offsets(compiled.cardinalities)[:-1], device=values.device)
    chosen = (values + offsets).movedim(-1, 0)
    rows = torch.full((compiled.num_values, *values.shape[:-1]), NEGATIVE_INFINITY, dtype=dtype, device=values.device)
    return rows.scatter_(0, chosen, 0.0)
