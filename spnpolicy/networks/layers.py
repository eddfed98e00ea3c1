"""Networks and what keeps their targets up to date."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spnpolicy.base.errors import ConfigError

Network = TypeVar("Network", bound=nn.Module)


class Rows(nn.Sequential):
    """Layers that see a batch of any shape as rows of one matrix.

    A linear layer given more axes returns a view, and changing a view in place costs three copies when gradients flow.
    """

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Apply the layers to every row."""
        rows = super().forward(x.reshape(-1, x.shape[-1]))
        return rows.reshape(*x.shape[:-1], rows.shape[-1])


def mlp(sizes: Sequence[int], *, output_gain: float = 1.0) -> Rows:
    """Build linear layers with a ReLU between any two of them.

    Weights start orthogonal with gain sqrt(2), the last ones with `output_gain`; biases start at zero.

    Args:
        sizes: width of the input, of every hidden layer and of the output; at least two numbers.
        output_gain: scale of the last layer's first weights.

    Returns:
        A module from [*batch, sizes[0]] to [*batch, sizes[-1]].
    """
    layers: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        is_last = index == len(sizes) - 2
        layers.append(initialize_orthogonal(nn.Linear(inputs, outputs), output_gain if is_last else math.sqrt(2)))
        if not is_last:
            # In place: no linear layer needs its output again, and a second copy costs a pass over memory.
            layers.append(nn.ReLU(inplace=True))
    return Rows(*layers)


def initialize_orthogonal(layer: nn.Linear, gain: float) -> nn.Linear:
    """Give a linear layer orthogonal weights of this gain and zero biases, and return it."""
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def frozen_copy(network: Network) -> Network:
    """Return a copy that gradients never reach: a target network at its start."""
    return copy.deepcopy(network).requires_grad_(False)


def soft_update(target: nn.Module, online: nn.Module, rate: float) -> None:
    """Move the target's parameters a share `rate` of the way to the online ones; 1 copies them."""
    with torch.no_grad():
        for slow, fast in zip(target.parameters(), online.parameters(), strict=True):
            slow.lerp_(fast, rate)


def hard_update(target: nn.Module, online: nn.Module) -> None:
    """Copy the online parameters into the target."""
    with torch.no_grad():
        for slow, fast in zip(target.parameters(), online.parameters(), strict=True):
            slow.copy_(fast)


@dataclass(frozen=True)
class TargetUpdate:
    """When and how far the target network follows: soft (small rate, every step) or hard (rate 1, rarely)."""

    rate: float = 0.01
    """Share of the way that the target moves in one update; 1 copies the online network."""
    every: int = 1
    """Gradient steps between two updates of the target."""

    def __post_init__(self):
        if not 0.0 < self.rate <= 1.0:
            raise ConfigError(f"target.rate is {self.rate}, but must be above 0 and at most 1.")
        if self.every < 1:
            raise ConfigError(f"target.every is {self.every}, but must be at least 1.")

    def apply(self, target: nn.Module, online: nn.Module, updates: int) -> None:
        """Update the target if it is due after this many gradient steps."""
        if updates % self.every:
            return
        if self.rate == 1.0:
            hard_update(target, online)
        else:
            soft_update(target, online, self.rate)
