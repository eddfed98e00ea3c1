"""Losses of value-based learning: pure functions, time in the names."""

from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from spnpolicy.returns import require_same_shape


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
    return mean_of_valid((value_t - target_t.detach()).square(), valid)


def mean_of_valid(values: Float[Tensor, "*batch"], valid: Bool[Tensor, "..."] | None) -> Float[Tensor, ""]:
    """Return the mean over the valid rows, 0 if there are none; what stands in other rows has no influence.

    Args:
        values: numbers, possibly not finite where they do not count.
        valid: which rows count, its axes the first ones of `values`; None for all.
    """
    if valid is None:
        return values.mean()
    counts = valid.reshape(valid.shape + (1,) * (values.dim() - valid.dim())).expand_as(values)
    return values.where(counts, 0.0).sum() / counts.sum().clamp_min(1)
