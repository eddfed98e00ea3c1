"""The store of an algorithm: what it needs decides what is kept, and what a draw gives."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.data.protocol import Batch, Needs
from spnpolicy.data.replay import ReplayBuffer
from spnpolicy.data.trajectories import Trajectories


@runtime_checkable
class Store(Protocol):
    """Where the steps of a batch of environments are kept until they are learned from."""

    def __len__(self) -> int: ...

    def prepare(self, step: Step) -> None:
        """Get ready for what the agents see first."""
        ...

    def add(
        self,
        step_before: Step,
        actions: Int[np.ndarray, "envs agents"],
        step_after: Step,
        memory: Float[Tensor, "envs agents memory"] | None = None,
    ) -> None:
        """Keep one step of every environment, with what the policy remembered before it."""
        ...

    def draw(self, count: int) -> Batch:
        """Return about so many rows to learn from; of a rollout all, however many they are."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return all that is kept."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        ...


def store_for(needs: Needs, spec: EnvSpec, *, capacity: int, num_envs: int, generator: torch.Generator) -> Store:
    """Return an empty store of the kind that an algorithm learns from.

    Args:
        needs: what the algorithm says of itself.
        spec: sizes of the environment.
        capacity: transitions kept for replay; a rollout is as long as it is.
        num_envs: environments stepped together.
        generator: source of the random draws.
    """
    if needs.rollout is not None:
        return Trajectories(needs.rollout, generator)
    if needs.sequence is not None:
        return Trajectories(max(1, capacity // num_envs), generator, needs.sequence)
    return ReplayBuffer(capacity, spec, generator)
