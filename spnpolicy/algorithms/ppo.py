"""Proximal policy optimisation: IPPO, with critics of the agents' own observations, and MAPPO, whose see the state."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from spnpolicy.base.ranges import Count, Positive, Repeats, Share, StepSize
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec
from spnpolicy.data.protocol import Batch
from spnpolicy.maths import categorical
from spnpolicy.maths.losses import chosen_value, clipped_policy_loss, mean_of_valid, robust_value_loss
from spnpolicy.networks.agents import AgentNetwork, agent_network
from spnpolicy.parts.actor_critic import action_log_probs
from spnpolicy.parts.exploration import act_by_policy
from spnpolicy.parts.learner import count_update, frozen_copy, make_optimizer, saves, step_on
from spnpolicy.parts.minibatches import learn_in_parts
from spnpolicy.parts.settings import AgentCriticSettings, LinearSchedule, TargetUpdate, data_needs
from spnpolicy.parts.targets import advantages, normalized


@dataclass(frozen=True)
class Config(AgentCriticSettings):
    """Settings of IPPO and MAPPO."""

    rollout: Count = 20
    """Steps of every environment in one update; each is used in one update only."""
    trace: Share = 0.95
    """lambda of the returns and so of generalised advantage estimation: 0 for one-step targets, 1 for full returns."""
    target: TargetUpdate = field(default_factory=lambda: TargetUpdate(rate=1.0))
    """How the target critic follows after each rollout, from which returns bootstrap; rate 1 makes it the critic."""
    entropy: LinearSchedule = field(default_factory=LinearSchedule)
    """Weight of the policies' entropy per nat: in standard deviations of the advantages if these are normalised, else
    in units of reward."""
    clip: StepSize = 0.2
    """A probability that has changed by more than this share is pushed no further."""
    epochs: Repeats = 5
    """Passes over each rollout."""
    minibatches: Count = 1
    """Parts of the rollout with a gradient step each; for recurrent policies of whole windows of environments."""
    value_clip: Positive | None = None
    """Most that a value may profitably move in one update, in units of return; none means no limit."""
    huber: Positive | None = None
    """Error from which on the critic's loss grows only linearly, in units of return; none means squared errors."""


class Fixed(NamedTuple):
    """A rollout and what stays as it was before the first of several steps on it. Nothing here has a gradient."""

    batch: Batch
    log_prob: Float[Tensor, "*batch agents"]
    """Log probability of the actions taken, under the policy that took them."""
    value: Float[Tensor, "*batch agents"]
    """Values of the critic."""
    target: Float[Tensor, "*batch agents"]
    """What the critic learns."""
    advantage: Float[Tensor, "*batch agents"]
    """How good the actions were, normalised if so set."""


@saves("actor", "critic", "target_critic", "actor_optimizer", "critic_optimizer", "num_updates")
class IPPO:
    """Several gradient steps on every rollout, limited by a clip on how far a probability may profitably move.

    With A_i from generalised advantage estimation on the agent's own rewards and observations, and the ratio
    rho = pi_i / pi_i_old, actors minimise the mean of -min(rho A_i, clamp(rho, 1 - clip, 1 + clip) A_i) -
    weight H(pi_i). Advantages, targets and pi_old are those from before the first step and stay fixed.

    Each agent improves against the others as they were. When all take large steps at once, the team can get worse.

    Source: Schulman et al. 2017; de Witt et al. 2020.
    """

    name, critic_sees_state = "ippo", False
    act = act_by_policy

    def __init__(self, config: Config, spec: EnvSpec, streams: Streams):
        self.config = config
        with streams.initialization(self.name):
            self.actor = agent_network(spec, config)
            self.critic = agent_network(spec, config, recurrent=False, outputs=1, sees_state=self.critic_sees_state)
        self.target_critic = frozen_copy(self.critic)
        self.actor_optimizer = make_optimizer(self.actor.parameters(), config.actor)
        self.critic_optimizer = make_optimizer(self.critic.parameters(), config.critic)
        self.num_updates = 0
        self.needs = data_needs(config, self.actor.memory_size)._replace(passes=config.epochs)
        self._generator, self._order_generator = streams.torch("exploration"), streams.torch("minibatches")

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Go through a rollout `epochs` times; if anything is not finite on the way, all of it is undone."""
        config = self.config
        fixed = fix(config, batch, self.actor, self.critic, self.target_critic)
        numbers = learn_in_parts(
            self,
            fixed.batch,
            fixed[1:],
            lambda *part: self._step(Fixed(*part), config.entropy.at(progress)),
            passes=config.epochs,
            count=config.minibatches,
            generator=self._order_generator,
            whole_windows=self.actor.is_recurrent,
        )
        if all(map(math.isfinite, numbers.values())):
            count_update(self)
        return numbers

    def _step(self, part: Fixed, entropy_weight: float) -> dict[str, float]:
        actor_loss, critic_loss, numbers = clipped_losses(self.config, self.actor, self.critic, part, entropy_weight)
        return step_on(self, actor=actor_loss, critic=critic_loss) | numbers


class MAPPO(IPPO):
    """Clipped steps of each agent's policy pi_i(u_i | o_i) on advantages from a central critic V_i(o_i, s).

    The loss of the actors is that of IPPO; only what the critics see differs. Every agent has values of its own
    reward; with a reward that all share, and the agents' observations being parts of the state, they all learn the same
    numbers from different inputs.

    Source: Yu et al. 2022; Schulman et al. 2017.
    """

    name, critic_sees_state = "mappo", True


@torch.no_grad()
def fix(config: Config, batch: Batch, actor: AgentNetwork, critic: AgentNetwork, target_critic: AgentNetwork) -> Fixed:
    """Return a rollout with its log probabilities, values and advantages, computed once for all steps on it."""
    value_t, value_tp1 = critic.now(batch).squeeze(-1), target_critic.following(batch).squeeze(-1)
    advantage_t, target_t = advantages(config, batch, value_t, value_tp1)
    advantage_t = normalized(config, advantage_t, batch.valid)
    log_prob = chosen_value(action_log_probs(actor, batch), batch.actions)
    return Fixed(batch, log_prob, value_t, target_t, advantage_t)


def clipped_losses(
    config: Config, actor: AgentNetwork, critic: AgentNetwork, part: Fixed, entropy_weight: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], dict[str, float]]:
    """Return the losses of actors and critics on part of a rollout, and numbers to watch.

    The numbers are the entropy in nats, "divergence", an estimate of KL(pi_old || pi) in nats that is never negative,
    and "clipped", the share of actions whose ratio has left the clip.
    """
    valid = part.batch.valid
    log_probs = action_log_probs(actor, part.batch)
    log_prob = chosen_value(log_probs, part.batch.actions)
    entropy = mean_of_valid(categorical.entropy(log_probs), valid)
    surrogate_loss = clipped_policy_loss(log_prob, part.log_prob, part.advantage, config.clip, valid)
    value = critic.now(part.batch).squeeze(-1)
    critic_loss = robust_value_loss(
        value, part.target, valid, old_value_t=part.value, clip=config.value_clip, huber=config.huber
    )
    with torch.no_grad():
        log_ratio = log_prob - part.log_prob
        ratio = log_ratio.exp()
        watched = {
            "entropy": entropy.detach(),
            "divergence": mean_of_valid(ratio - 1.0 - log_ratio, valid),
            "clipped": mean_of_valid(((ratio - 1.0).abs() > config.clip).to(ratio.dtype), valid),
        }
    return surrogate_loss - entropy_weight * entropy, critic_loss, {name: float(x) for name, x in watched.items()}
