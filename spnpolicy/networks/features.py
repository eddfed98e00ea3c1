"""Fixed features of observations, computed before any network."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from spnpolicy.base.decoding import Checked
from spnpolicy.base.ranges import Range


@dataclass(frozen=True)
class FourierFeatures(Checked):
    """Sines and cosines of every number of an observation, beside the number itself.

    A network of few layers learns sharp functions of a coordinate slowly (its kernel is smooth); on waves of several
    lengths they are nearly linear. On the 5x5 coverage task four frequencies cut the data needed several times.

    Source: Tancik et al. 2020; for reinforcement learning Li and Pathak 2021.
    """

    frequencies: Annotated[int, Range(0, 256)] = 4
    """Waves per number, of half-periods 1, 1/2, 1/3, ...; numbers should lie in [-1, 1]. 0 means none."""

    def size(self, observation_size: int) -> int:
        """Return how many features an observation of this size gives."""
        return observation_size * (1 + 2 * self.frequencies)

    def __call__(self, observation: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch more"]:
        """Return the features, shape (*batch, size(features))."""
        if not self.frequencies:
            return observation
        rates = torch.arange(1, self.frequencies + 1, dtype=observation.dtype, device=observation.device) * math.pi
        angles = (observation.unsqueeze(-1) * rates).flatten(-2)
        return torch.cat([observation, angles.sin(), angles.cos()], -1)
