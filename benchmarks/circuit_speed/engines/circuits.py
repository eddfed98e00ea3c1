"""Adapter of this project's engine."""

import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.circuit_speed.adapter import Adapter
from benchmarks.circuit_speed.task import Task
from benchmarks.circuit_speed.worker import serve
from circuits import Circuit, CircuitBuilder, CircuitDistribution
from circuits.engine import native


class Model(NamedTuple):
    """A structure and one set of weights."""

    circuit: Circuit
    logits: Tensor


def build_circuit(task: Task) -> Circuit:
    """Return the task's circuit, region by region from the leaves to the root."""
    builder = CircuitBuilder([task.categories] * task.size, name=task.layer)

    def leaf(variables: list[int]) -> int:
        inputs = [builder.input(variable) for variable in variables]
        return inputs[0] if len(inputs) == 1 else builder.product(*inputs)

    level = [[leaf(variables) for _ in range(task.units)] for variables in task.leaves]
    while len(level) > 1:
        above: list[list[int]] = []
        for left, right in zip(level[::2], level[1::2], strict=True):
            pairs = zip(left, right, strict=True) if task.layer == "cp" else ((a, b) for a in left for b in right)
            products = [builder.product(a, b) for a, b in pairs]
            above.append([builder.sum(*products) for _ in range(task.units if len(level) > 2 else 1)])
        level = above
    return builder.build(level[0][0])


class CircuitsAdapter(Adapter):
    """The batch of states is a batch dimension of the weights; there is no loop."""

    packages = ("spnpolicy",)

    def __init__(self, variant: str = "as installed") -> None:
        if variant == "torch":
            self.without = native.disabled()  # kept: forgetting it would switch the machine code on again
            self.without.__enter__()
        elif variant == "native" and not native.is_available():
            raise RuntimeError("the machine code was not built: no C compiler when the package was installed")

    def build(self, task: Task) -> Model:
        """Build and compile."""
        circuit = build_circuit(task)
        return Model(circuit, torch.randn(circuit.num_parameters, requires_grad=True))

    def parameters(self, model: Model) -> dict[str, Tensor]:
        """Return the logits."""
        return {"logits": model.logits}

    def log_prob(self, model: Model, values: Tensor) -> Tensor:
        """Normalise the logits and run one upward pass."""
        return CircuitDistribution(model.circuit, model.logits).log_prob(values)

    def evidence(self, values: Tensor, hidden: Tensor) -> Tensor:
        """Return which values are allowed, shape (batch, variables, categories)."""
        allowed = values.unsqueeze(-1) == torch.arange(Task.categories)
        return allowed | hidden.unsqueeze(-1)

    def log_evidence(self, model: Model, evidence: Tensor) -> Tensor:
        """Normalise the logits and run one upward pass."""
        return CircuitDistribution(model.circuit, model.logits).log_evidence(evidence)

    def sample(self, model: Model, count: int) -> Tensor:
        """Walk from the root to one value per variable."""
        return CircuitDistribution(model.circuit, model.logits).sample((count,))

    def own_log_prob(self, model: Model, weights: dict[str, Tensor], values: Tensor) -> Tensor:
        """Hand all rows over at once."""
        return CircuitDistribution(model.circuit, weights["logits"]).log_prob(values)

    def num_edges(self, model: Model, task: Task) -> int:
        """Return the circuit's own count; it has no product over a single variable."""
        return model.circuit.num_edges


def main(arguments: list[str]) -> Any:
    """Serve the variant that the arguments name."""
    return serve(CircuitsAdapter(*arguments))


if __name__ == "__main__":
    main(sys.argv[1:])
