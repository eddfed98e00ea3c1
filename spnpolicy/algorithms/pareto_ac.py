"""Pareto actor-critic: every agent learns as if the others would answer each of its actions in the best way for it."""

from dataclasses import dataclass, field
from math import prod
from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from factor_q import FactorGraph, FactorQ, Factors, random_pairs
from spnpolicy.base.errors import ConfigError
from spnpolicy.base.ranges import Count, Weight
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec
from spnpolicy.data.protocol import Batch
from spnpolicy.maths.categorical import masked_log_probs
from spnpolicy.maths.losses import chosen_value, mean_of_valid, squared_td_loss
from spnpolicy.maths.masks import usable
from spnpolicy.networks.agents import agent_network
from spnpolicy.networks.encoders import encoder_for
from spnpolicy.parts.actor_critic import actor_loss
from spnpolicy.parts.counterfactual import optimistic_values
from spnpolicy.parts.exploration import act_by_policy
from spnpolicy.parts.learner import frozen_copy, improve, make_optimizer, saves
from spnpolicy.parts.settings import AdamSettings, AgentCriticSettings, LinearSchedule, data_needs, step_size
from spnpolicy.parts.targets import following_value, normalized, value_target

MOST_JOINT_ACTIONS = 100_000
"""Largest joint table that is enumerated."""


@dataclass(frozen=True)
class Config(AgentCriticSettings):
    """Settings of Pareto actor-critic."""

    share_parameters: bool = False
    """One set of weights for all agents, which are told apart by their number; false gives each its own."""
    actor: AdamSettings = field(default_factory=step_size(3e-4))
    """How policies descend."""
    critic: AdamSettings = field(default_factory=step_size(3e-4))
    """How joint action values and state values descend."""
    entropy: LinearSchedule = field(default_factory=lambda: LinearSchedule(20.0, 0.01))
    """Weight of the policies' entropy, in units of reward per nat; large at first, because values must be right where
    the maximum looks."""
    normalize_advantage: bool = False
    """Bring each agent's advantages in a rollout to mean 0 and standard deviation 1; the entropy's weight then counts
    in deviations, and 20 of them are too many."""
    joint_values: Literal["table", "factors"] = "table"
    """One value per joint action, up to 100,000; or a sum over agents and pairs of agents, for larger teams."""
    num_pairs: Count = 20
    """Most pairs of "factors": all pairs of agents if they are no more than this, else so many at random."""
    tie_break: Weight = 0.0
    """Size of a small reward that is fixed at random for every joint action and the same for all agents, so that they
    agree on one of several optima that are equally good. It must stand out from the critic's error, and from the
    entropy's weight at the end; 0 for none."""


