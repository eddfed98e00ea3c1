"""Independent Q-learning: each agent learns as if the others were part of the environment."""

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
    """Settings of independent Q-learning."""


@saves("critic", "target_critic", "critic_optimizer", "num_updates")
class IQL:
    """Every agent learns its own action values from its own reward; with networks this is IDQN.

    The target is y_i = r_i + discount * max_a Q_i(o_i', a), and the loss the mean of (y_i - Q_i)^2 over transitions and
    agents. With one agent it is DQN.

    Source: Tan 1993; Tampuu et al. 2017.
    """

    def __init__(self, config: Config, spec: EnvSpec, streams: Streams):
        self.config = config
        with streams.initialization("iql"):
            self.critic = agent_network(spec, config)
        self.target_critic = frozen_copy(self.critic)
        self.critic_optimizer = make_optimizer(self.critic.parameters(), config.critic.learning_rate)
        self.num_updates = 0
        self.needs = data_needs(config, self.critic.memory_size)
        self._generator = streams.numpy("exploration")

    def act(
        self, step: Step, *, explore: bool, progress: float = 1.0, memory: Memory | None = None
    ) -> Int[np.ndarray, "envs agents"]:
        """Choose for each agent on its own, epsilon-greedily if `explore`."""
        epsilon = self.config.exploration.at(progress) if explore else 0.0
        return act_epsilon_greedy(self.critic, step, epsilon=epsilon, generator=self._generator, memory=memory)

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Do one gradient step on the mean squared error of all agents."""
        values, selector = self.critic.both(batch) if self.config.double_q else (self.critic.now(batch), None)
        value_t = chosen_value(values, batch.actions)
        numbers = improve(self, critic=squared_td_loss(value_t, self._targets(batch, selector), batch.valid))
        return numbers | {"value": value_t.mean().item()}

    @torch.no_grad()
    def _targets(self, batch: Batch, selector_tp1: Tensor | None) -> Float[Tensor, "*batch agents"]:
        following = self.target_critic.following(batch)
        value_tp1 = greedy_value(following, batch.next_available_actions, selector_tp1=selector_tp1)
        config = self.config
        return value_target(batch, batch.reward, value_tp1, discount=config.discount, trace=config.trace)
