"""The exact-ELBO actor-critic: a joint circuit policy trained on a multilinear factor-graph Q, without sampling."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from circuits import Circuit, CircuitDistribution, StructureError, structures
from factor_q import FactorGraph, FactorQ, Factors
from factor_q.congestion import Congestion
from spnpolicy.base.distributed import mean
from spnpolicy.base.errors import ConfigError
from spnpolicy.base.ranges import Range, Repeats
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.data.protocol import Batch
from spnpolicy.maths.losses import mean_of_valid, squared_td_loss
from spnpolicy.maths.masks import require_some_action, usable, zero_where_stuck
from spnpolicy.networks.encoders import Borrowed, encoder_for, retarget
from spnpolicy.networks.joint_values import ActionValues, JointValues, Judged, average_of, least
from spnpolicy.networks.policy import SPNPolicy
from spnpolicy.networks.potentials import ResidualPolicy
from spnpolicy.parts import solvers
from spnpolicy.parts.bounds import ExactBound
from spnpolicy.parts.evidence import Evidence
from spnpolicy.parts.joint_settings import JointSettings, critic_graph
from spnpolicy.parts.learner import frozen_copy, improve, make_optimizer, saves
from spnpolicy.parts.minibatches import regress, some_rows
from spnpolicy.parts.reward_bounds import RewardBounds
from spnpolicy.parts.settings import data_needs
from spnpolicy.parts.solvers import Boltzmann
from spnpolicy.parts.targets import value_target
from spnpolicy.parts.temperature import LEAST_SPREAD, Temperature, spread


@dataclass(frozen=True)
class Config(JointSettings):
    """Settings of the exact-ELBO actor-critic."""

    structure: Literal["keep_set", "markov_chain", "mean_field"] = "keep_set"
    """Family of the policy's circuit."""
    labels: Annotated[int, Range(1, 4096)] = 36
    """Most labels per region of a keep_set circuit: its capacity for joint behaviour."""
    solver: Literal["gradient", "natural_gradient", "exact"] = "gradient"
    """Where the policy comes from: a network that follows the gradient of the exact ELBO; or the critic's tables in
    every state anew, by a few natural-gradient steps on the circuit, or as their Boltzmann policy itself, by
    elimination, where the width of the pairs allows it."""
    solver_steps: Repeats = 3
    """Natural-gradient steps in every state."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rivalry and (self.structure != "mean_field" or self.solver != "gradient"):
            raise ConfigError(
                f"rivalry is {self.rivalry}: what all pairs of agents take from each other has an exact expectation "
                "for independent agents only. Take structure 'mean_field' and solver 'gradient', or rivalry 0."
            )


ROWS_THAT_TELL = 64
"""Rows of a batch from which the temperature learns how far values spread."""

ActorLoss = Callable[[Batch, Judged], tuple[Tensor, Tensor]]
"""Gives the ELBO of every row, and the actor's loss, from rows and what the critic says there."""

Solver = Callable[[Any, Bool[Tensor, "*batch agents actions"], float], CircuitDistribution | Boltzmann]
"""Finds the policy for given action values, available actions and temperature, without a network."""


class _Task(NamedTuple):
    """What belongs to one number of agents."""

    graph: FactorGraph
    circuit: Circuit
    solver: Solver | None
    bound: ExactBound


