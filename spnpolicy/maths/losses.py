"""Losses of value-based learning: pure functions, time in the names."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from spnpolicy.maths.returns import require_same_shape


def chosen_value(value_t: Float[Tensor, "*batch actions"], action_t: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Return the value of the action taken.

    Raises:
        ValueError: `action_t` has not the shape of `value_t` without its last axis.
    """
    if value_t.shape[:-1] != action_t.shape:
        raise ValueError(
            f"action_t must have shape {tuple(value_t.shape[:-1])} to match value_t, got {tuple(action_t.shape)}."
        )
    return value_t.gather(-1, action_t.unsqueeze(-1)).squeeze(-1)


def squared_td_loss(
    value_t: Float[Tensor, "*batch"], target_t: Float[Tensor, "*batch"], valid: Bool[Tensor, "..."] | None = None
) -> Float[Tensor, ""]:
    """Return the mean of (target_t - value_t)^2 over the valid entries; no gradient flows into the target.

    Args:
        value_t: values that learn.
        target_t: what they should be.
        valid: which rows count, its axes the first ones of `value_t`; None for all.

    Raises:
        ValueError: the shapes differ.
    """
    require_same_shape(value_t=value_t, target_t=target_t)
    if valid is None:
        return functional.mse_loss(value_t, target_t.detach())
    # What stands in other rows may be nan, and its gradient times 0 would still be nan.
    target_t = target_t.detach().where(_expanded(valid, target_t), value_t.detach())
    return mean_of_valid((value_t - target_t).square(), valid)


def mean_of_valid(values: Float[Tensor, "*batch"], valid: Bool[Tensor, "..."] | None) -> Float[Tensor, ""]:
    """Return the mean over the valid rows, 0 if there are none; what stands in other rows has no influence.

    Args:
        values: numbers, possibly not finite where they do not count.
        valid: which rows count, its axes the first ones of `values`; None for all.
    """
    if valid is None:
        return values.mean()
    counts = _expanded(valid, values)
    return values.where(counts, 0.0).sum() / counts.sum().clamp_min(1)


def _expanded(valid: Bool[Tensor, "..."], like: Tensor) -> Tensor:
    return valid.reshape(valid.shape + (1,) * (like.dim() - valid.dim())).expand_as(like)


def policy_gradient_loss(
    log_prob_t: Float[Tensor, "*batch"], advantage_t: Float[Tensor, "*batch"], valid: Bool[Tensor, "..."] | None = None
) -> Float[Tensor, ""]:
    """Return -mean(advantage_t * log_prob_t) over the valid entries; no gradient flows into the advantage.

    Args:
        log_prob_t: log probability of the action taken.
        advantage_t: how much better it was than what was expected.
        valid: which rows count; None for all.

    Raises:
        ValueError: the shapes differ.
    """
    require_same_shape(log_prob_t=log_prob_t, advantage_t=advantage_t)
    return mean_of_valid(-advantage_t.detach() * log_prob_t, valid)


def clipped_policy_loss(
    log_prob_t: Float[Tensor, "*batch"],
    old_log_prob_t: Float[Tensor, "*batch"],
    advantage_t: Float[Tensor, "*batch"],
    clip: float,
    valid: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, ""]:
    """Return -mean(min(ratio A, clamp(ratio, 1 - clip, 1 + clip) A)), with ratio = pi / pi_old.

    Beyond the clip there is no gradient where going on would raise the surrogate, but there is one on the way back.
    No gradient flows into the advantage or the old policy. Where both policies are equal, it is the gradient of
    `policy_gradient_loss`.

    Args:
        log_prob_t: log probability of the action taken.
        old_log_prob_t: the same under the policy that is not to be left too far.
        advantage_t: how much better the action was than what was expected.
        clip: how far the ratio may pay to move from 1; above 0.
        valid: which rows count; None for all.

    Raises:
        ValueError: the shapes differ.
    Source: Schulman et al. 2017, equation 7.
    """
    require_same_shape(log_prob_t=log_prob_t, old_log_prob_t=old_log_prob_t, advantage_t=advantage_t)
    advantage_t = advantage_t.detach()
    ratio = (log_prob_t - old_log_prob_t.detach()).exp()
    surrogate = (ratio * advantage_t).minimum(ratio.clamp(1.0 - clip, 1.0 + clip) * advantage_t)
    return mean_of_valid(-surrogate, valid)


def robust_value_loss(
    value_t: Float[Tensor, "*batch"],
    target_t: Float[Tensor, "*batch"],
    valid: Bool[Tensor, "..."] | None = None,
    *,
    old_value_t: Float[Tensor, "*batch"] | None = None,
    clip: float | None = None,
    huber: float | None = None,
) -> Float[Tensor, ""]:
    """Return the mean squared error of values, tamed for large errors and for large steps if so wished.

    Args:
        value_t: values that learn.
        target_t: what they should be; no gradient flows into it.
        valid: which rows count; None for all.
        old_value_t: values before the first of several steps on the same targets; needed with `clip`.
        clip: a value moved further than this from its old one learns no more: the larger of the errors of the value
            itself and of the value held at that distance counts.
        huber: beyond this error the loss grows only linearly: h(e) = e^2 up to it, and huber (2 |e| - huber) after it.

    Raises:
        ValueError: the shapes differ, or `clip` is given without `old_value_t`.
    Source: Schulman et al. 2017 (public code); Yu et al. 2022, section 4.
    """
    require_same_shape(value_t=value_t, target_t=target_t)
    loss = _error_loss(value_t - target_t.detach(), huber)
    if clip is not None:
        if old_value_t is None:
            raise ValueError("clip needs old_value_t, the values before the first step.")
        require_same_shape(value_t=value_t, old_value_t=old_value_t)
        held = old_value_t.detach() + (value_t - old_value_t.detach()).clamp(-clip, clip)
        loss = loss.maximum(_error_loss(held - target_t.detach(), huber))
    return mean_of_valid(loss, valid)


def _error_loss(error: Float[Tensor, "*batch"], huber: float | None) -> Float[Tensor, "*batch"]:
    if huber is None:
        return error.square()
    return torch.where(error.abs() <= huber, error.square(), huber * (2.0 * error.abs() - huber))
