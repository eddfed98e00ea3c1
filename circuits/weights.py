"""A circuit and its numbers: what every query takes."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from circuits.circuit import Circuit
from circuits.engine.passes import flows, normalize

_Self = TypeVar("_Self")


class WeightedCircuit:
    """A circuit and one set of weights per batch row; what most queries need of it is computed once.

    Args:
        circuit: the structure.
        logits: unnormalised log weights, shape (*batch, circuit.num_parameters); trusted as they are.
    """

    def __init__(self, circuit: Circuit, logits: Tensor) -> None:
        self.circuit = circuit
        self.logits = logits

    def with_circuit(self: _Self, circuit: Circuit, logits: Tensor) -> _Self:
        """Return the same kind of thing for another circuit and its logits (*batch, parameters)."""
        return type(self)(circuit, logits)  # pyright: ignore[reportCallIssue]

    @property
    def batch_shape(self) -> torch.Size:
        """Shape of the batch of weights."""
        return self.logits.shape[:-1]

    @cached_property
    def _normalized(self) -> tuple[Tensor, Tensor]:
        with _recording():
            return normalize(self.circuit.compiled, self.logits.movedim(-1, 0).contiguous())

    @property
    def log_weights(self) -> Tensor:
        """Normalised log weights with the batch last, shape (parameters, *batch)."""
        return self._normalized[0]

    @property
    def weights(self) -> Tensor:
        """Normalised weights, shape (parameters, *batch)."""
        return self._normalized[1]

    @cached_property
    def flows(self) -> Tensor:
        """Probability that each compiled row is used, shape (rows, *batch)."""
        with _recording():
            return flows(self.circuit.compiled, self.weights)


Weighted = TypeVar("Weighted", bound=WeightedCircuit)
"""What a query takes and returns in kind."""


@contextmanager
def _recording() -> Iterator[None]:
    """Record gradients even inside no_grad: what is computed there is kept and may be differentiated later."""
    with torch.inference_mode(False), torch.enable_grad():
        yield
