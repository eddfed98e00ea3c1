"""Losses of value-based learning: pure functions, time in the names."""

from jaxtyping import Float, Int
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


def squared_td_loss(value_t: Float[Tensor, "*batch"], target_t: Float[Tensor, "*batch"]) -> Float[Tensor, ""]:
    """Return the mean of (target_t - value_t)^2; no gradient flows into the target.

    Raises:
        ValueError: the shapes differ.
    """
    require_same_shape(value_t=value_t, target_t=target_t)
    return functional.mse_loss(value_t, target_t.detach())
