"""Central A2C: one actor-critic for the whole team, whose policy is a softmax over all joint actions."""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from spnpolicy.base.decoding import require
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.data.protocol import Batch, Needs
from spnpolicy.maths import categorical
from spnpolicy.maths.losses import chosen_value, mean_of_valid, policy_gradient_loss, squared_td_loss
from spnpolicy.maths.masks import require_some_action
from spnpolicy.networks import layers as networks
from spnpolicy.networks.encoders import state_network
from spnpolicy.parts import joint_actions, settings
from spnpolicy.parts.optimization import descend, make_optimizer
from spnpolicy.parts.saving import saves

POLICY_OUTPUT_GAIN = 0.01
"""Scale of the last layer's first weights: all joint actions begin almost equally probable."""


@dataclass(frozen=True)
class Config(settings.LearnerSettings):
    """Settings of central A2C."""

    critic_learning_rate: float = 5e-4
    """Step size of Adam on the critic."""
    rollout: int = 10
    """Steps of every environment in one update; each is used in one update only."""
    trace: float = 1.0
    """lambda of the returns: 0 for one-step targets, 1 for the return to the end of the rollout."""
    entropy: settings.LinearSchedule = field(default_factory=settings.LinearSchedule)
    """Weight of the joint policy's entropy, in units of reward per nat."""
    target: networks.TargetUpdate = field(default_factory=networks.TargetUpdate)
    """How the target critic follows, from which returns bootstrap."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.critic_learning_rate > 0.0, "critic_learning_rate", self.critic_learning_rate, "above 0")
        require(self.rollout >= 1, "rollout", self.rollout, "at least 1")
        require(0.0 <= self.trace <= 1.0, "trace", self.trace, "between 0 and 1")


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
        self.needs = Needs(rollout=config.rollout)
        self._cardinalities = spec.cardinalities
        self._exploration = streams.torch("exploration")
        count = joint_actions.count_joint_actions("central_a2c", spec.cardinalities)
        with streams.initialization("central_a2c"):
            self.actor = state_network(config.network, spec, count, output_gain=POLICY_OUTPUT_GAIN)
            self.critic = state_network(config.network, spec, 1)
        self.target_critic = networks.frozen_copy(self.critic)
        self.actor_optimizer = make_optimizer(self.actor.parameters(), config.learning_rate)
        self.critic_optimizer = make_optimizer(self.critic.parameters(), config.critic_learning_rate)
        self.num_updates = 0

    def act(self, step: Step, *, explore: bool, progress: float = 1.0) -> Int[np.ndarray, "envs agents"]:
        """Draw joint actions from the policy, or take the most probable ones."""
        require_some_action(step.available_actions)
        seen = joint_actions.seen_state(step, next(self.actor.parameters()).device)
        with torch.no_grad():
            logits = self.actor(seen).cpu()
        log_probs = self._masked(logits, torch.tensor(step.available_actions))
        index = categorical.sample(log_probs, self._exploration) if explore else log_probs.argmax(-1)
        return joint_actions.split_index(index, self._cardinalities).numpy()

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Do one step of the actor and one of the critic on a rollout."""
        value_t = self.critic(batch.state).squeeze(-1)
        target_t = self._targets(batch)
        log_probs = self._masked(self.actor(batch.state), batch.available_actions)
        log_prob_t = chosen_value(log_probs, joint_actions.joint_index(batch.actions, self._cardinalities))
        entropy = mean_of_valid(categorical.entropy(log_probs), batch.valid)
        gain_loss = policy_gradient_loss(log_prob_t, target_t - value_t, batch.valid)
        critic_loss = squared_td_loss(value_t, target_t, batch.valid)
        actor_norm, critic_norm = descend(
            (gain_loss - self.config.entropy.at(progress) * entropy, self.actor_optimizer),
            (critic_loss, self.critic_optimizer),
            max_gradient_norm=self.config.max_gradient_norm,
        )
        if np.isfinite([actor_norm, critic_norm]).all():
            self.num_updates += 1
            self.config.target.apply(self.target_critic, self.critic, self.num_updates)
        return {
            "policy_loss": float(gain_loss.detach()),
            "critic_loss": float(critic_loss.detach()),
            "entropy": float(entropy.detach()),
            "policy_gradient_norm": actor_norm,
            "critic_gradient_norm": critic_norm,
        }

    def _masked(self, logits: Float[Tensor, "*batch joint"], available: Tensor) -> Float[Tensor, "*batch joint"]:
        return categorical.masked_log_probs(logits, joint_actions.joint_mask(available, self._cardinalities))

    @torch.no_grad()
    def _targets(self, batch: Batch) -> Float[Tensor, "*batch"]:
        value_tp1 = self.target_critic(batch.next_state).squeeze(-1)
        return joint_actions.team_target(batch, value_tp1, discount=self.config.discount, trace=self.config.trace)
