"""Settings that many algorithms have in common: frozen records, to be inherited by their `Config`.

One rule for step sizes: what estimates values is the critic, what chooses or proposes actions without asking values is
the actor. `critic.learning_rate` and `actor.learning_rate` mean this in every algorithm; one that has no actor, or no
critic, has no such setting.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import ClassVar

import torch
from torch import nn

from spnpolicy.base.decoding import require
from spnpolicy.base.errors import ConfigError
from spnpolicy.data.protocol import Needs
from spnpolicy.networks.encoders import Kind, Network, require_known_kind


@dataclass(frozen=True)
class LinearSchedule:
    """A number that goes straight from one value to another over the course of training."""

    start: float = 0.01
    """Value at the start."""
    end: float = 0.01
    """Value once the schedule is over."""
    share: float = 0.8
    """Share of training over which it changes linearly."""

    def __post_init__(self) -> None:
        require(0.0 <= self.share <= 1.0, "share", self.share, "between 0 and 1")

    def at(self, progress: float) -> float:
        """Return the value at this share of training; share 0 means `end` at once."""
        if progress >= self.share:
            return self.end
        return self.start + (self.end - self.start) * progress / self.share


@dataclass(frozen=True)
class EpsilonSchedule(LinearSchedule):
    """Probability of a random action over the course of training."""

    start: float = 1.0
    """Probability at the start."""
    end: float = 0.05
    """Probability once the schedule is over."""
    share: float = 0.5
    """Share of training over which the probability falls linearly."""

    def __post_init__(self) -> None:
        for name in ("start", "end", "share"):
            value = getattr(self, name)
            require(0.0 <= value <= 1.0, f"exploration.{name}", value, "between 0 and 1")


@dataclass(frozen=True)
class TargetUpdate:
    """When and how far the target network follows: soft (small rate, every step) or hard (rate 1, rarely)."""

    rate: float = 0.01
    """Share of the way that the target moves in one update; 1 copies the online network."""
    every: int = 1
    """Gradient steps between two updates of the target."""

    def __post_init__(self) -> None:
        require(0.0 < self.rate <= 1.0, "target.rate", self.rate, "above 0 and at most 1")
        require(self.every >= 1, "target.every", self.every, "at least 1")

    @torch.no_grad()
    def apply(self, target: nn.Module, online: nn.Module, updates: int) -> None:
        """Update the target if it is due after this many gradient steps."""
        if updates % self.every:
            return
        for slow, fast in zip(target.parameters(), online.parameters(), strict=True):
            slow.lerp_(fast, self.rate)


@dataclass(frozen=True)
class AdamSettings:
    """How one network descends."""

    learning_rate: float = 5e-4
    """Step size of Adam."""

    def __post_init__(self) -> None:
        require(self.learning_rate > 0.0, "learning_rate", self.learning_rate, "above 0")


def step_size(learning_rate: float) -> Callable[[], AdamSettings]:
    """Return the default of a field: descent with this step size."""
    return lambda: AdamSettings(learning_rate)


@dataclass(frozen=True)
class LearnerSettings:
    """What every learner with a network has."""

    discount: float = 0.95
    """Worth of a reward one step later; a training run sets it."""
    network: Network = field(default_factory=Network)
    """What the networks are made of."""
    max_gradient_norm: float = 10.0
    """Longer gradients are shortened to this norm."""

    network_kinds: ClassVar[tuple[Kind, ...]] = ("mlp", "entities")
    """Kinds of networks that the algorithm can use."""

    def __post_init__(self) -> None:
        require_known_kind(self)
        require(self.max_gradient_norm > 0.0, "max_gradient_norm", self.max_gradient_norm, "above 0")


@dataclass(frozen=True)
class DataSettings(LearnerSettings):
    """What learners have that can learn from replay or from fresh steps, because their targets allow both."""

    critic: AdamSettings = field(default_factory=AdamSettings)
    """How action values descend."""
    rollout: int | None = None
    """Learn from the newest so many steps of every environment, each used in one update only; none: from replay."""
    trace: float = 0.0
    """lambda of the targets: 0 for one-step targets; more looks further ahead in a rollout or in what was stored (from
    replay this is Peng's Q(lambda), not corrected for exploration)."""
    sequence_length: int = 16
    """Consecutive steps that are drawn from replay at a time for a recurrent network, for a trace or by `windows`."""
    windows: bool = False
    """Draw windows of `sequence_length` steps where single transitions would do: less varied, but values of what
    followed are then those of the next rows, which can save a pass through the network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rollout is None or self.rollout >= 1, "rollout", self.rollout, "at least 1, or none for replay")
        require(0.0 <= self.trace <= 1.0, "trace", self.trace, "between 0 and 1")
        require(self.sequence_length >= 1, "sequence_length", self.sequence_length, "at least 1")


@dataclass(frozen=True)
class GreedySettings(DataSettings):
    """What learners of action values have that act by the best value and now and then at random."""

    target: TargetUpdate = field(default_factory=TargetUpdate)
    """How the target networks follow."""
    exploration: EpsilonSchedule = field(default_factory=EpsilonSchedule)
    """Probability of a random action."""


@dataclass(frozen=True)
class DoubleSettings(GreedySettings):
    """The same, where the choice of the next action can be told from its value."""

    double_q: bool = True
    """Choose next actions with the online network, value them with the target network."""


@dataclass(frozen=True)
class AgentSettings(LearnerSettings):
    """What learners with one network per agent have."""

    share_parameters: bool = True
    """One set of weights for all agents, which are told apart by their number; false gives each its own."""

    network_kinds: ClassVar[tuple[Kind, ...]] = ("mlp", "entities", "recurrent")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network.kind == "entities" and not self.share_parameters:
            raise ConfigError("share_parameters is False, but must be True with network.kind 'entities'.")


@dataclass(frozen=True)
class ValueSettings(AgentSettings, DoubleSettings):
    """What learners of each agent's action values have."""


@dataclass(frozen=True)
class RolloutSettings(LearnerSettings):
    """What learners of policies have whose gradients are right for the newest steps only."""

    actor: AdamSettings = field(default_factory=AdamSettings)
    """How policies descend."""
    rollout: int = 10
    """Steps of every environment in one update; each is used in one update only."""
    entropy: LinearSchedule = field(default_factory=LinearSchedule)
    """Weight of the policies' entropy, in units of reward per nat."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rollout >= 1, "rollout", self.rollout, "at least 1")


@dataclass(frozen=True)
class CriticSettings(RolloutSettings):
    """What they have with a critic beside."""

    critic: AdamSettings = field(default_factory=AdamSettings)
    """How values descend."""
    trace: float = 1.0
    """lambda of the returns: 0 for one-step targets, 1 for the return to the end of the rollout."""
    target: TargetUpdate = field(default_factory=TargetUpdate)
    """How the target critic follows, from which returns bootstrap."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0.0 <= self.trace <= 1.0, "trace", self.trace, "between 0 and 1")


@dataclass(frozen=True)
class AgentCriticSettings(AgentSettings, CriticSettings):
    """Policies and critics with one network per agent."""


def data_needs(config: DataSettings | RolloutSettings, memory_size: int = 0) -> Needs:
    """Return what a learner needs: fresh steps, windows from replay, or single transitions.

    Args:
        config: where to learn from.
        memory_size: of the network that acts, which needs windows if it has one.

    Raises:
        ConfigError: a setting was changed that has no influence on data of this kind.
    """
    if isinstance(config, RolloutSettings):
        return Needs(rollout=config.rollout, memory_size=memory_size)
    needs_windows = memory_size > 0 or config.trace > 0.0 or config.windows
    if config.rollout is not None:
        _refuse(config, ("sequence_length", "windows"), f"rollout is {config.rollout}, which is learned from whole")
        return Needs(rollout=config.rollout, memory_size=memory_size)
    if not needs_windows:
        _refuse(config, ("sequence_length",), "single transitions are drawn without a trace, a memory or windows")
    return Needs(sequence=config.sequence_length if needs_windows else None, memory_size=memory_size)


def _refuse(config: DataSettings, names: tuple[str, ...], reason: str) -> None:
    for known in fields(config):
        if known.name in names and (value := getattr(config, known.name)) != known.default:
            raise ConfigError(f"{known.name} is {value}, but {reason}: leave {known.name} out.")
