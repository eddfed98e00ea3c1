"""What critics learn: one-step targets of single transitions, lambda-returns of windows, and advantages."""

from jaxtyping import Bool, Float
from torch import Tensor

from spnpolicy.base.distributed import average, world
from spnpolicy.data.protocol import Batch, Window
from spnpolicy.maths.categorical import expected
from spnpolicy.maths.losses import chosen_value
from spnpolicy.maths.returns import lambda_target, q_target
from spnpolicy.parts.settings import CriticSettings, DataSettings, RolloutSettings

LEAST_DEVIATION = 1e-5
"""Added to the standard deviation of advantages, so that equal ones are not blown up."""
ROUNDING = 1e-8, 1e-5
"""Deviation up to which advantages count as equal, absolute and as a share of their mean, together."""


def value_target(
    config: DataSettings | CriticSettings,
    batch: Batch,
    value_tp1: Float[Tensor, "*batch more"],
    *,
    reward: Float[Tensor, "*batch more"] | None = None,
    bonus_tp1: Float[Tensor, "*batch more"] | float = 0.0,
) -> Float[Tensor, "*batch more"]:
    """Return one-step targets, or with a trace the lambda-returns of a window; 0 in rows that are not valid.

    An end of the task cuts the return. Time limits, the end of the window, and a step before one that an environment's
    failure made worthless bootstrap from what the step led to.

    Args:
        config: with `discount`, the worth of a reward one step later, and `trace`, the lambda.
        batch: says where the task ended, and what a window's rows are worth. Single transitions look one step ahead.
        value_tp1: value of what each step led to; of the team, or of each agent in an axis behind those of the batch.
        reward: of the same shape; None for the team's, the mean over agents.
        bonus_tp1: what is earned besides by what each step led to, see `spnpolicy.maths.returns.lambda_target`.
    """
    reward = batch.reward.mean(-1) if reward is None else reward
    terminated = _expanded(batch.terminated, reward)
    if not isinstance(batch, Window) or config.trace == 0.0:
        target = q_target(reward, config.discount, terminated, value_tp1)
    else:
        cut = _expanded(batch.cut, reward)
        target = lambda_target(reward, config.discount, terminated, cut, value_tp1, config.trace, bonus_tp1=bonus_tp1)
    return target if batch.valid is None else target.where(_expanded(batch.valid, reward), 0.0)


def window_of(batch: Batch) -> Window:
    """Return the batch, which must be a window.

    Raises:
        ValueError: it holds single transitions.
    """
    if not isinstance(batch, Window):
        raise ValueError("an on-policy learner needs windows of consecutive steps, not single transitions.")
    return batch


def advantages(
    config: CriticSettings,
    batch: Batch,
    value_t: Float[Tensor, "time batch agents"],
    value_tp1: Float[Tensor, "time batch agents"],
) -> tuple[Float[Tensor, "time batch agents"], Float[Tensor, "time batch agents"]]:
    """Return every agent's advantages y - V and the lambda-returns y, both without gradient.

    In rows that are not valid the advantage is 0. With one critic instead of two this is generalised advantage
    estimation.

    Args:
        config: with `discount` and `trace`, as for `value_target`.
        batch: a window; every agent's own rewards count for it.
        value_t: critic's values now.
        value_tp1: values of what each step led to, of the target critic.

    Raises:
        ValueError: the batch holds single transitions.
    Source: Schulman et al. 2016.
    """
    window, value_t = window_of(batch), value_t.detach()
    target_t = value_target(config, window, value_tp1.detach(), reward=window.reward)
    target_t = target_t.where(_expanded(window.valid, target_t), value_t)
    return target_t - value_t, target_t


def normalized(
    config: RolloutSettings, advantage_t: Float[Tensor, "time batch *agents"], valid: Bool[Tensor, "time batch"] | None
) -> Float[Tensor, "time batch *agents"]:
    """Return advantages with mean 0 and standard deviation 1 for each agent, over the valid rows of all processes.

    Where they are equal to rounding they are 0.

    Args:
        config: with `normalize_advantage`; where it is false, the advantages are returned as they are.
        advantage_t: of every agent, or of the team.
        valid: which rows count.
    """
    if not config.normalize_advantage:
        return advantage_t
    assert valid is not None, "a window has all fields"
    counts = _expanded(valid, advantage_t)
    total, sums = valid.sum().to(advantage_t.dtype), advantage_t.where(counts, 0.0).sum((0, 1))
    # Averaged over the processes of a run, of which each has its part of the rollout: the quotients are those of all.
    average([total, sums])
    total = total.clamp_min(1.0 / world().size)
    centred = advantage_t - sums / total
    squares = centred.square().where(counts, 0.0).sum((0, 1))
    average([squares])
    deviation = (squares / total).sqrt()
    # Rounding is no difference, however small the number that it is divided by: Adam would make full steps of it.
    differ = deviation > ROUNDING[0] + ROUNDING[1] * (sums / total).abs()
    return centred.where(differ, 0.0) / (deviation + LEAST_DEVIATION)


def following_value(
    value_tp1: Float[Tensor, "time batch agents actions"],
    log_prob_tp1: Float[Tensor, "time batch agents actions"],
    batch: Batch,
) -> Float[Tensor, "time batch agents"]:
    """Return the value of the action that each agent took next, or its mean under the policy where none is known.

    None is known where the window is cut. The mean is what a drawn action would give on average, so the targets stay
    unbiased. It is 0 for an agent with no available action.

    Args:
        value_tp1: values of all actions at what each step led to.
        log_prob_tp1: log probabilities there; the policy of an agent with no available action may be any.
        batch: a window.
    """
    mean = expected(log_prob_tp1, value_tp1).masked_fill(~batch.next_available_actions.any(-1), 0.0)
    taken = chosen_value(value_tp1, batch.actions.roll(-1, 0))
    return mean.where(window_of(batch).cut.unsqueeze(-1), taken)


def _expanded(flag: Tensor | None, like: Tensor) -> Tensor:
    assert flag is not None, "a window has all fields"
    return flag.reshape(flag.shape + (1,) * (like.dim() - flag.dim())).expand_as(like)
