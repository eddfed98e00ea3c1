"""MAPPO: proximal policy optimisation with critics that see the state, for policies that do not."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from spnpolicy.base import seeding
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.data.protocol import Batch, Memory
from spnpolicy.networks import layers as networks
from spnpolicy.networks.agents import agent_network
from spnpolicy.parts import exploration, optimization
from spnpolicy.parts.actor_critic import ClippedSettings, clipped_steps, fix, rollout_needs
from spnpolicy.parts.saving import saves


@dataclass(frozen=True)
class Config(ClippedSettings):
    """Settings of MAPPO."""


@saves("actors", "critics", "target_critics", "actor_optimizer", "critic_optimizer", "updates")
class MAPPO:
    """Clipped steps of each agent's policy pi_i(u_i | o_i) on advantages from a central critic V_i(o_i, s).

    The loss of the policies is that of IPPO; only what the critics see differs. Every agent has values of its own
    reward; with a reward that all share, and the agents' observations being parts of the state, they all learn the same
    numbers from different inputs.

    Source: Yu et al. 2022; Schulman et al. 2017.
    """

    def __init__(self, config: Config, spec: EnvSpec, streams: seeding.Streams):
        with streams.initialization("mappo"):
            self.actors = agent_network(spec, config)
            self.critics = agent_network(spec, config, outputs=1, sees_state=True, recurrent=False)
            self.target_critics = networks.frozen_copy(self.critics)
        rates = (self.actors, config.learning_rate), (self.critics, config.critic_learning_rate)
        self.actor_optimizer, self.critic_optimizer = (
            optimization.make_optimizer(network.parameters(), rate) for network, rate in rates
        )
        self.config, self.needs = config, rollout_needs(config, self.actors)
        self.updates = 0
        self._generators = {name: streams.torch(name) for name in ("exploration", "minibatches")}

    def act(
        self, step: Step, *, explore: bool, progress: float = 1.0, memory: Memory | None = None
    ) -> Int[np.ndarray, "envs agents"]:
        """Sample if `explore`, otherwise take each agent's most probable action; no agent sees the state."""
        generator = self._generators["exploration"] if explore else None
        return exploration.act_by_policy(self.actors, step, generator=generator, memory=memory)

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Fix advantages and old probabilities, take all steps of all epochs, let the target follow."""
        rollout = fix(self.config, batch, self.actors, self.critics, self.target_critics)
        actor, critic = (self.actors, self.actor_optimizer), (self.critics, self.critic_optimizer)
        weight, order = self.config.entropy.at(progress), self._generators["minibatches"]
        report = clipped_steps(self.config, rollout, actor, critic, entropy_weight=weight, generator=order)
        if all(map(math.isfinite, report.values())):
            self.updates += 1
            self.config.target.apply(self.target_critics, self.critics, self.updates)
        return report
