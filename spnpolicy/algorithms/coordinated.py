"""Coordinated reinforcement learning: Q is a sum of tables on a graph, maximised exactly by variable elimination."""

import math
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from factor_q import FactorGraph, FactorQ, Factors
from spnpolicy.base.ranges import Count
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.data.protocol import Batch, seen
from spnpolicy.maths.losses import squared_td_loss
from spnpolicy.maths.masks import existing_actions, require_some_action, zero_where_stuck
from spnpolicy.networks.encoders import encoder_for
from spnpolicy.parts import coordination
from spnpolicy.parts.learner import frozen_copy, improve, make_optimizer, saves
from spnpolicy.parts.minibatches import regress
from spnpolicy.parts.settings import DoubleSettings, EpsilonSchedule, data_needs
from spnpolicy.parts.targets import value_target


@dataclass(frozen=True)
class Config(DoubleSettings, coordination.GraphSettings):
    """Settings of coordinated reinforcement learning."""

    factors: Literal["neural", "linear"] = "neural"
    """Tables from a network of the agents' observations, or linear in what it would see (no hidden layers)."""
    share_factors: bool = True
    """With neural factors, one network for all tables of a shape; false gives every table its own."""
    double_q: bool = False
    """Choose next joint actions with the online tables, value them with the target's."""
    max_entries: Count = 2**20
    """Most table entries that elimination may hold for one state; wider graphs are refused at the start."""
    exploration: EpsilonSchedule = field(default_factory=lambda: EpsilonSchedule(start=0.2, end=0.02))
    """Probability of a random joint action; all agents of an environment explore at once."""


@saves("critic", "target_critic", "critic_optimizer", "num_updates")
class Coordinated:
    """Q(o, u) = sum_j Q_j(o_E, u_E) over small groups E of agents, learned from one global error.

    The target is y = r + discount * max_u Q(o', u), exact over all joint actions by variable elimination, in
    time exponential only in the width of the graph. All Q_j share the error y - Q: with linear tables the step is
    w_j += rate * (y - Q) * phi_j. As published, the target comes from the online tables (`target.rate` 1). The common
    reward is the mean over agents.

    Source: Guestrin, Lagoudakis and Parr 2002.
    """

    def __init__(self, config: Config, spec: EnvSpec, streams: Streams) -> None:
        self.config = config
        self.graph = coordination.coordination_graph(config, spec.cardinalities, streams.integer("pairs"))
        coordination.require_tractable(self.graph, config.max_entries)
        with streams.initialization("coordinated"):
            encoder = encoder_for(config.network, spec)
            if config.factors == "linear":
                self.critic = LinearFactors(self.graph, encoder)
            else:
                self.critic = FactorQ(
                    self.graph, encoder=encoder, hidden=config.network.hidden, per_agent=True,
                    agent_id=config.network.tells_agents_apart, share_factors=config.share_factors,
                )  # fmt: skip
        self.target_critic = frozen_copy(self.critic)
        self.critic_optimizer = make_optimizer(self.critic.parameters(), config.critic)
        self.num_updates = 0
        self.needs = data_needs(config)
        self._has_masks = spec.has_action_masks
        self._existing = existing_actions(spec.cardinalities).numpy()
        self._generator, self.order_generator = streams.numpy("exploration"), streams.torch("minibatches")

    def joint_factors(self, observation: Float[Tensor, "*batch agents features"]) -> Factors:
        """Return the tables whose sum is Q, for every query of `factor_q`."""
        return self.critic(observation)

    @torch.no_grad()
    def act(self, step: Step, *, explore: bool, progress: float = 1.0) -> Int[np.ndarray, "envs agents"]:
        """Take the exactly best joint action or, if `explore`, now and then a random one."""
        available = step.available_actions & self._existing
        require_some_action(available)
        device = next(self.critic.parameters()).device
        factors = self.joint_factors(seen(step, "observation", device))
        greedy = self._best(factors, torch.tensor(available, device=device)).cpu().numpy()
        epsilon = self.config.exploration.at(progress) if explore else 0.0
        return coordination.explore_around(greedy, available, epsilon=epsilon, generator=self._generator, together=True)

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Do one gradient step of all tables on the squared global error, or several on a rollout."""
        return regress(self, batch, value_target(self.config, batch, self._next_value(batch)), self._step)

    def _step(self, rows: Batch, target_t: Tensor) -> dict[str, float]:
        value_t = self.joint_factors(rows.observation)(rows.actions)
        numbers = improve(self, critic=squared_td_loss(value_t, target_t, rows.valid))
        return numbers | {"value": value_t.mean().item()}

    @torch.no_grad()
    def _next_value(self, batch: Batch) -> Float[Tensor, "*batch"]:
        available = batch.next_available_actions
        factors = self.target_critic(batch.next_observation)
        chooser = self.joint_factors(batch.next_observation) if self.config.double_q else factors
        return zero_where_stuck(factors(self._best(chooser, available)), available)

    def _best(self, factors: Factors, available: Bool[Tensor, "*batch agents actions"]) -> Int[Tensor, "*batch agents"]:
        return coordination.eliminate(coordination.allow(factors, available) if self._has_masks else factors)


class LinearFactors(nn.Module):
    """Tables linear in the features of their agents: Q_j(o, u_E) = w_j[u_E] . phi_j(o), phi_j = (1, x_i for i in E).

    Args:
        graph: the scopes.
        encoder: what is seen of each agent's observation, with `out_features`.
    """

    def __init__(self, graph: FactorGraph, encoder: nn.Module) -> None:
        super().__init__()
        self.graph, self.encoder = graph, encoder
        size = cast(int, encoder.out_features)
        runs = groupby(range(graph.num_factors), key=graph.table_shapes.__getitem__)
        self.runs = nn.ModuleList(_LinearRun([graph.scopes[j] for j in run], size, shape) for shape, run in runs)

    def forward(self, observation: Float[Tensor, "*batch agents features"]) -> Factors:
        """Return the tables of each state; at the start all are 0."""
        features = self.encoder(observation)
        return Factors.from_flat(self.graph, torch.cat([run(features) for run in self.runs], -1))


class _LinearRun(nn.Module):
    """The entries of tables of one shape that follow each other, in one multiplication."""

    agents: Tensor

    def __init__(self, scopes: list[tuple[int, ...]], size: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        count, arity = len(scopes), len(shape)
        self.register_buffer("agents", torch.tensor(scopes, dtype=torch.long).reshape(count, arity), persistent=False)
        self.bias = nn.Parameter(torch.zeros(count, math.prod(shape)))
        self.weight = nn.Parameter(torch.zeros(count, arity * size, math.prod(shape)))

    def forward(self, features: Float[Tensor, "*batch agents features"]) -> Float[Tensor, "*batch entries"]:
        seen = features[..., self.agents, :].flatten(-2)
        return (torch.einsum("...fp,fpe->...fe", seen, self.weight) + self.bias).flatten(-2)
