"""Settings that many algorithms have in common: frozen records, to be inherited by their `Config`."""

from dataclasses import dataclass, field
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from spnpolicy.base.decoding import require
from spnpolicy.base.errors import ConfigError
from spnpolicy.data.protocol import Batch, Needs
from spnpolicy.maths.returns import lambda_target, q_target
from spnpolicy.networks.agents import AgentNetwork
from spnpolicy.networks.encoders import Kind, Network, require_known_kind
from spnpolicy.networks.layers import TargetUpdate
from spnpolicy.parts.exploration import EpsilonSchedule, linear_schedule


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
        if not 0.0 <= self.share <= 1.0:
            raise ConfigError(f"share is {self.share}, but must be between 0 and 1.")

    def at(self, progress: float) -> float:
        """Return the value at this share of training."""
        return linear_schedule(progress, start=self.start, end=self.end, share=self.share)


@dataclass(frozen=True)
class LearnerSettings:
    """What every learner with a network has."""

    discount: float = 0.95
    """Worth of a reward one step later; a training run sets it."""
    learning_rate: float = 5e-4
    """Step size of Adam."""
    network: Network = field(default_factory=Network)
    """What the networks are made of."""
    max_gradient_norm: float = 10.0
    """Longer gradients are shortened to this norm."""

    network_kinds: ClassVar[tuple[Kind, ...]] = ("mlp", "entities")
    """Kinds of networks that the algorithm can use."""

    def __post_init__(self) -> None:
        require_known_kind(self)
        require(self.learning_rate > 0.0, "learning_rate", self.learning_rate, "above 0")
        require(self.max_gradient_norm > 0.0, "max_gradient_norm", self.max_gradient_norm, "above 0")


@dataclass(frozen=True)
class ReplaySettings(LearnerSettings):
    """What learners of action values from replay have, whatever their networks are."""

    double_q: bool = True
    """Choose next actions with the online network, value them with the target network."""
    trace: float = 0.0
    """lambda of the targets: 0 for one-step targets; more looks further ahead in what was stored (Peng's Q(lambda),
    not corrected for exploration)."""
    sequence_length: int = 16
    """Consecutive steps that are learned from at a time by a recurrent network, or with a trace."""
    target: TargetUpdate = field(default_factory=TargetUpdate)
    """How the target network follows."""
    exploration: EpsilonSchedule = field(default_factory=EpsilonSchedule)
    """Probability of a random action."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.sequence_length >= 1, "sequence_length", self.sequence_length, "at least 1")
        require(0.0 <= self.trace <= 1.0, "trace", self.trace, "between 0 and 1")


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
class ValueSettings(AgentSettings, ReplaySettings):
    """What learners of each agent's action values from replay have."""

    windows: bool = False
    """Draw windows of `sequence_length` steps where single transitions would do: less varied, but values of what
    followed are then those of the next rows, which saves a pass through the network."""


def value_needs(config: ValueSettings, network: AgentNetwork) -> Needs:
    """Return what a learner of action values needs: single transitions, or windows for a memory, a trace or by wish."""
    needs_windows = network.is_recurrent or config.trace > 0.0 or config.windows
    return Needs(sequence=config.sequence_length if needs_windows else None, memory_size=network.memory_size)


def value_target(
    config: ValueSettings,
    batch: Batch,
    reward: Float[Tensor, "*batch more"],
    value_tp1: Float[Tensor, "*batch more"],
) -> Float[Tensor, "*batch more"]:
    """Return the targets of a batch: one-step targets, or with a trace those that look ahead in its windows.

    Args:
        config: its discount and trace are used.
        batch: says where the task or an episode ended.
        reward: of the team, or of each agent in an axis behind those of the batch.
        value_tp1: value of what each step led to, of the same shape.
    """
    more = (1,) * (reward.dim() - batch.terminated.dim())
    terminated = batch.terminated.reshape(batch.terminated.shape + more).expand_as(reward)
    if config.trace == 0.0 or batch.ended is None:
        return q_target(reward, config.discount, terminated, value_tp1)
    cut = batch.ended.clone()
    if batch.valid is not None:
        cut[:-1] |= ~batch.valid[1:]  # what followed is worthless: look no further
    ended = cut.reshape(cut.shape + more).expand_as(reward)
    return lambda_target(reward, config.discount, terminated, ended, value_tp1, config.trace)


@dataclass(frozen=True)
class PolicySettings(AgentSettings):
    """What on-policy learners of policies have."""

    rollout: int = 10
    """Steps of every environment in one update; each is used in one update only."""
    entropy: LinearSchedule = field(default_factory=LinearSchedule)
    """Weight of the policies' entropy, in units of reward per nat."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rollout >= 1, "rollout", self.rollout, "at least 1")


@dataclass(frozen=True)
class CriticSettings(PolicySettings):
    """What on-policy learners with a critic have."""

    critic_learning_rate: float = 5e-4
    """Step size of Adam on the critic."""
    trace: float = 1.0
    """lambda of the returns: 0 for one-step targets, 1 for the return to the end of the rollout."""
    target: TargetUpdate = field(default_factory=TargetUpdate)
    """How the target critic follows, from which returns bootstrap."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0.0 <= self.trace <= 1.0, "trace", self.trace, "between 0 and 1")
        require(self.critic_learning_rate > 0.0, "critic_learning_rate", self.critic_learning_rate, "above 0")
