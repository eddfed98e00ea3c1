"""IA2C: advantage actor-critic of independent agents, each with a critic of its own observation."""

import math
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int

from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.data.protocol import Batch, Memory
from spnpolicy.maths.losses import squared_td_loss
from spnpolicy.networks.agents import agent_network
from spnpolicy.networks.layers import frozen_copy
from spnpolicy.parts.actor_critic import action_log_probs, actor_loss, advantages, rollout_needs
from spnpolicy.parts.exploration import act_by_policy
from spnpolicy.parts.optimization import descend, make_optimizer
from spnpolicy.parts.saving import saves
from spnpolicy.parts.settings import CriticSettings, LinearSchedule

_ENTROPY_WEIGHT = 0.001


@dataclass(frozen=True)
class Config(CriticSettings):
    """Settings of IA2C."""

    entropy: LinearSchedule = field(default_factory=lambda: LinearSchedule(start=_ENTROPY_WEIGHT, end=_ENTROPY_WEIGHT))
    """Weight of the policies' entropy, in units of reward per nat."""


@saves("policy", "critic", "target_critic", "policy_optimizer", "critic_optimizer", "updates")
class IA2C:
    """Every agent follows the gradient of its own reward, as if the others were part of the environment.

    With the lambda-return y_i, bootstrapped from the target critic, the policies minimise the mean of
    -(y_i - V_i(o_i)) log pi_i(u_i | o_i) - weight H(pi_i), and the critics that of (y_i - V_i(o_i))^2. The critic looks
    at one observation and remembers nothing, even where the policy does.

    Source: Mnih et al. 2016; Papoudakis et al. 2021.
    """

    def __init__(self, config: Config, spec: EnvSpec, streams: Streams):
        self.config = config
        with streams.initialization("ia2c"):
            self.policy = agent_network(spec, config)
            self.critic = agent_network(spec, config, recurrent=False, outputs=1)
        self.target_critic = frozen_copy(self.critic)
        self.policy_optimizer = make_optimizer(self.policy.parameters(), config.learning_rate)
        self.critic_optimizer = make_optimizer(self.critic.parameters(), config.critic_learning_rate)
        self.updates = 0
        self.needs = rollout_needs(config, self.policy)
        self._exploration = streams.torch("exploration")

    def act(
        self, step: Step, *, explore: bool, progress: float = 1.0, memory: Memory | None = None
    ) -> Int[np.ndarray, "envs agents"]:
        """Draw each agent's action from its policy if `explore`, else take the most probable one."""
        return act_by_policy(self.policy, step, generator=self._exploration if explore else None, memory=memory)

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Do one gradient step of policies and critics on a rollout."""
        config = self.config
        value_t, value_tp1 = self.critic.now(batch).squeeze(-1), self.target_critic.following(batch).squeeze(-1)
        advantage_t, target_t = advantages(batch, value_t, value_tp1, discount=config.discount, trace=config.trace)
        log_probs = action_log_probs(self.policy, batch)
        entropy_weight = config.entropy.at(progress)
        policy_loss, entropy = actor_loss(log_probs, batch.actions, advantage_t, entropy_weight, batch.valid)
        critic_loss = squared_td_loss(value_t, target_t, batch.valid)
        steps = (policy_loss, self.policy_optimizer), (critic_loss, self.critic_optimizer)
        norms = descend(*steps, max_gradient_norm=config.max_gradient_norm)
        if all(map(math.isfinite, norms)):
            self.updates += 1
            config.target.apply(self.target_critic, self.critic, self.updates)
        return {
            "policy_loss": policy_loss.item(),
            "critic_loss": critic_loss.item(),
            "value": value_t.mean().item(),
            "entropy": entropy.item(),
            "policy_gradient_norm": norms[0],
            "critic_gradient_norm": norms[1],
        }
