"""A circuit and its numbers: what every query takes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from circuits.circuit import Circuit
from circuits.engine.passes import flows, normalize
from circuits.errors import StructureError

_Self = TypeVar("_Self")
_Kept = TypeVar("_Kept")


class WeightedCircuit:
    """A circuit and one set of weights per batch row; what most queries need of it is computed once.

    Args:
        circuit: the structure.
        logits: unnormalised log weights, shape (*batch, circuit.num_parameters); trusted as they are.
    """

    def __init__(self, circuit: Circuit, logits: Tensor) -> None:
        self.circuit = circuit
        self.logits = logits
        self._kept: dict[str, Any] = {}
        self._version: int | None = None

    def with_circuit(self: _Self, circuit: Circuit, logits: Tensor) -> _Self:
        """Return the same kind of thing for another circuit and its logits (*batch, parameters)."""
        return type(self)(circuit, logits)  # pyright: ignore[reportCallIssue]

    @property
    def batch_shape(self) -> torch.Size:
        """Shape of the batch of weights."""
        return self.logits.shape[:-1]

    @property
    def log_weights(self) -> Tensor:
        """Normalised log weights with the batch last, shape (parameters, *batch)."""
        return self._once("normalized", self._normalize)[0]

    @property
    def weights(self) -> Tensor:
        """Normalised weights, shape (parameters, *batch)."""
        return self._once("normalized", self._normalize)[1]

    @property
    def flows(self) -> Tensor:
        """Probability that each compiled row is used, shape (rows, *batch)."""
        return self._once("flows", lambda: flows(self.circuit.compiled, self.weights))

    def _normalize(self) -> tuple[Tensor, Tensor]:
        return normalize(self.circuit.compiled, self.logits.movedim(-1, 0).contiguous())

    def _once(self, name: str, make: Callable[[], _Kept]) -> _Kept:
        """Return what was made of these logits before, or make it.

        An optimiser changes its logits in place. What was made of the old numbers is forgotten then, or queries of
        one distribution would contradict each other. Inference tensors and changes through `.data` are not counted.
        """
        version = None if self.logits.is_inference() else self.logits._version
        if version != self._version:
            self._kept.clear()
            self._version = version
        if name not in self._kept:
            with _recording():
                self._kept[name] = make()
        return self._kept[name]


Weighted = TypeVar("Weighted", bound=WeightedCircuit)
"""What a query takes and returns in kind."""


def require_weights(query: str, second: object, otherwise: str = "") -> None:
    """Refuse a second distribution that is none."""
    if not isinstance(second, WeightedCircuit):
        raise StructureError(f"{query} takes a distribution, not a {type(second).__name__}{otherwise}.")


@contextmanager
def _recording() -> Iterator[None]:
    """Record gradients even inside no_grad: what is computed there is kept and may be differentiated later."""
    with torch.inference_mode(False), torch.enable_grad():
        yield
