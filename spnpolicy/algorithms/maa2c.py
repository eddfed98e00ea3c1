"""MAA2C: advantage actor-critic whose critics see everything; the policies still see one observation each."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from spnpolicy.base.seeding import Streams
from spnpolicy.data import env as env_protocol
from spnpolicy.data import protocol
from spnpolicy.maths import losses
from spnpolicy.networks.agents import agent_network
from spnpolicy.networks.layers import frozen_copy
from spnpolicy.parts import actor_critic, exploration, optimization, settings
from spnpolicy.parts.saving import saves


@dataclass(frozen=True)
class Config(settings.CriticSettings):
    """Settings of MAA2C."""


@saves("actors", "critics", "target_critics", "actor_optimizer", "critic_optimizer", "num_updates")
class MAA2C:
    """Centralised training, decentralised play: V_i(o_i, s) judges agent i, and pi_i(u_i | o_i) acts.

    A critic that sees the state s explains more of the return, so less noise reaches the policies: the loss of these is
    the mean of -(y_i - V_i(o_i, s)) log pi_i(u_i | o_i) - weight H(pi_i), with the lambda-return y_i of the agent's own
    reward. The expected gradient is that of independent learners, so it ends in the same equilibria: on the climbing
    game in the one worth 7, not in the best one.

    Source: Papoudakis et al. 2021; Lowe et al. 2017 for critics that see more.
    """

    def __init__(self, config: Config, spec: env_protocol.EnvSpec, streams: Streams):
        self.config = config
        with streams.initialization("maa2c"):
            self.actors = agent_network(spec, config)
            self.critics = agent_network(spec, config, recurrent=False, sees_state=True, outputs=1)
        self.target_critics = frozen_copy(self.critics)
        self.actor_optimizer = optimization.make_optimizer(self.actors.parameters(), config.learning_rate)
        self.critic_optimizer = optimization.make_optimizer(self.critics.parameters(), config.critic_learning_rate)
        self.num_updates = 0
        self.needs = actor_critic.rollout_needs(config, self.actors)
        self._generator = streams.torch("exploration")

    def act(
        self,
        step: env_protocol.Step,
        *,
        explore: bool,
        progress: float = 1.0,
        memory: protocol.Memory | None = None,
    ) -> Int[np.ndarray, "envs agents"]:
        """Sample the agents' policies, or take the most probable actions; the critics are not asked."""
        generator = self._generator if explore else None
        return exploration.act_by_policy(self.actors, step, generator=generator, memory=memory)

    def values(
        self, observation: Float[Tensor, "*batch agents features"], state: Float[Tensor, "*batch state"]
    ) -> Float[Tensor, "*batch agents"]:
        """Return what the critics expect for every agent."""
        return self.critics(observation, state).squeeze(-1)

    def update(self, batch: protocol.Batch, *, progress: float) -> dict[str, float]:
        """Do one step of all critics and one of all actors, from the same returns."""
        expected_t = self.values(batch.observation, batch.state)
        gain_t, return_t = self._returns(batch, expected_t)
        critic_loss = losses.squared_td_loss(expected_t, return_t, batch.valid)
        probabilities = actor_critic.action_log_probs(self.actors, batch)
        loss, entropy = actor_critic.actor_loss(
            probabilities, batch.actions, gain_t, self.config.entropy.at(progress), batch.valid
        )
        actor_norm, critic_norm = optimization.descend(
            (loss, self.actor_optimizer),
            (critic_loss, self.critic_optimizer),
            max_gradient_norm=self.config.max_gradient_norm,
        )
        if actor_norm + critic_norm < float("inf"):
            self.num_updates += 1
            self.config.target.apply(self.target_critics, self.critics, self.num_updates)
        numbers = {"actor_loss": loss, "critic_loss": critic_loss, "value": expected_t.mean(), "entropy": entropy}
        named = {name: float(number.detach()) for name, number in numbers.items()}
        return named | {"actor_gradient_norm": actor_norm, "critic_gradient_norm": critic_norm}

    @torch.no_grad()
    def _returns(self, batch: protocol.Batch, expected_t: Tensor) -> tuple[Tensor, Tensor]:
        following = self.target_critics.following(batch).squeeze(-1)
        options = {"discount": self.config.discount, "trace": self.config.trace}
        return actor_critic.advantages(batch, expected_t, following, **options)