@saves("actor", "critic", "values", "target_critic", "actor_optimizer", "critic_optimizer", "num_updates")
class ParetoAC:
    """Actor-critic for games without conflict, in which what is best for one agent is best for all.

    Each agent i has a joint critic Q_i(z, u) and a state value V_i(z), from its own reward. Its actor follows
    max_{u_-i} Q_i(z, (u_i, u_-i)) - V_i(z), with values from before the update: its own action is the one taken, the
    others' are imagined. Both learn y = r_t + ... + discount^m * max_{u_-i} Q_target,i(z_t+m, (u_i,t+m, u_-i)) up to
    the end of the rollout or of a time limit; the action u_i,t+m is not known there, so the mean over the agent's own
    policy is taken. With `trace` below 1 the target is mixed with shorter ones.

    The maximum is exact: by enumeration of a table, or by elimination of factors, whose critics share their weights.
    Rewards that are random are overvalued, as by every maximum.

    Source: Christianos et al. 2022.
    """

    act = act_by_policy

    def __init__(self, config: Config, spec: EnvSpec, streams: Streams):
        self.config = config
        self._cardinalities = spec.cardinalities
        with streams.initialization("pareto_ac"):
            self.actor = agent_network(spec, config)
            self.values = agent_network(spec, config, recurrent=False, sees_state=True, outputs=1)
            self.critic = _critic(config, spec, seed=streams.integer("pairs"))
        self.target_critic = frozen_copy(self.critic)
        self.actor_optimizer = make_optimizer(self.actor.parameters(), config.actor)
        judges = [*self.critic.parameters(), *self.values.parameters()]
        self.critic_optimizer = make_optimizer(judges, config.critic)
        self.needs = data_needs(config, self.actor.memory_size)
        self.num_updates = 0
        self._generator = streams.torch("exploration")
        # All processes of a run draw the same numbers: the reward that breaks ties is part of the task.
        fixed = torch.Generator().manual_seed(streams.integer("tie_break"))
        self._preference = torch.rand(len(spec.cardinalities), max(spec.cardinalities), generator=fixed)

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Do one step of critics and state values, and one of the actors, on a rollout."""
        logits, next_logits = self.actor.both(batch)
        log_probs = masked_log_probs(logits, usable(batch.available_actions, self._cardinalities))
        q: Factors = self.critic(batch.observation, batch.state)
        value = self.values(batch.observation, batch.state).squeeze(-1)
        target = self._target(batch, next_logits)
        value_loss = squared_td_loss(value, target, batch.valid)
        critic_loss = squared_td_loss(q(batch.actions.unsqueeze(-2)), target, batch.valid)
        best = optimistic_values(q.detach(), batch.available_actions)
        advantage = chosen_value(best, batch.actions) - value.detach()
        advantage, weight = normalized(self.config, advantage, batch.valid), self.config.entropy.at(progress)
        loss, spread = actor_loss(log_probs, batch.actions, advantage, weight, batch.valid)
        numbers = improve(self, actor=loss, critic=critic_loss + value_loss)
        mean_value = mean_of_valid(value.detach(), batch.valid).item()
        return numbers | {"value_loss": value_loss.item(), "value": mean_value, "entropy": spread.item()}

    @torch.no_grad()
    def _target(self, batch: Batch, next_logits: Tensor) -> Float[Tensor, "time batch agents"]:
        following: Factors = self.target_critic(batch.next_observation, batch.next_state)
        best = optimistic_values(following, batch.next_available_actions)
        allowed = usable(batch.next_available_actions, self._cardinalities)
        value = following_value(best, masked_log_probs(next_logits, allowed), batch)
        reward = batch.reward + self._tie_break(batch.actions).unsqueeze(-1)
        return value_target(self.config, batch, value, reward=reward)

    def _tie_break(self, actions: Int[Tensor, "*batch agents"]) -> Float[Tensor, "*batch"]:
        preference = self._preference.to(actions.device).expand(*actions.shape, -1)
        return self.config.tie_break * chosen_value(preference, actions).mean(-1)


class _JointTables(nn.Module):
    """Joint action values of every agent: one table over all agents each, from its observation and the state."""

    def __init__(self, config: Config, spec: EnvSpec):
        super().__init__()
        self.graph = FactorGraph(spec.cardinalities, [tuple(range(spec.num_agents))])
        entries = self.graph.num_entries
        self.network = agent_network(spec, config, recurrent=False, sees_state=True, outputs=entries)

    def forward(self, observation: Float[Tensor, "*batch agents features"], state: Tensor) -> Factors:
        """Return one function of the joint action per agent, batch shape (*batch, agents)."""
        return Factors.from_flat(self.graph, self.network(observation, state))


class _JointFactors(nn.Module):
    """The same as sums of factors, from all observations; one network, which is told whose critic it is to be."""

    def __init__(self, config: Config, spec: EnvSpec, seed: int):
        super().__init__()
        self.encoder, self.agents = encoder_for(config.network, spec), spec.num_agents
        graph = random_pairs(spec.cardinalities, config.num_pairs, seed=seed)
        size = cast(int, self.encoder.out_features) + self.agents
        self.network = FactorQ(graph, size, hidden=config.network.hidden, per_agent=True, agent_id=True)

    def forward(self, observation: Float[Tensor, "*batch agents features"], state: Tensor) -> Factors:
        """Return one function of the joint action per agent, batch shape (*batch, agents)."""
        seen = self.encoder(observation).unsqueeze(-3)
        seen = seen.expand(*seen.shape[:-3], self.agents, *seen.shape[-2:])
        whose = torch.eye(self.agents, device=seen.device).unsqueeze(-2).expand(*seen.shape[:-1], -1)
        return self.network(torch.cat([seen, whose], -1))


def _critic(config: Config, spec: EnvSpec, seed: int) -> nn.Module:
    if config.joint_values == "factors":
        return _JointFactors(config, spec, seed)
    count = prod(spec.cardinalities)
    if count > MOST_JOINT_ACTIONS:
        raise ConfigError(
            f"pareto_ac: joint_values 'table' holds at most {MOST_JOINT_ACTIONS:,} joint actions, but the task has "
            f"{count:,}; use joint_values='factors'."
        )
    return _JointTables(config, spec)
