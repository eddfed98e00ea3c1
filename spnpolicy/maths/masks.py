"""Action masks: which actions exist, which may be taken, and what of an agent that has none."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from spnpolicy.base.errors import EnvError


def existing_actions(cardinalities: Sequence[int]) -> Bool[Tensor, "agents actions"]:
    """Return which entries of the padded action axis are actions of each agent."""
    return torch.arange(max(cardinalities)) < torch.tensor(cardinalities)[:, None]


def usable(
    available: Bool[Tensor, "*batch agents actions"], cardinalities: Sequence[int]
) -> Bool[Tensor, "*batch agents actions"]:
    """Return the available actions, and all that exist for an agent with none, as in a state where the task is over."""
    exists = existing_actions(cardinalities).to(available.device)
    allowed = available & exists
    return allowed | (exists & ~allowed.any(-1, keepdim=True))


def zero_where_stuck(
    value: Float[Tensor, "*batch"], available: Bool[Tensor, "*batch agents actions"]
) -> Float[Tensor, "*batch"]:
    """Return values of joint actions, but 0 where an agent has no available action: there is no joint action either."""
    return value.masked_fill(~available.any(-1).all(-1), 0.0)


def require_some_action(available: Bool[np.ndarray, "envs agents actions"]) -> None:
    """Raise an EnvError that names environment and agent if a mask allows nothing."""
    if not available.any(axis=-1).all():
        env, agent = np.argwhere(~available.any(axis=-1))[0]
        raise EnvError(f"env {env}: agent {agent} has no available action; the mask must allow at least one.")
