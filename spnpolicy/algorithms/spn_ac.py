"""The exact-ELBO actor-critic: a joint circuit policy trained on a multilinear factor-graph Q, without sampling."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits import Circuit, CircuitDistribution, structures
from factor_q import FactorGraph, FactorQ, Factors, random_pairs
from spnpolicy.base.decoding import require
from spnpolicy.base.distributed import mean
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.data.protocol import Batch
from spnpolicy.maths.losses import squared_td_loss
from spnpolicy.maths.masks import existing_actions, require_some_action
from spnpolicy.maths.objective import elbo
from spnpolicy.maths.returns import q_target
from spnpolicy.networks.encoders import Kind, Network, encoder_for, require_known_kind
from spnpolicy.networks.layers import TargetUpdate, frozen_copy
from spnpolicy.networks.policy import SPNPolicy
from spnpolicy.parts.optimization import descend, make_optimizer
from spnpolicy.parts.temperature import Temperature, TemperatureConfig, spread


@dataclass(frozen=True)
class SharedConfig:
    """Settings of all learners that set a policy over joint actions against a factor-graph critic."""

    discount: float = 0.95
    """Worth of a reward one step later; a training run sets it."""
    num_pairs: int = 20
    """Most pair factors of the critic: all pairs of agents if they are no more than this, else so many at random."""
    learning_rate: float = 1e-3
    """Step size of Adam on the critic."""
    policy_learning_rate: float = 1e-3
    """Step size of Adam on the policy."""
    network: Network = field(default_factory=Network)
    """What critic and policy are made of."""
    entropy_reference: Literal["uniform", "none"] = "uniform"
    """Measure entropy against the uniform policy, so that staying alive is never paid; "none" is the plain entropy."""
    max_gradient_norm: float = 10.0
    """Longer gradients are shortened to this norm."""
    temperature: TemperatureConfig = field(default_factory=TemperatureConfig)
    """Weight of the entropy."""
    target: TargetUpdate = field(default_factory=TargetUpdate)
    """How the target critic follows."""

    network_kinds: ClassVar[tuple[Kind, ...]] = ("mlp", "entities")

    def __post_init__(self) -> None:
        require_known_kind(self)
        require(self.num_pairs >= 1, "num_pairs", self.num_pairs, "at least 1")


@dataclass(frozen=True)
class Config(SharedConfig):
    """Settings of the exact-ELBO actor-critic."""

    structure: Literal["keep_set", "markov_chain", "mean_field"] = "keep_set"
    """Family of the policy's circuit."""
    labels: int = 36
    """Most labels per region of a keep_set circuit: its capacity for joint behaviour."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.labels >= 1, "labels", self.labels, "at least 1")


Solver = Callable[[Factors, Bool[Tensor, "batch agents actions"], float], CircuitDistribution]
"""Finds the policy for given action values, available actions and temperature, without a network."""


class SPNActorCritic:
    """Maximum-entropy actor-critic whose actor and bootstrap are exact expectations under a joint policy.

    The actor maximises E_pi[Q(s, u)] + alpha H(pi(.|s)), in closed form for a deterministic circuit and a
    multilinear Q; the critic regresses on y = r + discount (1 - d) (E_pi'[Q_target(s', u)] + alpha H(pi')). Neither
    samples actions. Exploration is sampling from the policy; greedy play is its exact mode. The common reward is the
    mean over agents.

    Relatives are made of its parts: with a `solver` the policy comes from the critic's tables instead of the policy
    network, which then is not trained; and `learn` takes another policy loss, `target` another value of what follows.

    Source: Vora, Centralised MARL by leveraging tractable inference; Shih and Ermon 2020 for the exact ELBO.
    """

    def __init__(self, config: Config, spec: EnvSpec, streams: Streams, solver: Solver | None = None) -> None:
        self.config = config
        self._solver = solver
        self._spec = spec
        graph = random_pairs(spec.cardinalities, config.num_pairs, seed=streams.integer("pairs") % 2**31)
        circuit = build_circuit(config, graph)
        with streams.initialization("spn_ac"):
            network = config.network
            options = {"hidden": network.hidden, "per_agent": True, "agent_id": network.tells_agents_apart}
            self.critic = FactorQ(graph, encoder=encoder_for(network, spec), **options)
            pairs = [(scope[0], scope[1]) for scope in graph.scopes if len(scope) == 2]
            self.policy = SPNPolicy(circuit, encoder=encoder_for(network, spec), pairs=pairs, **options)
        self.target_critic = frozen_copy(self.critic)
        self.critic_optimizer = make_optimizer(self.critic.parameters(), config.learning_rate)
        self.policy_optimizer = make_optimizer(self.policy.parameters(), config.policy_learning_rate)
        self.temperature = Temperature(config.temperature)
        self.num_updates = 0
        self._generator = streams.torch("exploration")
        self._everything = existing_actions(spec.cardinalities)
        self._device = torch.device("cpu")

    def to(self, device: torch.device) -> None:
        """Move all networks to a device; actions are still drawn on the CPU."""
        for network in (self.critic, self.policy, self.target_critic):
            network.to(device)
        self._everything = self._everything.to(device)
        self._device = device

    def policy_at(self, step: Step) -> CircuitDistribution:
        """Return the joint policy of every environment, with forbidden actions ruled out; always on the CPU."""
        require_some_action(step.available_actions)
        with torch.no_grad():
            observation = torch.tensor(step.observation, dtype=torch.float32, device=self._device)
            available = torch.tensor(step.available_actions, device=self._device)
            pi = self._policy(observation, available)
            # The random streams live on the CPU, so that a seed means the same on every device.
            return pi if self._device.type == "cpu" else CircuitDistribution(pi.circuit, pi.logits.cpu())

    def act(self, step: Step, *, explore: bool, progress: float = 1.0) -> Int[np.ndarray, "envs agents"]:
        """Sample joint actions, or take the exact mode."""
        pi = self.policy_at(step)
        return (pi.sample(generator=self._generator) if explore else pi.mode).numpy()

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Do one step of the critic, one of the policy, and one of the temperature."""
        target_t = self._target(batch)
        q_t: Factors = self.critic(batch.observation)
        pi = self._policy(batch.observation, batch.available_actions)
        entropy = pi.entropy()
        bound = pi.expectation(q_t.detach()) + self.temperature.value * entropy
        return self.learn(batch, q_t, target_t, -bound.mean(), bound, entropy, progress)

    def learn(
        self,
        batch: Batch,
        q_t: Factors,
        target_t: Float[Tensor, " batch"],
        policy_loss: Float[Tensor, ""],
        bound: Float[Tensor, " batch"],
        entropy: Float[Tensor, " batch"],
        progress: float,
    ) -> dict[str, float]:
        """Descend on the critic's and the policy's loss, then move temperature and target; all or nothing."""
        config = self.config
        critic_loss = squared_td_loss(q_t(batch.actions), target_t)
        steps = [(critic_loss, self.critic_optimizer)]
        if self._solver is None:
            steps.append((policy_loss, self.policy_optimizer))
        norms = descend(*steps, max_gradient_norm=config.max_gradient_norm)
        largest = self._largest_entropy(batch.available_actions).mean()
        mean_entropy, mean_largest = mean(float(entropy.detach().mean()), float(largest))
        if all(map(math.isfinite, norms)):

            def spread_of_values() -> float:
                return mean(float(spread(q_t.detach(), batch.available_actions & self._everything).mean()))[0]

            self.temperature.update(mean_entropy, mean_largest, progress, spread_of_values)
            self.num_updates += 1
            config.target.apply(self.target_critic, self.critic, self.num_updates)
        return {
            "critic_loss": float(critic_loss.detach()),
            "critic_gradient_norm": norms[0],
            "policy_gradient_norm": norms[1] if self._solver is None else 0.0,
            "elbo": float(bound.detach().mean()),
            "entropy": mean_entropy,
            "temperature": self.temperature.value,
        }

    def _policy(self, observation: Tensor, available: Bool[Tensor, "batch agents actions"]) -> CircuitDistribution:
        if self._solver is not None:
            with torch.no_grad():
                return self._solver(self.critic(observation), available, self.temperature.value)
        pi: CircuitDistribution = self.policy(observation)
        return pi.condition(available) if self._spec.has_action_masks else pi

    @torch.no_grad()
    def _target(self, batch: Batch) -> Float[Tensor, " batch"]:
        """Return r + discount (1 - d) * soft value of the next state, which is the exact ELBO."""
        pi = self._policy(batch.next_observation, batch.next_available_actions)
        value = elbo(pi, self.target_critic(batch.next_observation), self.temperature.value)
        return self.target(batch, value)

    def target(self, batch: Batch, value: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Return r + discount (1 - d) * value, the value less the entropy of the uniform policy if that is asked."""
        if self.config.entropy_reference == "uniform":
            value = value - self.temperature.value * self._largest_entropy(batch.next_available_actions)
        return q_target(batch.reward.mean(-1), self.config.discount, batch.terminated, value)

    def _largest_entropy(self, available: Bool[Tensor, "batch agents actions"]) -> Float[Tensor, " batch"]:
        """Return the entropy of the uniform policy over the allowed joint actions, in nats."""
        if not self._spec.has_action_masks:
            largest = sum(math.log(k) for k in self._spec.cardinalities)
            return torch.full((len(available),), largest, device=available.device)
        return (available & self._everything).sum(-1).float().log().sum(-1)

    def state_dict(self) -> dict[str, Any]:
        """Return what continuing needs: networks, target, optimisers, temperature and counter."""
        parts = {name: getattr(self, name).state_dict() for name in _PARTS}
        return parts | {"num_updates": self.num_updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        for name in _PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.num_updates = state["num_updates"]


_PARTS = ("critic", "policy", "target_critic", "critic_optimizer", "policy_optimizer", "temperature")


def build_circuit(config: Config, graph: FactorGraph) -> Circuit:
    """Return the circuit that a config asks for, fitted to the critic's scopes where the family can be."""
    if config.structure == "keep_set":
        return structures.keep_set(graph.cardinalities, graph.scopes, labels=config.labels)
    return structures.STRUCTURES[config.structure](graph.cardinalities)
