"""Targets of temporal-difference learning: pure functions; `_t` means now, `_tp1` one step later."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def q_target(
    reward_t: Float[Tensor, "*batch"],
    discount: float,
    terminated_t: Bool[Tensor, "*batch"],
    value_tp1: Float[Tensor, "*batch"],
) -> Float[Tensor, "*batch"]:
    """Return the one-step target r_t + discount * v_tp1, and r_t alone where the task ended.

    A time limit is not an end: pass `terminated`, never "terminated or truncated".

    Args:
        reward_t: reward of the step.
        discount: worth of a reward one step later, in [0, 1].
        terminated_t: whether the step ended the task; there `value_tp1` is ignored, even if it is not finite.
        value_tp1: value of what the step led to.

    Raises:
        ValueError: the shapes differ; broadcasting would pair the wrong entries silently.
    """
    require_same_shape(reward_t=reward_t, terminated_t=terminated_t, value_tp1=value_tp1)
    return torch.where(terminated_t, reward_t, reward_t + discount * value_tp1)


def greedy_value(
    value_tp1: Float[Tensor, "*batch actions"],
    available_tp1: Bool[Tensor, "*batch actions"],
    *,
    selector_tp1: Float[Tensor, "*batch actions"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Return the value of the best available action; 0 where no action is available.

    With `selector_tp1` (double Q-learning) the action is chosen by the selector and only valued by
    `value_tp1`, so that one network's errors are not both picked and believed.

    Args:
        value_tp1: action values that count, of the target network.
        available_tp1: which actions may be chosen.
        selector_tp1: action values that choose, of the online network; None to choose by `value_tp1` itself.

    Source: van Hasselt, Guez and Silver 2016.
    """
    require_same_shape(value_tp1=value_tp1, available_tp1=available_tp1)
    if selector_tp1 is None:
        best = value_tp1.masked_fill(~available_tp1, -math.inf).amax(-1)
    else:
        require_same_shape(value_tp1=value_tp1, selector_tp1=selector_tp1)
        choice = selector_tp1.masked_fill(~available_tp1, -math.inf).argmax(-1, keepdim=True)
        best = value_tp1.gather(-1, choice).squeeze(-1)
    return best.masked_fill(~available_tp1.any(-1), 0.0)


def require_same_shape(**tensors: Tensor) -> None:
    """Raise a ValueError that lists every shape unless all are equal."""
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        listed = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"shapes must be equal, got {listed}.")
