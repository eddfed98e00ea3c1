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


def lambda_target(
    reward_t: Float[Tensor, "time *batch"],
    discount: float,
    terminated_t: Bool[Tensor, "time *batch"],
    ended_t: Bool[Tensor, "time *batch"],
    value_tp1: Float[Tensor, "time *batch"],
    trace: float = 1.0,
    *,
    bonus_tp1: Float[Tensor, "time *batch"] | float = 0.0,
) -> Float[Tensor, "time *batch"]:
    """Return the lambda-return of every step of a window, bootstrapped where the window or an episode is cut.

    G_t = r_t + discount * (1 - terminated_t) * B_t, where B_t is v_tp1 if the window or the episode ends here, and
    (1 - trace) * v_tp1 + trace * (bonus_tp1 + G_tp1) otherwise. `trace` 0 gives the one-step target, 1 the return up to
    the end of the window; minus the value of the state it is generalised advantage estimation.

    Args:
        reward_t: rewards.
        discount: worth of a reward one step later, in [0, 1].
        terminated_t: real ends; there `value_tp1` is ignored, even if it is not finite.
        ended_t: ends of episodes for whatever reason; a time limit bootstraps from the final observation.
        value_tp1: value of what each step led to.
        trace: weight of what really followed, in [0, 1].
        bonus_tp1: what is earned by what each step led to besides the rewards that follow, such as the entropy's worth
            in a soft return; `value_tp1` holds it already.

    Raises:
        ValueError: the shapes differ.
    Source: Sutton and Barto 2018, section 12.1; Schulman et al. 2016.
    """
    require_same_shape(reward_t=reward_t, terminated_t=terminated_t, ended_t=ended_t, value_tp1=value_tp1)
    targets = torch.empty_like(reward_t)
    following = value_tp1[-1]
    bonus = torch.as_tensor(bonus_tp1, dtype=reward_t.dtype, device=reward_t.device).expand_as(reward_t)
    for t in reversed(range(len(reward_t))):
        # Chosen and not multiplied: what follows a cut may be nan, and 0 times nan is nan.
        mixed = torch.where(ended_t[t], value_tp1[t], (1.0 - trace) * value_tp1[t] + trace * (bonus[t] + following))
        following = torch.where(terminated_t[t], reward_t[t], reward_t[t] + discount * mixed)
        targets[t] = following
    return targets


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
