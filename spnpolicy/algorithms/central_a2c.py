"""Central A2C: one actor-critic for the whole team, whose policy is a softmax over all joint actions."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.data.protocol import Batch, seen
from spnpolicy.maths import categorical
from spnpolicy.maths.losses import squared_td_loss
from spnpolicy.maths.masks import require_some_action
from spnpolicy.networks.encoders import state_network
from spnpolicy.parts import joint_actions
from spnpolicy.parts.actor_critic import actor_loss
from spnpolicy.parts.learner import frozen_copy, improve, make_optimizer, saves
from spnpolicy.parts.settings import CriticSettings, data_needs
from spnpolicy.parts.targets import normalized, value_target

POLICY_OUTPUT_GAIN = 0.01
"""Scale of the last layer's first weights: all joint actions begin almost equally probable."""


@dataclass(frozen=True)
class Config(CriticSettings):
    """Settings of central A2C; there is one policy, and one entropy."""


@saves("actor", "critic", "target_critic", "actor_optimizer", "critic_optimizer", "num_updates")
class CentralA2C:
    """Advantage actor-critic over joint actions: pi(u | s) with one logit per joint action, and a value V(s).

    With lambda-returns G of the mean reward, the actor's loss is -(G - V(s)) log pi(u | s) - entropy weight * H(pi) and
    the critic's (G - V(s))^2. Such a policy can hold any coordination of the agents; the price is prod_i k_i outputs.

    Raises:
        ConfigError: there are more than 100,000 joint actions.
    Source: Mnih et al. 2016; Claus and Boutilier 1998 (joint action learners).
    """

    def __init__(self, config: Config, spec: EnvSpec, streams: Streams):
        self.config = config
        self.needs = data_needs(config)
        self._cardinalities = spec.cardinalities
        self._generator = streams.torch("exploration")
        count = joint_actions.count_joint_actions("central_a2c", spec.cardinalities)
        with streams.initialization("central_a2c"):
            self.actor = state_network(config.network, spec, count, output_gain=POLICY_OUTPUT_GAIN)
            self.critic = state_network(config.network, spec, 1)
        self.target_critic = frozen_copy(self.critic)
        self.actor_optimizer = make_optimizer(self.actor.parameters(), config.actor)
        self.critic_optimizer = make_optimizer(self.critic.parameters(), config.critic)
        self.num_updates = 0

    def act(self, step: Step, *, explore: bool, progress: float = 1.0) -> Int[np.ndarray, "envs agents"]:
        """Draw joint actions from the policy, or take the most probable ones."""
        require_some_action(step.available_actions)
        state = seen(step, "state", next(self.actor.parameters()).device)
        with torch.no_grad():
            logits = self.actor(state).cpu()
        log_probs = self._masked(logits, torch.tensor(step.available_actions))
        index = categorical.sample(log_probs, self._generator) if explore else log_probs.argmax(-1)
        return joint_actions.split_index(index, self._cardinalities).numpy()

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Do one step of the actor and one of the critic on a rollout."""
        value_t = self.critic(batch.state).squeeze(-1)
        target_t = self._targets(batch)
        log_probs = self._masked(self.actor(batch.state), batch.available_actions)
        index, weight = joint_actions.joint_index(batch.actions, self._cardinalities), self.config.entropy.at(progress)
        advantage_t = normalized(self.config, target_t - value_t.detach(), batch.valid)
        loss, entropy = actor_loss(log_probs, index, advantage_t, weight, batch.valid)
        numbers = improve(self, actor=loss, critic=squared_td_loss(value_t, target_t, batch.valid))
        return numbers | {"entropy": entropy.item()}

    def _masked(self, logits: Float[Tensor, "*batch joint"], available: Tensor) -> Float[Tensor, "*batch joint"]:
        return categorical.masked_log_probs(logits, joint_actions.joint_mask(available, self._cardinalities))

    @torch.no_grad()
    def _targets(self, batch: Batch) -> Float[Tensor, "*batch"]:
        value_tp1 = self.target_critic(batch.next_state).squeeze(-1)
        return value_target(self.config, batch, value_tp1)
