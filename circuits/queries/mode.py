"""The most probable joint value, exactly."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.engine.descent import descend
from circuits.engine.layers import SumLayer
from circuits.engine.passes import max_up
from circuits.queries.entropy import require_deterministic
from circuits.weights import WeightedCircuit


class Best(NamedTuple):
    """A joint value that nothing beats, or several, best first; in the order of `CircuitDistribution.map`."""

    assignment: Int[Tensor, "*best variables"]
    value: Float[Tensor, "*best"]
    """Its log probability, in nats; of a Q-function, its value."""


def mode(distribution: WeightedCircuit) -> Best:
    """Return the most probable joint value and its log probability, exactly.

    Ties go to the first child of the sum node.

    Returns:
        Assignment, shape (*batch, variables), and log probability, shape (*batch,). No gradient.

    Raises:
        NotTractableError: some sum is not deterministic, so the maximum over children is not the maximum
            of the sum. The message names the node.
    Requires: determinism.
    Cost: one upward pass.
    Source: Choi, Vergari, Van den Broeck 2020, Probabilistic Circuits, section on MAP.
    """
    require_deterministic(distribution, "the exact mode", "or take the best of many samples by log_prob")
    compiled = distribution.circuit.compiled
    with torch.no_grad():
        weights = distribution.log_weights.detach().reshape(compiled.num_parameters, distribution.batch_shape.numel())
        values, best = max_up(compiled, weights)

        def pick(position: int, _: SumLayer, sums: Tensor, columns: Tensor) -> Tensor:
            return best[position][sums, columns]

        chosen = descend(compiled, pick, weights.shape[1], weights.device)
    batch = distribution.batch_shape
    return Best(chosen.reshape(*batch, len(compiled.cardinalities)), values[compiled.root].reshape(batch))
