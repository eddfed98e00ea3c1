"""Value decomposition networks: the team's value is the sum of the agents' utilities."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.data.protocol import Batch, Memory
from spnpolicy.maths.losses import chosen_value, squared_td_loss
from spnpolicy.maths.returns import greedy_value
from spnpolicy.networks.agents import agent_network
from spnpolicy.networks.layers import frozen_copy
from spnpolicy.parts.exploration import act_epsilon_greedy
from spnpolicy.parts.optimization import improve, make_optimizer
from spnpolicy.parts.saving import saves
from spnpolicy.parts.settings import ValueSettings, data_needs
from spnpolicy.parts.targets import value_target


@dataclass(frozen=True)
class Config(ValueSettings):
    """Settings of VDN."""


@saves("critic", "target_critic", "critic_optimizer", "num_updates")
class VDN:
    """Value decomposition: Q_tot(o, u) = sum_i Q_i(o_i, u_i), learned from the team's reward.

    The common reward is the mean over agents, so a reward that all agents share counts once. The target is
    y = r + discount * sum_i max_a Q_i(o_i', a). Only Q_tot has a meaning: the Q_i are fixed up to constants
    that cancel in the sum. On a one-step game it learns the best additive approximation of the payoff.

    Source: Sunehag et al. 2018.
    """

    def __init__(self, config: Config, spec: EnvSpec, streams: Streams):
        self.config = config
        with streams.initialization("vdn"):
            self.critic = agent_network(spec, config)
        self.target_critic = frozen_copy(self.critic)
        self.critic_optimizer = make_optimizer(self.critic.parameters(), config.critic.learning_rate)
        self.num_updates = 0
        self.needs = data_needs(config, self.critic.memory_size)
        self._generator = streams.numpy("exploration")

    def joint_value(
        self, observation: Float[Tensor, "*batch agents features"], actions: Int[Tensor, "*batch agents"]
    ) -> Float[Tensor, "*batch"]:
        """Return Q_tot of joint actions; for networks without memory."""
        return chosen_value(self.critic(observation), actions).sum(-1)

    def act(
        self, step: Step, *, explore: bool, progress: float = 1.0, memory: Memory | None = None
    ) -> Int[np.ndarray, "envs agents"]:
        """Choose epsilon-greedily by utility; the agents' best actions together maximise Q_tot."""
        epsilon = self.config.exploration.at(progress) if explore else 0.0
        return act_epsilon_greedy(self.critic, step, epsilon=epsilon, generator=self._generator, memory=memory)

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Do one joint gradient step on (y - Q_tot)^2."""
        utility_t, utility_tp1 = self.critic.both(batch)
        value_t = chosen_value(utility_t, batch.actions).sum(-1)
        numbers = improve(self, critic=squared_td_loss(value_t, self._targets(batch, utility_tp1), batch.valid))
        return numbers | {"value": value_t.mean().item()}

    @torch.no_grad()
    def _targets(self, batch: Batch, online: Float[Tensor, "*batch agents actions"]) -> Float[Tensor, "*batch"]:
        utility_tp1 = self.target_critic.following(batch)
        selector_tp1 = online if self.config.double_q else None
        value_tp1 = greedy_value(utility_tp1, batch.next_available_actions, selector_tp1=selector_tp1).sum(-1)
        config = self.config
        return value_target(batch, batch.reward.mean(-1), value_tp1, discount=config.discount, trace=config.trace)
