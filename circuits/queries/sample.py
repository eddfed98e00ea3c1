"""Exact samples: from the root down, each sum draws one of its children."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from circuits.engine.descent import descend
from circuits.engine.layers import SumLayer
from circuits.numerics import choose, choose_from_table
from circuits.shapes import check_sample_shape
from circuits.weights import WeightedCircuit

_CHUNK = 1 << 24
"""Numbers that one choice may gather at a time."""


def sample(
    distribution: WeightedCircuit, sample_shape: Sequence[int], *, generator: torch.Generator | None = None
) -> Int[Tensor, "*shape variables"]:
    """Draw exact samples of all variables together.

    Args:
        distribution: batch shape (*batch).
        sample_shape: how many draws per batch row.
        generator: source of randomness; torch's global generator when None.

    Returns:
        Integers, shape (*sample_shape, *batch, variables). An impossible value is never drawn.

    Raises:
        EvidenceError: the shape has a negative entry.
        NotTractableError: more than 2^30 numbers are wanted at once.
    Cost: one categorical draw per active sum, about O(variables * fan-in) per sample.
    """
    compiled, batch = distribution.circuit.compiled, distribution.batch_shape
    draws = check_sample_shape(sample_shape, batch.numel() * len(compiled.cardinalities))
    with torch.no_grad():
        batch_size = batch.numel()
        weights = distribution.weights.detach().reshape(compiled.num_parameters, batch_size)

        def draw(_: int, layer: SumLayer, sums: Tensor, columns: Tensor) -> Tensor:
            options = layer.fold(weights[layer.edges])
            rows = columns % batch_size
            if len(sums) > layer.size * batch_size:
                uniform = torch.rand(len(sums), dtype=torch.float64, device=weights.device, generator=generator)
                table = options.transpose(1, 2).reshape(-1, layer.fan_in)
                return choose_from_table(table, sums * batch_size + rows, uniform)
            uniform = torch.rand(len(sums), dtype=weights.dtype, device=weights.device, generator=generator)
            size = max(1, _CHUNK // layer.fan_in)
            parts = zip(sums.split(size), rows.split(size), uniform.split(size), strict=True)
            return torch.cat([choose(options[s, :, r], u) for s, r, u in parts])

        values = descend(compiled, draw, draws.numel() * batch_size, weights.device)
    return values.reshape(*draws, *batch, len(compiled.cardinalities))
