"""What an engine has to offer to be timed, and how peers are given weights of their own for every state."""

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.circuit_speed.task import Task


class Adapter:
    """One engine; a model is whatever `build` returns. Weights are normalised anew in every call, for all engines."""

    packages: tuple[str, ...] = ()
    """Names of the distributions whose versions are reported."""
    loops = False
    """Whether weights per state take a loop over states; then a few rows may stand for a batch."""

    def build(self, task: Task) -> Any:
        """Return a model of the task, ready to be called, with random weights."""
        raise NotImplementedError

    def parameters(self, model: Any) -> dict[str, Tensor]:
        """Return the unnormalised weights by name; they require gradients."""
        raise NotImplementedError

    def log_prob(self, model: Any, values: Tensor) -> Tensor:
        """Return log probabilities, shape (batch,), of integer values, shape (batch, variables)."""
        raise NotImplementedError

    def evidence(self, values: Tensor, hidden: Tensor) -> Any:
        """Return the engine's own form of values of which some, shape (batch, variables), are summed out."""
        raise NotImplementedError

    def log_evidence(self, model: Any, evidence: Any) -> Tensor:
        """Return log probabilities of evidence, shape (batch,)."""
        raise NotImplementedError

    def sample(self, model: Any, count: int) -> Tensor:
        """Return joint samples, shape (count, variables)."""
        raise NotImplementedError

    def own_log_prob(self, model: Any, weights: dict[str, Tensor], values: Tensor) -> Tensor:
        """Return log probabilities where row i of every weight belongs to row i of the values, shape (batch,)."""
        raise NotImplementedError

    def num_edges(self, model: Any, task: Task) -> int:
        """Return the number of parent-child pairs; those of the task where the engine does not count."""
        return task.num_edges


class ModuleAdapter(Adapter):
    """A peer whose model is a torch module: weights per state go through `functional_call`, one state at a time."""

    loops = True

    def parameters(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the module's parameters."""
        return dict(model.named_parameters())

    def own_log_prob(self, model: nn.Module, weights: dict[str, Tensor], values: Tensor) -> Tensor:
        """Loop over the states.

        Taking row i by `weight[i]` would make the backward pass fill a zero tensor of all states for every state;
        `unbind` does not.
        """
        caller = _Caller(self, model)
        rows = zip(*(weight.unbind(0) for weight in weights.values()), strict=True)
        names = [f"model.{name}" for name in weights]
        return torch.cat(
            [
                torch.func.functional_call(caller, dict(zip(names, row, strict=True)), (value,))
                for row, value in zip(rows, values.split(1), strict=True)
            ]
        )


class _Caller(nn.Module):
    """A module whose call is the adapter's `log_prob`."""

    def __init__(self, adapter: Adapter, model: nn.Module) -> None:
        super().__init__()
        self.adapter = adapter
        self.model = model

    def forward(self, values: Tensor) -> Tensor:
        """Return log probabilities."""
        return self.adapter.log_prob(self.model, values)


def with_nan(values: Tensor, hidden: Tensor) -> Tensor:
    """Return values as floats, nan where hidden: how most peers are told to sum a variable out."""
    return values.float().masked_fill(hidden, float("nan"))
