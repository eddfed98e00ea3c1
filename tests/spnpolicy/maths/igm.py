"""Individual-global-max: whether agents who choose on their own find exactly the best joint actions."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Agreement(NamedTuple):
    """What `check_igm` found: for each of the two inclusions that fails, a joint action that shows it."""

    joint_only: tuple[int, ...] | None
    """A best joint action that is not made of the agents' best actions; None if there is none."""
    individual_only: tuple[int, ...] | None
    """Best actions of the agents that together are not a best joint action; None if there are none."""

    @property
    def holds(self) -> bool:
        """Whether the best joint actions are exactly the combinations of the agents' best actions."""
        return self.joint_only is None and self.individual_only is None


def check_igm(
    table: Float[Tensor, "*actions"], utilities: Sequence[Float[Tensor, " _"]], tol: float = 1e-6
) -> Agreement:
    """Compare the maximisers of a joint value with the combinations of the agents' own maximisers.

    argmax_u Q(u) = argmax_a Q_1(a) x ... x argmax_a Q_n(a), tested in both directions. What is within `tol` of the
    largest value on one side must be within n * tol of it on the other, so that a sum of utilities always passes.

    Args:
        table: value of every joint action, one axis per agent; -inf for what is impossible.
        utilities: the agents' values of their actions; -inf for what is impossible.
        tol: how far below the largest value a value still counts as largest; at least 0.

    Raises:
        ValueError: the utilities have not the lengths of the table's axes, or `tol` is negative.
    Cost: a few passes over the table.
    Source: Son et al. 2019, definition 1.
    """
    sizes = tuple(len(utility) for utility in utilities)
    if sizes != tuple(table.shape):
        raise ValueError(f"utilities must have the lengths {tuple(table.shape)} of the table's axes, got {sizes}.")
    if tol < 0.0:
        raise ValueError(f"tol is {tol}, but must be at least 0.")
    loss = table.max() - table
    largest_own_loss = torch.zeros_like(table)
    for axis, utility in enumerate(utilities):
        own_loss = (utility.max() - utility).to(table.dtype)
        shape = [-1 if other == axis else 1 for other in range(table.dim())]
        largest_own_loss = torch.maximum(largest_own_loss, own_loss.reshape(shape))
    lenient = len(sizes) * tol
    return Agreement(
        joint_only=_first((loss <= tol) & (largest_own_loss > lenient)),
        individual_only=_first((largest_own_loss <= tol) & (loss > lenient)),
    )


def _first(places: Tensor) -> tuple[int, ...] | None:
    found = places.nonzero()
    return tuple(found[0].tolist()) if len(found) else None
