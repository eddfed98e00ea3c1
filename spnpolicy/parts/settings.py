"""Settings that many algorithms have in common: frozen records, to be inherited by their `Config`.

One rule for step sizes: what estimates values is the critic, what chooses or proposes actions without asking values is
the actor. `critic.learning_rate` and `actor.learning_rate` mean this in every algorithm; one that has no actor, or no
critic, has no such setting.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Annotated, ClassVar, Literal

import torch
from torch import nn

from spnpolicy.base.decoding import Checked
from spnpolicy.base.errors import ConfigError
from spnpolicy.base.ranges import Amount, Count, Positive, Range, Repeats, Share, StepSize, Weight
from spnpolicy.data.protocol import Needs
from spnpolicy.networks.encoders import OVER_ENTITIES, Kind, Network, require_known_kind


@dataclass(frozen=True)
class LinearSchedule(Checked):
    """A number that goes straight from one value to another over the course of training."""

    start: Weight = 0.01
    """Value at the start."""
    end: Weight = 0.01
    """Value once the schedule is over."""
    share: Share = 0.8
    """Share of training over which it changes linearly."""

    def at(self, progress: float) -> float:
        """Return the value at this share of training; share 0 means `end` at once."""
        if progress >= self.share:
            return self.end
        return self.start + (self.end - self.start) * progress / self.share


@dataclass(frozen=True)
class EpsilonSchedule(LinearSchedule):
    """Probability of a random action over the course of training."""

    start: Share = 1.0
    """Probability at the start."""
    end: Share = 0.05
    """Probability once the schedule is over."""
    share: Share = 0.5
    """Share of training over which the probability falls linearly."""


@dataclass(frozen=True)
class TargetUpdate(Checked):
    """When and how far the target network follows: soft (small rate, every step) or hard (rate 1, rarely)."""

    rate: StepSize = 0.01
    """Share of the way that the target moves in one update; 1 copies the online network."""
    every: Count = 1
    """Gradient steps between two updates of the target."""

    @torch.no_grad()
    def apply(self, target: nn.Module, online: nn.Module, updates: int) -> None:
        """Update the target if it is due after this many gradient steps."""
        if updates % self.every:
            return
        for slow, fast in zip(target.parameters(), online.parameters(), strict=True):
            slow.lerp_(fast, self.rate)


@dataclass(frozen=True)
class AdamSettings(Checked):
    """How one network descends."""

    learning_rate: Positive = 5e-4
    """Step size of Adam."""
    final: Share = 1.0
    """What is left of the step size at the end of training."""
    falls_after: Annotated[float, Range(0.0, 0.99)] = 0.5
    """Share of training after which it begins to fall, in a straight line."""
    method: Literal["adam", "radam", "muon"] = "adam"
    """"radam" takes small steps until the size of gradients is known, over about a thousand of them, so that values do
    not run ahead of a critic that has hardly seen a reward. "muon" does so with everything but matrices; these move
    equally far in all directions. Sources: Liu et al. 2020; Jordan et al. 2024."""

    def step_size_at(self, progress: float) -> float:
        """Return the step size at this share of training."""
        fallen = max((progress - self.falls_after) / (1.0 - self.falls_after), 0.0)
        return self.learning_rate * (1.0 - (1.0 - self.final) * fallen)


def step_size(learning_rate: float) -> Callable[[], AdamSettings]:
    """Return the default of a field: descent with this step size."""
    return lambda: AdamSettings(learning_rate)


@dataclass(frozen=True)
class LearnerSettings(Checked):
    """What every learner with a network has."""

    discount: Share = 0.95
    """Worth of a reward one step later; a training run sets it."""
    network: Network = field(default_factory=Network)
    """What the networks are made of."""
    max_gradient_norm: Positive = 10.0
    """Longer gradients are shortened to this norm."""

    network_kinds: ClassVar[tuple[Kind, ...]] = ("mlp", "entities", "exchangeable")
    """Kinds of networks that the algorithm can use."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_known_kind(self)


