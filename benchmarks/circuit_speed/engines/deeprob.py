"""Adapter of deeprob-kit's RAT-SPN, with a categorical leaf, which it lacks."""

# pyright: reportMissingImports=false, reportUntypedBaseClass=false

from typing import Any

import torch
from deeprob.spn.layers.ratspn import RegionGraphLayer
from deeprob.spn.models import ratspn
from deeprob.utils.region import RegionGraph
from torch import Tensor, nn

from benchmarks.circuit_speed.adapter import ModuleAdapter, with_nan
from benchmarks.circuit_speed.task import Task
from benchmarks.circuit_speed.worker import serve


class _Leaf:
    """The two methods of a distribution that its region layer calls, for categoricals."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def log_prob(self, values: Tensor) -> Tensor:
        """Return log probabilities, nan where nan: (batch, regions, 1, places) -> (batch, regions, units, places)."""
        table = torch.log_softmax(self.logits, -1).permute(0, 2, 3, 1)  # (regions, places, categories, units)
        regions, places = (torch.arange(count) for count in table.shape[:2])
        values = values.squeeze(2)
        chosen = table[regions[:, None], places, values.nan_to_num(0.0).long()]
        return chosen.masked_fill(values.isnan().unsqueeze(-1), float("nan")).transpose(2, 3)

    def sample(self, shape: list[int]) -> Tensor:
        """Return samples of every leaf."""
        return torch.distributions.Categorical(logits=self.logits, validate_args=False).sample(shape).float()


class CategoricalLayer(RegionGraphLayer):
    """Categorical inputs in the manner of its `BernoulliLayer`."""

    def __init__(self, *args: Any, categories: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logits = nn.Parameter(torch.randn(self.in_regions, self.out_channels, self.dimension, categories))

    @property
    def distribution(self) -> _Leaf:
        """The distribution with the present logits."""
        return _Leaf(self.logits)

    @distribution.setter
    def distribution(self, value: None) -> None:
        """Ignore the base class, which starts with none."""

    def distribution_mode(self) -> Tensor:
        """Return the most probable category of every leaf."""
        return self.logits.argmax(-1).float()


def fixed_region_graph(task: Task) -> type[RegionGraph]:
    """Return a region graph class that has the task's tree instead of a random one."""

    class FixedRegionGraph(RegionGraph):
        def random_layers(self) -> list[list[tuple]]:
            regions: list[tuple] = [tuple(leaf) for leaf in task.leaves]
            layers = [regions]
            while len(regions) > 1:
                partitions = list(zip(regions[::2], regions[1::2], strict=True))
                regions = [left + right for left, right in partitions]
                layers += [partitions, regions]
            return layers[::-1]

    return FixedRegionGraph


class DeeprobAdapter(ModuleAdapter):
    """It has no cp layer, and pads leaf regions to equal size with parameters that are never used."""

    packages = ("deeprob-kit",)

    def build(self, task: Task) -> Any:
        """Build a RAT-SPN with the task's tree."""
        if task.layer != "tucker":
            raise NotImplementedError("has no layer of element-wise products")
        ratspn.RegionGraph = fixed_region_graph(task)
        return ratspn.RatSpn(
            task.size,
            CategoricalLayer,
            {"categories": task.categories},
            rg_depth=task.depth,
            rg_repetitions=1,
            rg_batch=task.units,
            rg_sum=task.units,
        )

    def log_prob(self, model: Any, values: Tensor) -> Tensor:
        """Call the module."""
        return model(values.float()).flatten()

    def evidence(self, values: Tensor, hidden: Tensor) -> Tensor:
        """Return values with nan where hidden."""
        return with_nan(values, hidden)

    def log_evidence(self, model: Any, evidence: Tensor) -> Tensor:
        """Call the module."""
        return model(evidence).flatten()

    def sample(self, model: Any, count: int) -> Tensor:
        """Draw top-down."""
        return model.sample(count)


if __name__ == "__main__":
    serve(DeeprobAdapter())
