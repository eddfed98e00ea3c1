"""The exact-ELBO actor-critic: a joint circuit policy trained on a multilinear factor-graph Q, without sampling."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits import Circuit, CircuitDistribution, StructureError, structures
from factor_q import FactorGraph, FactorQ, Factors, random_pairs
from spnpolicy.base.decoding import require
from spnpolicy.base.distributed import mean
from spnpolicy.base.errors import ConfigError
from spnpolicy.base.ranges import Amount, Count, Range
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.data.protocol import Batch
from spnpolicy.maths.losses import mean_of_valid, squared_td_loss
from spnpolicy.maths.masks import require_some_action, usable, zero_where_stuck
from spnpolicy.networks.encoders import encoder_for
from spnpolicy.networks.joint_values import JointValues, least
from spnpolicy.networks.policy import SPNPolicy
from spnpolicy.parts.learner import frozen_copy, improve, make_optimizer, saves
from spnpolicy.parts.reward_bounds import RewardBounds
from spnpolicy.parts.settings import AdamSettings, DataSettings, TargetUpdate, data_needs, step_size
from spnpolicy.parts.targets import value_target
from spnpolicy.parts.temperature import Temperature, TemperatureConfig, spread


@dataclass(frozen=True)
class SharedConfig(DataSettings):
    """Settings of all learners that set a policy over joint actions against a factor-graph critic."""

    critic: AdamSettings = field(default_factory=step_size(1e-3))
    """How action values descend."""
    actor: AdamSettings = field(default_factory=step_size(1e-3))
    """How the policy descends."""
    num_pairs: Count = 20
    """Pair factors of the critic: all pairs of agents if they are no more than this, else so many at random, and never
    fewer than give every agent a partner."""
    pairs: tuple[tuple[Amount, Amount], ...] = ()
    """The pair factors of the critic themselves, by the agents' numbers, instead of `num_pairs`; what
    `factor_q.learn_factor_graph` finds in joint actions and returns, for example."""
    critics: Annotated[int, Range(1, 2)] = 1
    """2: two critics that start differently, and the smaller expectation counts; against values that are too high."""
    value_bounds: bool = True
    """Hold values of what follows within what the rewards seen so far allow, see `RewardBounds`."""
    state: Literal["none", "critic", "both"] = "none"
    """Who also sees the state of the environment, beside all agents' observations: where these do not show everything,
    a critic that sees it is right on average of what a policy that does not will earn; and "both" needs it in play."""
    entropy_reference: Literal["uniform", "none"] = "uniform"
    """Measure entropy against the uniform policy, so that staying alive is never paid; "none" is the plain entropy."""
    temperature: TemperatureConfig = field(default_factory=TemperatureConfig)
    """Weight of the entropy."""
    target: TargetUpdate = field(default_factory=TargetUpdate)
    """How the target critic follows."""

    def __post_init__(self) -> None:
        super().__post_init__()
        is_unused = len(self.pairs) > 0 and self.num_pairs != SharedConfig.num_pairs
        require(not is_unused, "num_pairs", self.num_pairs, "left out where pairs are given")


@dataclass(frozen=True)
class Config(SharedConfig):
    """Settings of the exact-ELBO actor-critic."""

    structure: Literal["keep_set", "markov_chain", "mean_field"] = "keep_set"
    """Family of the policy's circuit."""
    labels: Annotated[int, Range(1, 4096)] = 36
    """Most labels per region of a keep_set circuit: its capacity for joint behaviour."""


Solver = Callable[[Factors, Bool[Tensor, "*batch agents actions"], float], CircuitDistribution]
"""Finds the policy for given action values, available actions and temperature, without a network."""


