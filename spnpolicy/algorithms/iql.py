"""Independent Q-learning, and VDN, which learns the sum of the agents' values from one reward."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec
from spnpolicy.data.protocol import Batch
from spnpolicy.maths.losses import chosen_value, squared_td_loss
from spnpolicy.maths.returns import greedy_value
from spnpolicy.networks.agents import agent_network
from spnpolicy.parts.exploration import act_epsilon_greedy
from spnpolicy.parts.learner import frozen_copy, improve, make_optimizer, saves
from spnpolicy.parts.minibatches import foresee, regress
from spnpolicy.parts.settings import ValueSettings, data_needs
from spnpolicy.parts.targets import value_target


@dataclass(frozen=True)
class Config(ValueSettings):
    """Settings of independent Q-learning and of VDN."""


@saves("critic", "target_critic", "critic_optimizer", "num_updates")
class IQL:
    """Every agent learns its own action values from its own reward, as if the others were part of the environment.

    The target is y_i = r_i + discount * max_a Q_i(o_i', a), and the loss the mean of (y_i - Q_i)^2 over transitions and
    agents. With networks this is IDQN, with one agent DQN.

    Source: Tan 1993; Tampuu et al. 2017.
    """

    name = "iql"
    act = act_epsilon_greedy

    def __init__(self, config: Config, spec: EnvSpec, streams: Streams):
        self.config = config
        with streams.initialization(self.name):
            self.critic = self.utilities = agent_network(spec, config)
        self.target_critic = frozen_copy(self.critic)
        self.critic_optimizer = make_optimizer(self.critic.parameters(), config.critic)
        self.num_updates = 0
        self.needs = data_needs(config, self.critic.memory_size)
        self._generator, self.order_generator = streams.numpy("exploration"), streams.torch("minibatches")

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Do one gradient step on the mean of (y - Q)^2, or several on a rollout."""
        values, selector = foresee(self.config, self.critic, batch) if self.config.double_q else (None, None)
        return regress(self, batch, self._targets(batch, selector), self._step, values)

    def _step(self, rows: Batch, target_t: Tensor, values: Tensor | None = None) -> dict[str, float]:
        values = self.critic.now(rows) if values is None else values
        value_t = self._together(chosen_value(values, rows.actions))
        numbers = improve(self, critic=squared_td_loss(value_t, target_t, rows.valid))
        return numbers | {"value": value_t.mean().item()}

    @torch.no_grad()
    def _targets(self, batch: Batch, selector_tp1: Tensor | None) -> Float[Tensor, "*batch values"]:
        following = self.target_critic.following(batch)
        best_tp1 = greedy_value(following, batch.next_available_actions, selector_tp1=selector_tp1)
        return value_target(self.config, batch, self._together(best_tp1), reward=self._reward(batch))

    def _together(self, values: Float[Tensor, "*batch agents"]) -> Float[Tensor, "*batch values"]:
        """Return what is learned of the agents' values: each of them."""
        return values

    def _reward(self, batch: Batch) -> Float[Tensor, "*batch values"]:
        return batch.reward


class VDN(IQL):
    """Value decomposition: Q_tot(o, u) = sum_i Q_i(o_i, u_i), learned from the team's reward.

    The common reward is the mean over agents, so a reward that all agents share counts once. The target is
    y = r + discount * sum_i max_a Q_i(o_i', a), and the agents' best actions together maximise Q_tot. Only Q_tot has a
    meaning: the Q_i are fixed up to constants that cancel in the sum. On a one-step game it learns the best additive
    approximation of the payoff.

    Source: Sunehag et al. 2018.
    """

    name = "vdn"

    def joint_value(
        self, observation: Float[Tensor, "*batch agents features"], actions: Int[Tensor, "*batch agents"]
    ) -> Float[Tensor, "*batch"]:
        """Return Q_tot of joint actions; for networks without memory."""
        return self._together(chosen_value(self.critic(observation), actions))

    def _together(self, values: Float[Tensor, "*batch agents"]) -> Float[Tensor, "*batch"]:
        return values.sum(-1)

    def _reward(self, batch: Batch) -> Float[Tensor, "*batch"]:
        return batch.reward.mean(-1)
