"""Value decomposition networks: the team's value is the sum of the agents' utilities."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.data.protocol import Batch, Memory
from spnpolicy.maths import losses, returns
from spnpolicy.networks import layers as networks
from spnpolicy.networks.agents import agent_network
from spnpolicy.parts import optimization, settings
from spnpolicy.parts.exploration import act_epsilon_greedy
from spnpolicy.parts.saving import saves


@dataclass(frozen=True)
class Config(settings.ValueSettings):
    """Settings of VDN."""


@saves("utilities", "target_utilities", "optimizer", "num_updates")
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
            self.utilities = agent_network(spec, config)
        self.target_utilities = networks.frozen_copy(self.utilities)
        self.optimizer = optimization.make_optimizer(self.utilities.parameters(), config.learning_rate)
        self.needs = settings.value_needs(config, self.utilities)
        self._generator = streams.numpy("exploration")
        self.num_updates = 0

    def joint_value(
        self, observation: Float[Tensor, "*batch agents features"], actions: Int[Tensor, "*batch agents"]
    ) -> Float[Tensor, "*batch"]:
        """Return Q_tot of joint actions; for networks without memory."""
        return losses.chosen_value(self.utilities(observation), actions).sum(-1)

    def act(
        self, step: Step, *, explore: bool, progress: float = 1.0, memory: Memory | None = None
    ) -> Int[np.ndarray, "envs agents"]:
        """Choose epsilon-greedily by utility; the agents' best actions together maximise Q_tot."""
        rate = self.config.exploration.at(progress) if explore else 0.0
        return act_epsilon_greedy(self.utilities, step, epsilon=rate, generator=self._generator, memory=memory)

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Do one joint gradient step on (y - Q_tot)^2."""
        utility_t, utility_tp1 = self.utilities.both(batch)
        joint_value_t = losses.chosen_value(utility_t, batch.actions).sum(-1)
        next_value = self._next_value(batch, utility_tp1)
        target_t = settings.value_target(self.config, batch, batch.reward.mean(-1), next_value)
        loss = losses.squared_td_loss(joint_value_t, target_t, batch.valid)
        limit = self.config.max_gradient_norm
        gradient_norm = optimization.descend((loss, self.optimizer), max_gradient_norm=limit)[0]
        if gradient_norm < float("inf"):
            self.num_updates += 1
            self.config.target.apply(self.target_utilities, self.utilities, self.num_updates)
        return {
            "loss": float(loss.detach()),
            "joint_value": float(joint_value_t.detach().mean()),
            "gradient_norm": gradient_norm,
        }

    @torch.no_grad()
    def _next_value(self, batch: Batch, online: Float[Tensor, "*batch agents actions"]) -> Float[Tensor, "*batch"]:
        utility_tp1 = self.target_utilities.following(batch)
        selector = online if self.config.double_q else None
        return returns.greedy_value(utility_tp1, batch.next_available_actions, selector_tp1=selector).sum(-1)