@dataclass(frozen=True)
class DataSettings(LearnerSettings):
    """What learners have that can learn from replay or from fresh steps, because their targets allow both."""

    critic: AdamSettings = field(default_factory=AdamSettings)
    """How action values descend."""
    rollout: Count | None = None
    """Learn from the newest so many steps of every environment, each used in one update only; none: from replay."""
    passes: Repeats = 1
    """Times that a rollout is gone through, towards targets that were worked out once."""
    minibatch: Count | None = None
    """Steps of a rollout in one gradient step, about; none: all of them. For recurrent networks they are whole windows
    of environments."""
    trace: Share = 0.0
    """lambda of the targets: 0 for one-step targets; more looks further ahead in a rollout or in what was stored. From
    replay this is Peng's Q(lambda): returns of the play that was stored, of which the team's greedy play is a small
    part, 2 to 4 % of the joint actions of vdn on 5x5 coverage with 3 agents. There, after 64,000 steps, it reached 0.31
    of the optimum with single transitions, 0.25 with windows (less varied), 0.18 with a trace of 0.7 in them, and 0.27
    with that trace cut where the stored action is not the greedy one, which leaves little of it (means of 3 runs, from
    0.11 to 0.41). Windows of 4 steps, where little of what was stored is looked at, gave 0.27 with the trace. Little
    exploration is no way out: from 0.1 on, 0.21 with single transitions, 0.05 with the trace."""
    sequence_length: Count = 16
    """Consecutive steps that are drawn from replay at a time for a recurrent network, for a trace or by `windows`."""
    burn_in: Amount = 0
    """Steps before each sequence from which a recurrent network only warms up its memory: what was remembered when they
    were stored came from older weights. They cost time, are not learned from, and pass no gradient on."""
    windows: bool = False
    """Draw windows of `sequence_length` steps where single transitions would do: less varied, but values of what
    followed are then those of the next rows, which can save a pass through the network."""


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

    network_kinds: ClassVar[tuple[Kind, ...]] = ("mlp", "entities", "exchangeable", "recurrent")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network.kind in OVER_ENTITIES and not self.share_parameters:
            raise ConfigError(f"share_parameters is False, but must be True with network.kind {self.network.kind!r}.")


@dataclass(frozen=True)
class ValueSettings(AgentSettings, DoubleSettings):
    """What learners of each agent's action values have."""


@dataclass(frozen=True)
class RolloutSettings(LearnerSettings):
    """What learners of policies have whose gradients are right for the newest steps only."""

    actor: AdamSettings = field(default_factory=AdamSettings)
    """How policies descend."""
    rollout: Count = 10
    """Steps of every environment in one update; each is used in one update only."""
    entropy: LinearSchedule = field(default_factory=lambda: LinearSchedule(0.3, 0.01))
    """Weight of the policies' entropy per nat: in standard deviations of the advantages if these are normalised, else
    in units of reward. It begins large enough to hold policies open and ends small. On climbing, 1,000 updates of ia2c,
    maa2c, coma and reinforce so ended in the equilibrium worth 7 in 4 of 4 runs each; with 0.01 units of reward, 3 of 4
    runs of maa2c stiffened on (C, C), worth 5, which is none. On 5x5 coverage maa2c reached 0.30 of the optimum in
    64,000 steps either way (means of 4 runs)."""
    normalize_advantage: bool = True
    """Bring each agent's advantages in a rollout to mean 0 and standard deviation 1, so that the entropy's weight and
    the size of a step mean the same in games of any scale."""


@dataclass(frozen=True)
class CriticSettings(RolloutSettings):
    """What they have with a critic beside."""

    critic: AdamSettings = field(default_factory=AdamSettings)
    """How values descend."""
    trace: Share = 1.0
    """lambda of the returns: 0 for one-step targets, 1 for the return to the end of the rollout."""
    target: TargetUpdate = field(default_factory=TargetUpdate)
    """How the target critic follows, from which returns bootstrap."""


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
        unused = ("sequence_length", "burn_in", "windows")
        _refuse(config, unused, f"rollout is {config.rollout}, which is learned from whole")
        return Needs(rollout=config.rollout, memory_size=memory_size, passes=config.passes)
    _refuse(config, ("passes", "minibatch"), "they are for a rollout, and what is learned from is drawn from replay")
    if not memory_size:
        _refuse(config, ("burn_in",), "the network has no memory to warm up: set network.kind 'recurrent'")
    if not needs_windows:
        _refuse(config, ("sequence_length",), "single transitions are drawn without a trace, a memory or windows")
        return Needs()
    return Needs(sequence=config.sequence_length, burn_in=config.burn_in if memory_size else 0, memory_size=memory_size)


def _refuse(config: DataSettings, names: tuple[str, ...], reason: str) -> None:
    for known in fields(config):
        if known.name in names and (value := getattr(config, known.name)) != known.default:
            raise ConfigError(f"{known.name} is {value}, but {reason}: leave {known.name} out.")
