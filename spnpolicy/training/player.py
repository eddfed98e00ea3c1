"""Player: an algorithm acting in one batch of environments, with the memory of the episodes under way there."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from spnpolicy.data.env import Step
from spnpolicy.data.protocol import Algorithm, Memory, Needs


class Player:
    """What acts in a batch of environments: recurrent policies remember, and each batch has a memory of its own.

    Args:
        algorithm: who acts.
    """

    def __init__(self, algorithm: Algorithm):
        self._algorithm = algorithm
        self._remembers = needs_of(algorithm).memory_size > 0
        self._memory = Memory()

    @property
    def memory(self) -> Float[Tensor, "envs agents memory"] | None:
        """What was remembered when the latest step was seen: None for a policy without memory."""
        return self._before if self._remembers else None

    _before: Tensor | None = None

    def act(self, step: Step, *, explore: bool, progress: float = 1.0) -> Int[np.ndarray, "envs agents"]:
        """Choose joint actions; what was remembered of episodes that are over is forgotten."""
        if not self._remembers:
            return self._algorithm.act(step, explore=explore, progress=progress)
        self._before = self._forget(step)
        self._memory.hidden = self._before
        act: Any = self._algorithm.act
        return act(step, explore=explore, progress=progress, memory=self._memory)

    def _forget(self, step: Step) -> Tensor:
        size = needs_of(self._algorithm).memory_size
        envs, agents = step.reward.shape
        hidden = self._memory.hidden
        if hidden is None:
            return torch.zeros(envs, agents, size)
        is_over = step.terminated | step.truncated
        if step.discarded is not None:
            is_over = is_over | step.discarded
        return hidden.masked_fill(torch.from_numpy(is_over)[:, None, None].to(hidden.device), 0.0)

    def state_dict(self) -> dict[str, Any]:
        """Return the memory."""
        hidden = self._memory.hidden
        return {} if hidden is None else {"hidden": hidden.cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self._memory.hidden = state.get("hidden")


def needs_of(algorithm: Algorithm) -> Needs:
    """Return the data that an algorithm learns from."""
    return getattr(algorithm, "needs", Needs())
