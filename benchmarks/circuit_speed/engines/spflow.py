"""Adapter of SPFlow 1, its Einet."""

# pyright: reportMissingImports=false

from typing import Any

import torch
from spflow.meta.data.scope import Scope
from spflow.modules.leaves import Categorical
from spflow.modules.rat.factorize import Factorize
from spflow.zoo.einet import Einet
from torch import Tensor

from benchmarks.circuit_speed.adapter import ModuleAdapter, with_nan
from benchmarks.circuit_speed.task import Task
from benchmarks.circuit_speed.worker import serve


class SPFlowAdapter(ModuleAdapter):
    """cp is its "linsum" layer, tucker its "einsum" layer."""

    packages = ("spflow",)

    def build(self, task: Task) -> Any:
        """Build an Einet whose random factorisation is replaced by the task's tree."""
        owners = torch.zeros(task.size, len(task.leaves), 1)
        for region, variables in enumerate(task.leaves):
            owners[variables, region] = 1.0
        # There is no argument for a tree; this method alone decides which variables a leaf region holds.
        Factorize._factorize = lambda *_: owners
        leaf = Categorical(
            scope=Scope(list(range(task.size))), out_channels=task.units, num_repetitions=1, K=task.categories
        )
        return Einet(
            leaf_modules=[leaf],
            num_classes=1,
            num_sums=task.units,
            num_leaves=task.units,
            depth=task.depth,
            num_repetitions=1,
            layer_type="linsum" if task.layer == "cp" else "einsum",
            structure="top-down",
        )

    def log_prob(self, model: Any, values: Tensor) -> Tensor:
        """Return the log-likelihood of values as floats."""
        return model.log_likelihood(values.float()).flatten()

    def evidence(self, values: Tensor, hidden: Tensor) -> Tensor:
        """Return values with nan where hidden."""
        return with_nan(values, hidden)

    def log_evidence(self, model: Any, evidence: Tensor) -> Tensor:
        """Return the log-likelihood."""
        return model.log_likelihood(evidence).flatten()

    def sample(self, model: Any, count: int) -> Tensor:
        """Draw top-down."""
        with torch.no_grad():
            return model.sample(num_samples=count)


if __name__ == "__main__":
    serve(SPFlowAdapter())
