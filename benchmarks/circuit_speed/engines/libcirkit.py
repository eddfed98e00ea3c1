"""Adapter of cirkit (PyPI: libcirkit), folded and optimised."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from typing import Any

import torch
from cirkit.backend.torch.queries import IntegrateQuery, SamplingQuery
from cirkit.pipeline import PipelineContext
from cirkit.templates.region_graph import PartitionNode, RegionGraph, RegionNode
from cirkit.templates.utils import Parameterization, name_to_input_layer_factory, parameterization_to_factory
from torch import Tensor

from benchmarks.circuit_speed.adapter import ModuleAdapter
from benchmarks.circuit_speed.task import Task
from benchmarks.circuit_speed.worker import serve


def region_graph(task: Task) -> RegionGraph:
    """Return the task's tree as a region graph."""
    level = [RegionNode(leaf) for leaf in task.leaves]
    nodes: list[Any] = [*level]
    inputs: dict[Any, list[Any]] = {}
    while len(level) > 1:
        above = []
        for left, right in zip(level[::2], level[1::2], strict=True):
            scope = left.scope | right.scope
            partition, region = PartitionNode(scope), RegionNode(scope)
            inputs[partition], inputs[region] = [left, right], [partition]
            nodes += [partition, region]
            above.append(region)
        level = above
    return RegionGraph(nodes, inputs, outputs=level)


class CirkitAdapter(ModuleAdapter):
    """Its "cp-t" layer is the element-wise product followed by a sum; its "cp" has the two the other way round."""

    packages = ("libcirkit",)

    def build(self, task: Task) -> Any:
        """Build the symbolic circuit and compile it as its documentation recommends."""
        softmax = parameterization_to_factory(Parameterization(activation="softmax", initialization="normal"))
        symbolic = region_graph(task).build_circuit(
            input_factory=name_to_input_layer_factory(
                "categorical", num_categories=task.categories, probs_factory=softmax
            ),
            sum_product="cp-t" if task.layer == "cp" else "tucker",
            sum_weight_factory=softmax,
            num_input_units=task.units,
            num_sum_units=task.units,
        )
        return PipelineContext(backend="torch", semiring="lse-sum", fold=True, optimize=True).compile(symbolic)

    def log_prob(self, model: Any, values: Tensor) -> Tensor:
        """Call the compiled circuit."""
        return model(values).flatten()

    def evidence(self, values: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values and the mask."""
        return values, hidden

    def log_evidence(self, model: Any, evidence: tuple[Tensor, Tensor]) -> Tensor:
        """Integrate what the mask hides."""
        return IntegrateQuery(model)(evidence[0], integrate_vars=evidence[1]).flatten()

    def sample(self, model: Any, count: int) -> Tensor:
        """Draw bottom-up."""
        with torch.no_grad():
            return SamplingQuery(model)(num_samples=count)[0]


if __name__ == "__main__":
    serve(CirkitAdapter())
