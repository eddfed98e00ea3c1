"""Deep coordination graphs: utilities and pair payoffs from shared networks, maximised by messages along the graph."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from factor_q import FactorGraph, Factors
from spnpolicy.base.errors import ConfigError
from spnpolicy.base.ranges import Range, Width
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.data.protocol import Batch, Memory
from spnpolicy.maths.losses import squared_td_loss
from spnpolicy.maths.masks import existing_actions, require_some_action, zero_where_stuck
from spnpolicy.networks.agents import agent_network, linear
from spnpolicy.networks.encoders import state_network
from spnpolicy.parts.coordination import (
    GraphSettings,
    allow,
    coordination_graph,
    explore_around,
    max_plus,
)
from spnpolicy.parts.learner import frozen_copy, improve, make_optimizer, saves
from spnpolicy.parts.minibatches import foresee, regress
from spnpolicy.parts.settings import ValueSettings, data_needs
from spnpolicy.parts.targets import value_target

OUTPUT_GAIN = 0.01
"""Scale of the first weights that make utilities and payoffs, so that Q starts near 0."""


@dataclass(frozen=True)
class Config(ValueSettings, GraphSettings):
    """Settings of deep coordination graphs."""

    graph: Literal["complete", "ring", "chain", "grid", "random", "scopes"] = "complete"
    """Pairs with a payoff: all, neighbours by number (ring, chain, squarest grid), random ones, or the `scopes`."""
    embedding: Width = 64
    """Numbers that an agent tells of what it saw, and width of the layer where two agents' numbers meet."""
    rank: Annotated[int, Range(0, 1024)] = 0
    """Make payoffs sums of so many products of one number per action; 0 for free payoffs, one per pair of actions."""
    iterations: Annotated[int, Range(0, 100_000)] = 8
    """Exchanges of messages in the search of a good joint action."""
    improve: bool = True
    """End the search with one round of agents changing their own action where that helps; false as published."""
    state_value: bool = False
    """Add a value of the state to Q, so that utilities and payoffs only tell joint actions apart."""