@saves(
    "critic", "actor", "target_critic", "critic_optimizer", "actor_optimizer", "temperature", "bounds", "num_updates"
)
class SPNActorCritic:
    """Maximum-entropy actor-critic whose actor and bootstrap are exact expectations under a joint policy.

    The actor maximises E_pi[Q(s, u)] + alpha H(pi(.|s)), in closed form for a deterministic circuit and a
    multilinear Q; the critic regresses on y = r + discount (1 - d) (E_pi'[Q_target(s', u)] + alpha H(pi')). Neither
    samples actions. Exploration is sampling from the policy; greedy play is its exact mode. The common reward is the
    mean over agents.

    With a trace above 0 the target looks further ahead, along the joint actions that were taken: a soft lambda-return,
    in which every state on the way adds its entropy's worth. On fresh rollouts this is unbiased.

    Relatives are made of its parts: with a `solver` the policy comes from the critic's tables instead of the actor's
    network, which then is not trained; and `learn` takes another actor loss, `target` another value of what follows.

    Source: Vora, Centralised MARL by leveraging tractable inference; Shih and Ermon 2020 for the exact ELBO.
    """

    def __init__(self, config: Config, spec: EnvSpec, streams: Streams, solver: Solver | None = None) -> None:
        self.config = config
        self._solver = solver
        self._spec = spec
        graph = critic_graph(config, spec.cardinalities, seed=streams.integer("pairs"))
        circuit = build_circuit(config, graph)
        self._critic_sees_state, self._actor_sees_state = config.state != "none", config.state == "both"
        with streams.initialization("spn_ac"):
            network = config.network
            options = {"hidden": network.hidden, "per_agent": True, "agent_id": network.tells_agents_apart}
            encoders = [encoder_for(network, spec, sees_state=self._critic_sees_state) for _ in range(config.critics)]
            self.critic = JointValues([FactorQ(graph, encoder=encoder, **options) for encoder in encoders])
            encoder = encoder_for(network, spec, sees_state=self._actor_sees_state)
            pairs = [(scope[0], scope[1]) for scope in graph.scopes if len(scope) == 2]
            self.actor = SPNPolicy(circuit, encoder=encoder, pairs=pairs, **options)
        self.target_critic = frozen_copy(self.critic)
        self.critic_optimizer = make_optimizer(self.critic.parameters(), config.critic.learning_rate)
        self.actor_optimizer = make_optimizer(self.actor.parameters(), config.actor.learning_rate)
        self.temperature = Temperature(config.temperature)
        self.bounds = RewardBounds(config.discount)
        self.num_updates = 0
        self.needs = data_needs(config)
        self._generator = streams.torch("exploration")

    def policy_at(self, step: Step) -> CircuitDistribution:
        """Return the joint policy of every environment, with forbidden actions ruled out; always on the CPU."""
        require_some_action(step.available_actions)
        device = next(self.critic.parameters()).device
        with torch.no_grad():
            observation, state = (
                torch.tensor(array, dtype=torch.float32, device=device) for array in (step.observation, step.state)
            )
            pi = self.policy(observation, state, torch.tensor(step.available_actions, device=device))
            # The random streams live on the CPU, so that a seed means the same on every device.
            return pi if device.type == "cpu" else CircuitDistribution(pi.circuit, pi.logits.cpu())

    def act(self, step: Step, *, explore: bool, progress: float = 1.0) -> Int[np.ndarray, "envs agents"]:
        """Sample joint actions, or take the exact mode."""
        pi = self.policy_at(step)
        return (pi.sample(generator=self._generator) if explore else pi.mode).numpy()

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Do one step of the critic, one of the actor, and one of the temperature."""
        target_t = self._targets(batch)
        q_t = self.values(self.critic, batch.observation, batch.state)
        pi = self.policy(batch.observation, batch.state, batch.available_actions)
        entropy = pi.entropy()
        bound = least(pi.expectation(q.detach()) for q in q_t) + self.temperature.value * entropy
        return self.learn(batch, q_t, target_t, -mean_of_valid(bound, batch.valid), bound, entropy, progress)

    def learn(
        self,
        batch: Batch,
        q_t: Sequence[Factors],
        target_t: Float[Tensor, "*batch"],
        actor_loss: Float[Tensor, ""],
        bound: Float[Tensor, "*batch"],
        entropy: Float[Tensor, "*batch"],
        progress: float,
    ) -> dict[str, float]:
        """Descend on the critic's and the actor's loss, then move temperature and target; all or nothing."""
        losses = {"critic": torch.stack([squared_td_loss(q(batch.actions), target_t, batch.valid) for q in q_t]).sum()}
        if self._solver is None:
            losses["actor"] = actor_loss
        numbers = improve(self, **losses)
        allowed = usable(batch.available_actions, self._spec.cardinalities)
        means = [
            float(mean_of_valid(each, batch.valid))
            for each in (entropy.detach(), self._largest_entropy(allowed), spread(q_t[0].detach(), allowed))
        ]
        mean_entropy, mean_largest, mean_spread = mean(*means)
        if all(map(math.isfinite, numbers.values())):
            self.temperature.update(mean_entropy, mean_largest, progress, mean_spread)
        mean_bound = float(mean_of_valid(bound.detach(), batch.valid))
        return numbers | {"elbo": mean_bound, "entropy": mean_entropy, "temperature": self.temperature.value}

    def values(self, critic: JointValues, observation: Tensor, state: Tensor) -> list[Factors]:
        """Return the action values that each network of a critic gives."""
        return critic(observation, state) if self._critic_sees_state else critic(observation)

    def policy(
        self, observation: Tensor, state: Tensor, available: Bool[Tensor, "*batch agents actions"]
    ) -> CircuitDistribution:
        """Return the joint policy at these observations, with forbidden actions ruled out."""
        allowed = usable(available, self._spec.cardinalities)
        if self._solver is not None:
            with torch.no_grad():
                q, *more = self.values(self.critic, observation, state)
                return self._solver(sum(more, q) / (1 + len(more)), allowed, self.temperature.value)
        pi: CircuitDistribution = self.actor(observation, state) if self._actor_sees_state else self.actor(observation)
        return pi.condition(allowed) if self._spec.has_action_masks else pi

    @torch.no_grad()
    def _targets(self, batch: Batch) -> Float[Tensor, "*batch"]:
        pi = self.policy(batch.next_observation, batch.next_state, batch.next_available_actions)
        entropy = pi.entropy()
        q_tp1 = self.values(self.target_critic, batch.next_observation, batch.next_state)
        value = least(pi.expectation(q) for q in q_tp1) + self.temperature.value * entropy
        return self.target(batch, value, entropy)

    def target(
        self, batch: Batch, value_tp1: Float[Tensor, "*batch"], entropy_tp1: Float[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch"]:
        """Return r + discount (1 - d) * soft value of the next state, or what looks further ahead with a trace.

        Args:
            batch: what happened.
            value_tp1: E[Q] + alpha * entropy of the next state.
            entropy_tp1: its part that is the entropy, which is measured against the uniform policy's if that is asked.
        """
        config, available = self.config, batch.next_available_actions
        bonus_tp1 = self.temperature.value * entropy_tp1
        largest = self.temperature.value * self._largest_entropy(usable(available, self._spec.cardinalities))
        if config.entropy_reference == "uniform":
            value_tp1, bonus_tp1 = value_tp1 - largest, bonus_tp1 - largest
        if config.value_bounds:
            self.bounds.observe(batch.reward.mean(-1), batch.valid)
            most = float(largest.max())
            bonus = {"least_bonus": -most} if config.entropy_reference == "uniform" else {"most_bonus": most}
            value_tp1 = self.bounds.hold(value_tp1, **bonus)
        return value_target(config, batch, zero_where_stuck(value_tp1, available), bonus_tp1=bonus_tp1)

    def _largest_entropy(self, allowed: Bool[Tensor, "*batch agents actions"]) -> Float[Tensor, "*batch"]:
        """Return the entropy of the uniform policy over the allowed joint actions, in nats."""
        if not self._spec.has_action_masks:
            largest = sum(math.log(k) for k in self._spec.cardinalities)
            return torch.full(allowed.shape[:-2], largest, device=allowed.device)
        return allowed.sum(-1).float().log().sum(-1)


def critic_graph(config: SharedConfig, cardinalities: tuple[int, ...], seed: int) -> FactorGraph:
    """Return the critic's graph: every agent alone, and the pairs that a config asks for.

    Raises:
        ConfigError: a pair names an agent that is not there, or one twice.
    """
    if not config.pairs:
        enough = -(-len(cardinalities) // 2)
        return random_pairs(cardinalities, max(config.num_pairs, enough), seed=seed)
    try:
        return FactorGraph(cardinalities, [*((agent,) for agent in range(len(cardinalities))), *config.pairs])
    except StructureError as problem:
        raise ConfigError(f"pairs is {config.pairs!r}: {problem}") from problem


def build_circuit(config: Config, graph: FactorGraph) -> Circuit:
    """Return the circuit that a config asks for, fitted to the critic's scopes where the family can be."""
    if config.structure == "keep_set":
        return structures.keep_set(graph.cardinalities, graph.scopes, labels=config.labels)
    return structures.STRUCTURES[config.structure](graph.cardinalities)
