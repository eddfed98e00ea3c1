"""Networks and what keeps their targets up to date."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from spnpolicy.envs.protocol import EnvSpec
from spnpolicy.errors import ConfigError
from spnpolicy.features import FourierFeatures


def mlp(sizes: Sequence[int], *, output_gain: float = 1.0) -> nn.Sequential:
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
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def initialize_orthogonal(layer: nn.Linear, gain: float) -> nn.Linear:
    """Give a linear layer orthogonal weights of this gain and zero biases, and return it."""
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def existing_actions(cardinalities: Sequence[int]) -> Bool[Tensor, "agents actions"]:
    """Return which entries of the padded action axis are actions of each agent."""
    return torch.arange(max(cardinalities)) < torch.tensor(cardinalities)[:, None]


class AgentNetwork(nn.Module):
    """Action values of every agent from one set of weights.

    Agents are told apart by a one-hot number appended to their observation. It is never built: multiplied by
    the first layer it selects one column, so each agent has a first-layer offset of its own. Values start near 0:
    larger ones would be bootstrapped for thousands of steps before a sparse reward could be seen behind them.

    Args:
        spec: sizes of the environment.
        hidden: widths of the hidden layers; at least one.
        features: what the network sees of an observation.
    """

    def __init__(self, spec: EnvSpec, hidden: Sequence[int], features: FourierFeatures):
        super().__init__()
        if not hidden:
            raise ConfigError("hidden is empty, but the agents' network needs at least one hidden layer.")
        self.features = features
        size = features.size(spec.observation_size)
        first = nn.Linear(size + spec.num_agents, hidden[0])
        weight = initialize_orthogonal(first, math.sqrt(2)).weight.detach()
        # Own contiguous copies: the optimiser must not meet views of one tensor.
        self.observation_weight = nn.Parameter(torch.empty(hidden[0], size))
        self.agent_offset = nn.Parameter(torch.empty(spec.num_agents, hidden[0]))
        self.observation_weight.data.copy_(weight[:, :size])
        self.agent_offset.data.copy_(weight[:, size:].T)
        self.head = nn.Sequential(nn.ReLU(), *mlp((*hidden, max(spec.cardinalities)), output_gain=0.01))
        missing = ~existing_actions(spec.cardinalities)
        self.missing_actions: Tensor | None
        self.register_buffer("missing_actions", missing if missing.any() else None, persistent=False)

    def forward(self, observation: Float[Tensor, "*batch agents features"]) -> Float[Tensor, "*batch agents actions"]:
        """Return the value of every action, -inf where an agent has no such action."""
        embedded = nn.functional.linear(self.features(observation), self.observation_weight) + self.agent_offset
        values = self.head(embedded)
        if self.missing_actions is None:
            return values
        return values.masked_fill(self.missing_actions, -math.inf)


def frozen_copy(network: nn.Module) -> nn.Module:
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
