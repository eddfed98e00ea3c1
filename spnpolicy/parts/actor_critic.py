"""Actor-critic on rollouts: pure functions for advantages and losses, and several clipped steps on the same data."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from spnpolicy.base.decoding import require
from spnpolicy.data.protocol import Batch, Needs
from spnpolicy.maths import categorical
from spnpolicy.maths.losses import (
    chosen_value,
    clipped_policy_loss,
    mean_of_valid,
    policy_gradient_loss,
    robust_value_loss,
)
from spnpolicy.maths.returns import lambda_target
from spnpolicy.networks.agents import AgentNetwork
from spnpolicy.networks.layers import TargetUpdate
from spnpolicy.parts.optimization import descend
from spnpolicy.parts.settings import CriticSettings, PolicySettings

LEAST_DEVIATION = 1e-5
"""Added to the standard deviation of advantages, so that equal ones are not blown up."""


@dataclass(frozen=True)
class ClippedSettings(CriticSettings):
    """What learners have that take several clipped steps on each rollout (PPO)."""

    rollout: int = 20
    """Steps of every environment in one update; each is used in one update only."""
    trace: float = 0.95
    """lambda of the returns and so of generalised advantage estimation: 0 for one-step targets, 1 for full returns."""
    target: TargetUpdate = field(default_factory=lambda: TargetUpdate(rate=1.0))
    """How the target critic follows after each rollout, from which returns bootstrap; rate 1 makes it the critic."""
    clip: float = 0.2
    """A probability that has changed by more than this share is pushed no further."""
    epochs: int = 5
    """Passes over each rollout."""
    minibatches: int = 1
    """Parts of the rollout with a gradient step each; for recurrent policies of whole windows of environments."""
    normalize_advantage: bool = True
    """Bring each agent's advantages in a rollout to mean 0 and standard deviation 1; the entropy weight then counts in
    deviations instead of units of reward."""
    value_clip: float | None = None
    """Most that a value may profitably move in one update, in units of return; none means no limit."""
    huber: float | None = None
    """Error from which on the critic's loss grows only linearly, in units of return; none means squared errors."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0.0 < self.clip < 1.0, "clip", self.clip, "above 0 and below 1")
        for name in ("epochs", "minibatches"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("value_clip", "huber"):
            value = getattr(self, name)
            require(value is None or value > 0.0, name, value, "above 0")


def rollout_needs(config: PolicySettings, policy: AgentNetwork) -> Needs:
    """Return what an on-policy learner needs: the newest steps, and the memory of a recurrent policy."""
    return Needs(rollout=config.rollout, memory_size=policy.memory_size)


def advantages(
    batch: Batch,
    value_t: Float[Tensor, "time batch agents"],
    value_tp1: Float[Tensor, "time batch agents"],
    *,
    discount: float,
    trace: float,
) -> tuple[Float[Tensor, "time batch agents"], Float[Tensor, "time batch agents"]]:
    """Return every agent's advantages y - V and the lambda-returns y, both without gradient.

    An end of the task cuts the return. Time limits, the end of the window, and a step before one that an environment's
    failure made worthless bootstrap from what the step led to. In rows that are not valid the advantage is 0.

    Args:
        batch: a window; every agent's own rewards count for it.
        value_t: critic's values now.
        value_tp1: values of what each step led to, of the target critic. Where both critics are the same, this is
            generalised advantage estimation.
        discount: worth of a reward one step later.
        trace: lambda, in [0, 1].

    Raises:
        ValueError: the batch holds single transitions.
    Source: Schulman et al. 2016.
    """
    if batch.ended is None or batch.valid is None:
        raise ValueError("advantages are estimated on windows of steps, not on single transitions.")
    cut = batch.ended.clone()
    cut[:-1] |= ~batch.valid[1:]
    terminated, cut = (flag.unsqueeze(-1).expand_as(batch.reward) for flag in (batch.terminated, cut))
    value_t = value_t.detach()
    target_t = lambda_target(batch.reward, discount, terminated, cut, value_tp1.detach(), trace)
    target_t = target_t.where(batch.valid.unsqueeze(-1), value_t)
    return target_t - value_t, target_t


def normalized(
    advantage_t: Float[Tensor, "time batch agents"], valid: Bool[Tensor, "time batch"]
) -> Float[Tensor, "time batch agents"]:
    """Return advantages with mean 0 and standard deviation 1 for each agent, over the valid rows of the window."""
    counts = valid.unsqueeze(-1)
    total = counts.sum().clamp_min(1)
    centred = advantage_t - advantage_t.where(counts, 0.0).sum((0, 1)) / total
    variance = centred.square().where(counts, 0.0).sum((0, 1)) / total
    return centred / (variance.sqrt() + LEAST_DEVIATION)


def action_log_probs(policy: AgentNetwork, batch: Batch) -> Float[Tensor, "*batch agents actions"]:
    """Return log probabilities of all actions at the observations of a batch, -inf for those not available."""
    return categorical.masked_log_probs(policy.now(batch), batch.available_actions)


def actor_loss(
    log_probs: Float[Tensor, "*batch agents actions"],
    action_t: Int[Tensor, "*batch agents"],
    advantage_t: Float[Tensor, "*batch agents"],
    entropy_weight: float,
    valid: Bool[Tensor, "..."] | None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return -mean(A log pi(u) + entropy_weight H(pi)), to be minimised, and the mean entropy in nats.

    Args:
        log_probs: of every agent's actions.
        action_t: actions taken.
        advantage_t: how much better they were than expected; no gradient flows into it.
        entropy_weight: worth of a nat, in units of the advantage.
        valid: which rows count; None for all.
    """
    entropy = mean_of_valid(categorical.entropy(log_probs), valid)
    loss = policy_gradient_loss(chosen_value(log_probs, action_t), advantage_t, valid)
    return loss - entropy_weight * entropy, entropy.detach()


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


@torch.no_grad()
def fix(
    config: ClippedSettings, batch: Batch, policy: AgentNetwork, critic: AgentNetwork, target_critic: AgentNetwork
) -> Fixed:
    """Return a rollout with its log probabilities, values and advantages, computed once for all steps on it."""
    value_t, value_tp1 = critic.now(batch).squeeze(-1), target_critic.following(batch).squeeze(-1)
    advantage_t, target_t = advantages(batch, value_t, value_tp1, discount=config.discount, trace=config.trace)
    if config.normalize_advantage:
        assert batch.valid is not None, "checked with the advantages"
        advantage_t = normalized(advantage_t, batch.valid)
    log_prob = chosen_value(action_log_probs(policy, batch), batch.actions)
    return Fixed(batch, log_prob, value_t, target_t, advantage_t)


def minibatches(
    fixed: Fixed, *, epochs: int, count: int, whole_windows: bool, generator: torch.Generator
) -> Iterator[Fixed]:
    """Go through a rollout several times, each time in so many parts of nearly equal size, in a fresh random order.

    Args:
        fixed: the rollout, shape (time, batch).
        epochs: passes; in each, every row is in exactly one part.
        count: parts, fewer if there are fewer rows; with one part nothing is drawn and the order stays.
        whole_windows: a row is the whole window of one environment, as recurrent networks need it; otherwise it is a
            single step, and the parts have the leading shape (batch,).
        generator: source of the order, on the CPU.
    """
    rows = fixed if whole_windows else _map(fixed, lambda tensor: tensor.flatten(0, 1))
    axis = int(whole_windows)
    total = rows.advantage.shape[axis]
    for _ in range(epochs):
        if min(count, total) == 1:
            yield rows
            continue
        order = torch.randperm(total, generator=generator).to(rows.advantage.device)
        for chosen in order.tensor_split(min(count, total)):
            part = _map(rows, lambda tensor, chosen=chosen: tensor.index_select(axis, chosen))
            if fixed.batch.memory is not None and whole_windows:
                part = part._replace(batch=part.batch._replace(memory=fixed.batch.memory.index_select(0, chosen)))
            yield part


def _map(fixed: Fixed, function: Callable[[Tensor], Tensor]) -> Fixed:
    """Apply a function to everything with the leading shape (time, batch); the memory, which has another, is left out.

    Only whole windows have a use for a memory: the caller puts it back.
    """
    fields = {name: function(x) for name, x in fixed.batch._asdict().items() if x is not None and name != "memory"}
    return Fixed(Batch(**fields), *map(function, fixed[1:]))


def clipped_losses(
    config: ClippedSettings, policy: AgentNetwork, critic: AgentNetwork, part: Fixed, entropy_weight: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], dict[str, float]]:
    """Return the losses of policies and critics on part of a rollout, and numbers to watch.

    The numbers are the entropy in nats, "divergence", an estimate of KL(pi_old || pi) in nats that is never negative,
    and "clipped", the share of actions whose ratio has left the clip.
    """
    valid = part.batch.valid
    log_probs = action_log_probs(policy, part.batch)
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


def clipped_steps(
    config: ClippedSettings,
    fixed: Fixed,
    policy: tuple[AgentNetwork, torch.optim.Optimizer],
    critic: tuple[AgentNetwork, torch.optim.Optimizer],
    *,
    entropy_weight: float,
    generator: torch.Generator,
) -> dict[str, float]:
    """Take the gradient steps of PPO on a rollout, all of them or none, and return means over the steps.

    If a loss or gradient is not finite, all parameters and moments are put back to what they were before the first
    step, and one of the numbers is not finite.

    Args:
        config: epochs, minibatches, clips and limits.
        fixed: the rollout, from `fix`.
        policy: the policies' network and its optimiser.
        critic: the critics' network and its optimiser.
        entropy_weight: worth of a nat of entropy.
        generator: source of the order of minibatches.
    """
    put_back = remember(*policy, *critic)
    steps: list[dict[str, float]] = []
    parts = minibatches(
        fixed, epochs=config.epochs, count=config.minibatches, whole_windows=policy[0].is_recurrent, generator=generator
    )
    for part in parts:
        policy_loss, critic_loss, numbers = clipped_losses(config, policy[0], critic[0], part, entropy_weight)
        norms = descend((policy_loss, policy[1]), (critic_loss, critic[1]), max_gradient_norm=config.max_gradient_norm)
        losses = {"policy_loss": policy_loss.item(), "critic_loss": critic_loss.item()}
        steps.append(losses | numbers | {"policy_gradient_norm": norms[0], "critic_gradient_norm": norms[1]})
        if not all(map(math.isfinite, norms)):
            put_back()
            break
    return {name: sum(step[name] for step in steps) / len(steps) for name in steps[0]}


def remember(*parts: Any) -> Callable[[], None]:
    """Return a function that puts networks and optimisers back to what they are now."""
    states = [copy.deepcopy(part.state_dict()) for part in parts]

    def put_back() -> None:
        for part, state in zip(parts, states, strict=True):
            part.load_state_dict(state)

    return put_back
