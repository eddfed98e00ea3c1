"""What an algorithm is: a frozen config and a small class with four methods."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from spnpolicy.envs.protocol import Step


class Batch(NamedTuple):
    """Transitions drawn from replay. `terminated` is true only for real ends, never for time limits."""

    observation: Float[Tensor, "batch agents features"]
    state: Float[Tensor, "batch state"]
    actions: Int[Tensor, "batch agents"]
    reward: Float[Tensor, "batch agents"]
    terminated: Bool[Tensor, " batch"]
    available_actions: Bool[Tensor, "batch agents actions"]
    next_observation: Float[Tensor, "batch agents features"]
    next_state: Float[Tensor, "batch state"]
    next_available_actions: Bool[Tensor, "batch agents actions"]


@runtime_checkable
class Algorithm(Protocol):
    """A learner. Built as `Algorithm(config, spec, streams)`.

    A method `to(device)` is optional: with it the networks can live on a GPU, and batches then come from there.
    """

    config: Any

    def act(self, step: Step, *, explore: bool, progress: float = 1.0) -> Int[np.ndarray, "envs agents"]:
        """Choose joint actions; `progress` in [0, 1] is the share of training already done (for schedules).

        Without `explore` no random stream moves: an evaluation in between changes nothing that follows.
        """
        ...

    def update(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """Do one gradient step and return named numbers for the metrics file.

        If a loss or gradient is not finite, nothing is changed and one of the numbers says so by not being finite.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values; enough to go on learning."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        ...
