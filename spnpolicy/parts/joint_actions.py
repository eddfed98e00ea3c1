"""One learner for the whole team: joint actions as single numbers, and their masks."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from spnpolicy.base.errors import ConfigError

MOST_JOINT_ACTIONS = 100_000
"""Beyond this a network with one output per joint action is refused."""


def count_joint_actions(name: str, cardinalities: Sequence[int]) -> int:
    """Return the number of joint actions.

    Args:
        name: of the algorithm, for the message.
        cardinalities: number of actions of each agent.

    Raises:
        ConfigError: there are too many for one output each; the message says what to use instead.
    """
    count = math.prod(cardinalities)
    if count > MOST_JOINT_ACTIONS:
        raise ConfigError(
            f"{name}: {len(cardinalities)} agents have {count:,} joint actions, but each needs an output of its own, "
            f"and at most {MOST_JOINT_ACTIONS:,} are allowed. Use spn_ac or coordinated, which do not list them."
        )
    return count


def joint_index(actions: Int[Tensor, "*batch agents"], cardinalities: Sequence[int]) -> Int[Tensor, "*batch"]:
    """Return the number of each joint action: the last agent's action changes fastest."""
    index = torch.zeros_like(actions[..., 0])
    for action, cardinality in zip(actions.unbind(-1), cardinalities, strict=True):
        index = index * cardinality + action
    return index


def split_index(index: Int[Tensor, "*batch"], cardinalities: Sequence[int]) -> Int[Tensor, "*batch agents"]:
    """Return the agents' actions behind the numbers that `joint_index` gives."""
    return torch.stack(torch.unravel_index(index, tuple(cardinalities)), -1)


def joint_mask(
    available: Bool[Tensor, "*batch agents actions"], cardinalities: Sequence[int]
) -> Bool[Tensor, "*batch joint"]:
    """Return which joint actions are available: those in which every agent's action is."""
    mask = available[..., 0, : cardinalities[0]]
    for agent, cardinality in enumerate(cardinalities[1:], start=1):
        mask = (mask.unsqueeze(-1) & available[..., agent, :cardinality].unsqueeze(-2)).flatten(-2)
    return mask
