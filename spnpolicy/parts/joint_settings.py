"""What all learners of a joint policy against a factor-graph critic have: settings, and the critic's graph."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Literal

from circuits import StructureError
from factor_q import FactorGraph, random_pairs
from spnpolicy.base.decoding import require
from spnpolicy.base.errors import ConfigError
from spnpolicy.base.ranges import Amount, Range
from spnpolicy.parts.settings import AdamSettings, DataSettings, TargetUpdate, step_size
from spnpolicy.parts.temperature import TemperatureConfig


@dataclass(frozen=True)
class JointSettings(DataSettings):
    """Settings of all learners that set a policy over joint actions against a factor-graph critic."""

    critic: AdamSettings = field(default_factory=step_size(1e-3))
    """How action values descend."""
    actor: AdamSettings = field(default_factory=step_size(1e-3))
    """How the policy descends."""
    num_pairs: Amount = 20
    """Pair factors of the critic: all pairs of agents if they are no more than this, else so many at random, and never
    fewer than give every agent a partner; 0 for none at all."""
    pairs: tuple[tuple[Amount, Amount], ...] = ()
    """The pair factors of the critic themselves, by the agents' numbers, instead of `num_pairs`; what
    `factor_q.learn_factor_graph` finds in joint actions and returns, for example."""
    rivalry: Annotated[int, Range(0, 64)] = 0
    """Where agents choose among things that they see (`Entities.actions`): so many numbers per agent and thing say what
    two agents take from each other who choose the same one, for all pairs of agents at the cost of single ones. The
    expectation is exact for independent agents only, so it is for mean_field, and for num_pairs 0."""
    critics: Annotated[int, Range(1, 2)] = 1
    """2: two critics that start differently, and the smaller expectation counts; against values that are too high."""
    value_bounds: bool = True
    """Hold values of what follows within what the rewards seen so far allow, see `RewardBounds`."""
    state: Literal["none", "critic", "both"] = "none"
    """Who also sees the state of the environment, beside all agents' observations: where these do not show everything,
    a critic that sees it is right on average of what a policy that does not will earn; and "both" needs it in play."""
    plays_by: Literal["online", "target"] = "online"
    """Whose policy plays, and is valued in targets: what has learned the most, or the copies that follow slowly. These
    keep still within a rollout and from one to the next, which a few passes over it do not."""
    potentials: Literal["own", "residual"] = "own"
    """What the policy's network gives: all potentials of actions and pairs, or what is to be added to those of the
    critic, which are its tables over the temperature. A new policy is then at once as good as the circuit can follow
    these tables, and exactly their Boltzmann policy where the circuit can hold it."""
    shares_encoder: bool = False
    """With potentials "residual": the policy's network begins at what the critic's made of the observations, instead of
    encoding them anew; it passes no gradient on, and one pass serves both."""
    entropy_reference: Literal["uniform", "none"] = "uniform"
    """Measure entropy against the uniform policy, so that staying alive is never paid; "none" is the plain entropy."""
    entropy_counts: Literal["at_every_step", "where_it_bootstraps"] = "at_every_step"
    """Where a lambda-return counts the entropy of the states that it passes: at every step that was played, or only in
    the value of the state from which it bootstraps, which takes less from, or adds less to, what is far ahead. With a
    trace of 0 there is no difference."""
    temperature: TemperatureConfig = field(default_factory=TemperatureConfig)
    """Weight of the entropy."""
    target: TargetUpdate = field(default_factory=TargetUpdate)
    """How the target critic follows."""

    def __post_init__(self) -> None:
        super().__post_init__()
        is_unused = len(self.pairs) > 0 and self.num_pairs != JointSettings.num_pairs
        if self.shares_encoder and (self.potentials != "residual" or self.state == "critic"):
            raise ConfigError(
                "shares_encoder is for potentials 'residual', and not for state 'critic': a policy that reads the "
                "critic's codes sees what the critic sees."
            )
        require(not is_unused, "num_pairs", self.num_pairs, "left out where pairs are given")
        if self.rivalry:
            require(self.critics == 1, "critics", self.critics, "1 with rivalry")
            require(self.num_pairs == 0, "num_pairs", self.num_pairs, "0 with rivalry, which counts all pairs")
            require(not self.pairs, "pairs", self.pairs, "left out with rivalry, which counts all pairs")


def critic_graph(config: JointSettings, cardinalities: tuple[int, ...], seed: int) -> FactorGraph:
    """Return the critic's graph: a value of the state, every agent alone, and the pairs that a config asks for.

    Raises:
        ConfigError: a pair names an agent that is not there, or one twice.
    """
    scopes: Iterable[tuple[int, ...]] = ((agent,) for agent in range(len(cardinalities)))
    if not config.pairs and config.num_pairs:
        enough = -(-len(cardinalities) // 2)
        scopes = random_pairs(cardinalities, max(config.num_pairs, enough), seed=seed).scopes
    try:
        return FactorGraph(cardinalities, [(), *scopes, *config.pairs])
    except StructureError as problem:
        raise ConfigError(f"pairs is {config.pairs!r}: {problem}") from problem
