"""IPPO: proximal policy optimisation of independent agents, each with a critic of its own observation."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.data.protocol import Batch, Memory
from spnpolicy.networks.agents import agent_network
from spnpolicy.networks.layers import frozen_copy
from spnpolicy.parts import actor_critic
from spnpolicy.parts.exploration import act_by_policy
from spnpolicy.parts.optimization import make_optimizer
from spnpolicy.parts.saving import saves


@dataclass(frozen=True)
class Config(actor_critic.ClippedSettings):
    """Settings of IPPO."""


@saves("policy", "critic", "target_critic", "policy_optimizer", "critic_optimizer", "num_rollouts")
class IPPO:
    """Several gradient steps on every rollout, limited by a clip on how far a probability may profitably move.

    With A_i from generalised advantage estimation on the agent's own rewards and observations, and the ratio
    rho = pi_i / pi_i_old, policies minimise the mean of -min(rho A_i, clamp(rho, 1 - clip, 1 + clip) A_i) -
    weight H(pi_i). Advantages, targets and pi_old are those from before the first step and stay fixed.

    Each agent improves against the others as they were. When all take large steps at once, the team can get worse.

    Source: Schulman et al. 2017; de Witt et al. 2020.
    """

    def __init__(self, config: Config, spec: EnvSpec, streams: Streams):
        self.config = config
        with streams.initialization("ippo"):
            self.policy = agent_network(spec, config)
            self.critic = agent_network(spec, config, recurrent=False, outputs=1)
        self.target_critic = frozen_copy(self.critic)
        rate, critic_rate = config.learning_rate, config.critic_learning_rate
        self.policy_optimizer = make_optimizer(self.policy.parameters(), rate)
        self.critic_optimizer = make_optimizer(self.critic.parameters(), critic_rate)
        self.needs = actor_critic.rollout_needs(config, self.policy)
        self.num_rollouts = 0
        self._draws, self._order = streams.torch("exploration"), streams.torch("minibatches")

    def act(
        self, step: Step, *, explore: bool, progress: float = 1.0, memory: Memory | None = None
    ) -> Int[np.ndarray, "envs agents"]:
        """Draw every agent's action from its own policy; without `explore` the most probable ones."""
        return act_by_policy(self.policy, step, generator=self._draws if explore else None, memory=memory)

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Go through a rollout `epochs` times; if anything is not finite on the way, all of it is undone."""
        fixed = actor_critic.fix(self.config, batch, self.policy, self.critic, self.target_critic)
        numbers = actor_critic.clipped_steps(
            self.config,
            fixed,
            (self.policy, self.policy_optimizer),
            (self.critic, self.critic_optimizer),
            entropy_weight=self.config.entropy.at(progress),
            generator=self._order,
        )
        if np.isfinite(list(numbers.values())).all():
            self.num_rollouts += 1
            self.config.target.apply(self.target_critic, self.critic, self.num_rollouts)
        return numbers