@saves(
    "critic", "actor", "target_critic", "target_actor", "critic_optimizer", "actor_optimizer", "temperature", "bounds",
    "evidence", "num_updates",
)  # fmt: skip
class SPNActorCritic:
    """Maximum-entropy actor-critic whose actor and bootstrap are exact expectations under a joint policy.

    The actor maximises E_pi[Q(s, u)] + alpha H(pi(.|s)), in closed form for a deterministic circuit and a
    multilinear Q; the critic regresses on y = r + discount (1 - d) (E_pi'[Q_target(s', u)] + alpha H(pi')). Neither
    samples actions. Exploration is sampling from the policy; greedy play is its exact mode. The common reward is the
    mean over agents.

    With a trace above 0 the target looks further ahead, along the joint actions that were taken: a soft lambda-return,
    in which every state on the way adds its entropy's worth unless `entropy_counts` says otherwise. On fresh rollouts
    this is unbiased.

    Relatives are made of its parts: with a `solver` the policy comes from the critic's tables instead of the actor's
    network, which then is not trained; and `learn` takes another actor loss, `target` another value of what follows.

    Source: Vora, Centralised MARL by leveraging tractable inference; Shih and Ermon 2020 for the exact ELBO.
    """

    def __init__(self, config: Config, spec: EnvSpec, streams: Streams, solver: Solver | None = None) -> None:
        self.config = config
        self._spec = spec
        self._pairs_seed, self._solver_of_relative = streams.integer("pairs"), solver
        self._tasks: dict[tuple[int, ...], _Task] = {}
        graph, circuit, self._solver, self._bound = self._task(spec.cardinalities)
        network = config.network
        told_apart = network.tells_agents_apart
        options = {
            "hidden": network.hidden, "per_agent": True, "agent_id": told_apart, "symmetric": not told_apart,
        }  # fmt: skip
        with streams.initialization("spn_ac"):
            encoders = [encoder_for(network, spec, sees_state=config.state != "none") for _ in range(config.critics)]
            if config.rivalry and getattr(encoders[0], "choices", None) is None:
                raise ConfigError(
                    f"rivalry is {config.rivalry}, but agents choose among nothing that they see: it is for networks "
                    "of kind 'exchangeable' or 'entities', where the environment declares entities.actions."
                )
            critics = [FactorQ(graph, encoder=encoder, rivalry=config.rivalry, **options) for encoder in encoders]
            self.critic = JointValues(critics)
            if config.shares_encoder:
                encoder: nn.Module = Borrowed(encoders[0], network.hidden[-1])
            else:
                encoder = encoder_for(network, spec, sees_state=config.state == "both")
            if config.potentials == "own":
                pairs = [(scope[0], scope[1]) for scope in graph.scopes if len(scope) == 2]
                self.actor = SPNPolicy(circuit, encoder=encoder, pairs=pairs, **options)
            else:
                self.actor = ResidualPolicy(circuit, graph, encoder=encoder, **options)
        self.target_critic, self.target_actor = frozen_copy(self.critic), frozen_copy(self.actor)
        self.critic_optimizer = make_optimizer(self.critic.parameters(), config.critic)
        self.actor_optimizer = make_optimizer(self.actor.parameters(), config.actor)
        self.temperature = Temperature(config.temperature)
        self.bounds, self.evidence = RewardBounds(config.discount), Evidence()
        self.num_updates = 0
        self.needs = data_needs(config)
        self._generator, self.order_generator = streams.torch("exploration"), streams.torch("minibatches")

    def _task(self, cardinalities: tuple[int, ...]) -> "_Task":
        if cardinalities not in self._tasks:
            graph = critic_graph(self.config, cardinalities, seed=self._pairs_seed)
            circuit = build_circuit(self.config, graph)
            solver = self._solver_of_relative or solver_of(self.config, circuit, graph)
            self._tasks[cardinalities] = _Task(graph, circuit, solver, ExactBound(circuit, graph))
        return self._tasks[cardinalities]

    def retarget(self, spec: EnvSpec) -> None:
        """Play and learn from now on in another task of the same kind: on another board, with other numbers of agents.

        Raises:
            ConfigError: networks, circuit or pairs belong to the agents of the first task.
        """
        for network in (self.critic, self.target_critic, self.actor, self.target_actor):
            retarget(network, spec)
        if spec.cardinalities != self._spec.cardinalities:
            graph, circuit, self._solver, self._bound = self._task(spec.cardinalities)
            try:
                for critic in (self.critic, self.target_critic):
                    critic.retarget(graph)
                for actor in (self.actor, self.target_actor):
                    if isinstance(actor, ResidualPolicy):
                        actor.retarget(circuit, graph)
                    elif self._solver is None:
                        raise StructureError("a policy with potentials 'own' belongs to its agents.")
            except StructureError as problem:
                raise ConfigError(
                    f"spn_ac cannot go on with {spec.num_agents} agents: {problem} Take network.kind 'exchangeable' or "
                    "'entities' without agent_id, and potentials 'residual'."
                ) from problem
        self._spec = spec

    def policy_at(self, step: Step) -> CircuitDistribution:
        """Return the joint policy of every environment, with forbidden actions ruled out; always on the CPU."""
        pi = self.uncompiled_at(step)
        if isinstance(pi, Boltzmann):
            pi = pi.compiled()
        # The random streams live on the CPU, so that a seed means the same on every device.
        return pi if pi.logits.device.type == "cpu" else CircuitDistribution(pi.circuit, pi.logits.cpu())

    def uncompiled_at(self, step: Step, *, sharpness: float = 1.0) -> CircuitDistribution | Boltzmann:
        """Return what plays, as it was found: without a circuit it answers less, but sooner.

        Args:
            step: what the agents see.
            sharpness: how many times as low the temperature is for which a solver finds the policy; infinite where it
                knows what greedy play is.
        """
        require_some_action(step.available_actions)
        device = next(self.critic.parameters()).device
        with torch.no_grad():
            observation, state = (
                torch.tensor(array, dtype=torch.float32, device=device) for array in (step.observation, step.state)
            )
            available = torch.tensor(step.available_actions, device=device)
            return self.policy(observation, state, available, sharpness=sharpness)

    def act(self, step: Step, *, explore: bool, progress: float = 1.0) -> Int[np.ndarray, "envs agents"]:
        """Sample joint actions, or take the exact mode."""
        # Without compiling it: that answers every query, which play does not need.
        pi = self.uncompiled_at(step) if self._solver is not None else self.policy_at(step)
        return (pi.sample(generator=self._generator) if explore else pi.mode).cpu().numpy()

    def draw(self, step: Step, *, generator: torch.Generator, sharpness: float = 1.0) -> Int[np.ndarray, "envs agents"]:
        """Draw joint actions without exploring: no random stream of training moves.

        Args:
            step: what the agents see.
            generator: source of the randomness, on the CPU.
            sharpness: by how much log probabilities are stretched first.
        """
        pi = self.uncompiled_at(step) if self._solver is not None else self.policy_at(step)
        return solvers.sharpened(pi, sharpness).sample(generator=generator).cpu().numpy()

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Do one step of critic and actor, or several on a rollout, and one of the temperature."""
        return self.learn(batch, self.targets(batch), self.actor_loss, progress)

    def learn(
        self, batch: Batch, target_t: Float[Tensor, "*batch"], actor_loss: ActorLoss, progress: float
    ) -> dict[str, float]:
        """Descend on the critic's and the actor's loss, then move temperature and target; all or nothing."""

        def step(rows: Batch, target_t: Tensor) -> dict[str, float]:
            judged = self.values(self.critic, rows.observation, rows.state)
            errors = [squared_td_loss(q(rows.actions), target_t, rows.valid) for q in judged.q]
            losses = {"critic": torch.stack(errors).sum()}
            if self._solver is not None:
                return improve(self, **losses)
            bound, losses["actor"] = actor_loss(rows, judged.detach())
            return improve(self, **losses) | {"elbo": float(mean_of_valid(bound.detach(), rows.valid))}

        numbers = regress(self, batch, target_t, step)
        if all(map(math.isfinite, numbers.values())):
            self.evidence.observe(batch, target_t, numbers["critic_loss"] / self.config.critics)
            self._tune(batch, numbers, progress)
        return numbers | {"temperature": self.temperature.value, "evidence": self.evidence.value}

    @torch.no_grad()
    def _tune(self, batch: Batch, numbers: dict[str, float], progress: float) -> None:
        """Move the temperature by what was seen in a batch; many rows tell no more than a few hundred."""
        rows = some_rows(batch, ROWS_THAT_TELL)
        allowed = usable(rows.available_actions, self._spec.cardinalities)
        judged = self.values(self.critic, rows.observation, rows.state)
        seen = (
            self.policy_on(rows, judged).entropy(),
            self._largest_entropy(allowed),
            spread(judged.q[0], allowed),
        )
        numbers["entropy"], largest, of_values = mean(*(float(mean_of_valid(each, rows.valid)) for each in seen))
        at = progress if self.config.temperature.falls_with == "progress" else self.evidence.value
        if self.bounds.largest > 0.0:
            # Before a critic has learned, its values spread by chance and hardly at all: a policy at such a temperature
            # would follow them, be certain of nothing, and see no reward any more.
            self.temperature.update(numbers["entropy"], largest, at, max(of_values, LEAST_SPREAD * self.bounds.largest))

    def actor_loss(self, rows: Batch, judged: Judged) -> tuple[Tensor, Tensor]:
        """Return the ELBO of every row, and the loss: minus its mean."""
        bound = self._elbo(self.policy_on(rows, judged), judged.q)
        return bound, -mean_of_valid(bound, rows.valid)

    def _elbo(self, pi: CircuitDistribution | Boltzmann, q: Sequence[ActionValues]) -> Float[Tensor, "*batch"]:
        temperature = self.temperature.value
        if isinstance(pi, Boltzmann):
            return least(pi.expectation(cast(Factors, each)) for each in q) + temperature * pi.entropy()
        return least(self._bound(pi, each, temperature) for each in q)

    def policy_on(self, rows: Batch, judged: Judged) -> CircuitDistribution | Boltzmann:
        """Return the policy that learns at the observations of some rows, given what the critic says there."""
        return self._policy(self.actor, judged, rows.observation, rows.state, rows.available_actions)

    def values(self, critic: JointValues, observation: Tensor, state: Tensor) -> Judged:
        """Return what a critic says: the action values that each of its networks gives."""
        return critic(observation) if self.config.state == "none" else critic(observation, state)

    def policy(
        self,
        observation: Tensor,
        state: Tensor,
        available: Bool[Tensor, "*batch agents actions"],
        *,
        sharpness: float = 1.0,
    ) -> CircuitDistribution | Boltzmann:
        """Return the joint policy that plays at these observations, with forbidden actions ruled out."""
        critic, actor = self._playing
        needs_values = self._solver is not None or self.config.potentials == "residual"
        judged = self.values(critic, observation, state) if needs_values else None
        return self._policy(actor, judged, observation, state, available, sharpness)

    @property
    def _playing(self) -> tuple[JointValues, nn.Module]:
        if self.config.plays_by == "online":
            return self.critic, self.actor
        return self.target_critic, self.target_actor

    def _policy(
        self,
        actor: nn.Module,
        judged: Judged | None,
        observation: Tensor,
        state: Tensor,
        available: Tensor,
        sharpness: float = 1.0,
    ) -> CircuitDistribution | Boltzmann:
        allowed = usable(available, self._spec.cardinalities)
        temperature = self.temperature.value
        if self._solver is not None:
            assert judged is not None, "solvers need values"
            with torch.no_grad():
                return self._solver(average_of(judged.q), allowed, temperature / sharpness)
        seen = (observation, state) if self.config.state == "both" else (observation,)
        if judged is not None and self.config.potentials == "residual":
            seen = (observation, judged.codes.detach()) if self.config.shares_encoder else seen
            tables = average_of(judged.q)
            own = tables.own if isinstance(tables, Congestion) else tables
            pi: CircuitDistribution = actor(own, temperature, *seen)
        else:
            pi = actor(*seen)
        return pi.condition(allowed) if self._spec.has_action_masks else pi

    @torch.no_grad()
    def targets(self, batch: Batch) -> Float[Tensor, "*batch"]:
        """Return what the critic learns: soft returns of the policy that plays, valued by the target critic."""
        if bool(batch.terminated.all()):
            # Games of one step: nothing follows that could be worth anything.
            nothing = batch.reward.new_zeros(batch.terminated.shape)
            return self.target(batch, nothing, lambda: nothing)
        following = batch.next_observation, batch.next_state
        valued = self.values(self.target_critic, *following)
        critic, actor = self._playing
        judged = valued if critic is self.target_critic else self.values(critic, *following)
        pi = self._policy(actor, judged, *following, batch.next_available_actions)
        if isinstance(pi, Boltzmann) and judged is valued and len(valued.q) == 1:
            # It is optimal for the values that count: log Z says what it is worth, and its entropy would take longer.
            value = pi.soft_value
        else:
            value = self._elbo(pi, valued.q)
        return self.target(batch, value, pi.entropy)

    def target(
        self, batch: Batch, value_tp1: Float[Tensor, "*batch"], entropy_tp1: Callable[[], Float[Tensor, "*batch"]]
    ) -> Float[Tensor, "*batch"]:
        """Return r + discount (1 - d) * soft value of the next state, or what looks further ahead with a trace.

        Args:
            batch: what happened.
            value_tp1: E[Q] + alpha * entropy of the next state.
            entropy_tp1: gives the entropy, which is measured against the uniform policy's if that is asked; called only
                where it counts on the way.
        """
        config, available = self.config, batch.next_available_actions
        counts = config.trace > 0.0 and config.entropy_counts == "at_every_step"
        bonus_tp1 = self.temperature.value * entropy_tp1() if counts else torch.zeros_like(value_tp1)
        largest = self.temperature.value * self._largest_entropy(usable(available, self._spec.cardinalities))
        if config.entropy_reference == "uniform":
            value_tp1, bonus_tp1 = value_tp1 - largest, bonus_tp1 - largest if counts else bonus_tp1
        self.bounds.observe(batch.reward.mean(-1), batch.valid)
        if config.value_bounds:
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


def solver_of(config: JointSettings, circuit: Circuit, graph: FactorGraph) -> Solver | None:
    """Return what finds policies from tables; None where a network does.

    Raises:
        ConfigError: the pairs are too wide for elimination.
    """
    if not isinstance(config, Config) or config.solver == "gradient":
        return None
    if config.solver == "exact":
        solvers.require_tractable(graph)
        return solvers.exact
    return partial(solvers.natural_gradient, circuit, steps=config.solver_steps)


def build_circuit(config: Config, graph: FactorGraph) -> Circuit:
    """Return the circuit that a config asks for, fitted to the critic's scopes where the family can be."""
    if config.structure == "keep_set":
        return structures.keep_set(
            graph.cardinalities, [scope for scope in graph.scopes if scope], labels=config.labels
        )
    return structures.STRUCTURES[config.structure](graph.cardinalities)