class PayoffNetwork(nn.Module):
    """The mean of the agents' utilities plus the mean of the pairs' payoffs, as tables on a graph.

    Every pair is seen in both directions and the payoffs are averaged, so that equal agents get symmetric ones. The
    tables are padded to the largest number of actions; a utility is -inf where an agent has no such action.

    Args:
        spec: sizes of the environment.
        config: settings.
        graph: single agents, then pairs; its cardinalities are those of the padded tables.
    """

    def __init__(self, spec: EnvSpec, config: Config, graph: FactorGraph) -> None:
        super().__init__()
        agents, actions, width = spec.num_agents, graph.cardinalities[0], config.embedding
        self.graph, self._rank = graph, config.rank
        self.encoder = agent_network(spec, config, outputs=width, output_gain=math.sqrt(2))
        shared = config.share_parameters
        self.utility = linear(width, actions, None if shared else agents, OUTPUT_GAIN)
        self.first = linear(width, width, None if shared else agents, 1.0)
        self.second = linear(width, width, None if shared else agents, 1.0)
        pairs = torch.tensor(graph.scopes[agents:], dtype=torch.long).reshape(-1, 2)
        self.register_buffer("ends", torch.cat([pairs, pairs.flip(-1)]).T.contiguous(), persistent=False)
        if config.rank:  # the product of two factors should start as small as one free payoff
            outputs, gain = 2 * config.rank * actions, math.sqrt(OUTPUT_GAIN)
        else:
            outputs, gain = actions**2, OUTPUT_GAIN
        self.payoff = linear(width, outputs, None if shared or not len(pairs) else 2 * len(pairs), gain)
        self.state_value = (
            state_network(config.network, spec, 1, output_gain=OUTPUT_GAIN) if config.state_value else None
        )
        self.register_buffer("missing", ~existing_actions(spec.cardinalities), persistent=False)

    ends: Tensor
    missing: Tensor

    def forward(self, embedding: Float[Tensor, "*batch agents embedding"]) -> Factors:
        """Return the tables made of what the agents tell."""
        told = embedding.relu()
        agents, actions = self.missing.shape
        utilities = (self.utility(told) / agents).masked_fill(self.missing, -math.inf).flatten(-2)
        source, target = self.ends
        met = self.first(told).index_select(-2, source) + self.second(told).index_select(-2, target)
        entries = self.payoff(met.relu())
        if self._rank:
            left, right = entries.unflatten(-1, (2, self._rank, actions)).unbind(-3)
            payoffs = left.transpose(-1, -2) @ right
        else:
            payoffs = entries.unflatten(-1, (actions, actions))
        pairs = len(source) // 2
        both = payoffs[..., :pairs, :, :] + payoffs[..., pairs:, :, :].transpose(-1, -2)
        return Factors.from_flat(self.graph, torch.cat([utilities, (both / max(2 * pairs, 1)).flatten(-3)], -1))

    def offset(self, state: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch"]:
        """Return the value of the state, 0 if it is not learned apart."""
        if self.state_value is None:
            return state.new_zeros(state.shape[:-1])
        return self.state_value(state).squeeze(-1)


@saves("critic", "target_critic", "critic_optimizer", "num_updates")
class DCG:
    """Q(o, u) = mean_i f_i(u_i) + mean_ij f_ij(u_i, u_j), with f from networks of what the agents remember.

    The target is y = r + discount * Q(o', u*), where u* is the best joint action that max-plus finds: exact on trees,
    approximate where the graph has loops. The common reward is the mean over agents.

    Source: Boehmer, Kurin and Whiteson 2020.
    """

    def __init__(self, config: Config, spec: EnvSpec, streams: Streams) -> None:
        self.config = config
        padded = (max(spec.cardinalities),) * spec.num_agents
        graph = coordination_graph(config, padded, streams.integer("pairs"))
        if any(len(scope) > 2 or not scope for scope in graph.scopes):
            raise ConfigError(f"scopes is {config.scopes!r}, but dcg has payoffs of pairs only; see coordinated.")
        with streams.initialization("dcg"):
            self.critic = PayoffNetwork(spec, config, graph)
        self.target_critic = frozen_copy(self.critic)
        self.critic_optimizer = make_optimizer(self.critic.parameters(), config.critic)
        self.num_updates = 0
        self.needs = data_needs(config, self.critic.encoder.memory_size)
        self._generator, self.order_generator = streams.numpy("exploration"), streams.torch("minibatches")
        self._has_masks = spec.has_action_masks

    @torch.no_grad()
    def act(
        self, step: Step, *, explore: bool, progress: float = 1.0, memory: Memory | None = None
    ) -> Int[np.ndarray, "envs agents"]:
        """Take the best joint action that max-plus finds; if `explore`, each agent now and then a random one."""
        missing = self.critic.missing
        available = step.available_actions & ~missing.cpu().numpy()
        require_some_action(available)
        factors = self.critic(self.critic.encoder.look(step, memory).to(missing.device))
        greedy = self._best(factors, torch.tensor(available, device=missing.device)).cpu().numpy()
        epsilon = self.config.exploration.at(progress) if explore else 0.0
        return explore_around(greedy, available, epsilon=epsilon, generator=self._generator, together=False)

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Do one gradient step on (y - Q)^2, or several on a rollout."""
        network = self.critic.encoder
        embedding_t, online = foresee(self.config, network, batch) if self.config.double_q else (None, None)
        target_t = value_target(self.config, batch, self._next_value(batch, online))
        return regress(self, batch, target_t, self._step, embedding_t)

    def _step(self, rows: Batch, target_t: Tensor, embedding_t: Tensor | None = None) -> dict[str, float]:
        embedding_t = self.critic.encoder.now(rows) if embedding_t is None else embedding_t
        value_t = self.critic(embedding_t)(rows.actions) + self.critic.offset(rows.state)
        numbers = improve(self, critic=squared_td_loss(value_t, target_t, rows.valid))
        return numbers | {"value": value_t.mean().item()}

    @torch.no_grad()
    def _next_value(
        self, batch: Batch, online: Float[Tensor, "*batch agents embedding"] | None
    ) -> Float[Tensor, "*batch"]:
        available = batch.next_available_actions
        target = self.target_critic
        factors = target(target.encoder.following(batch))
        best = self._best(factors if online is None else self.critic(online), available)
        return zero_where_stuck(factors(best) + target.offset(batch.next_state), available)

    def _best(self, factors: Factors, available: Bool[Tensor, "*batch agents actions"]) -> Int[Tensor, "*batch agents"]:
        open_factors = allow(factors, available) if self._has_masks else factors
        return max_plus(open_factors, self.config.iterations, improve=self.config.improve)[1]
