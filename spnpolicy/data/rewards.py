"""RewardScale: rewards in units of their own standard deviation, for learning only."""

from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from spnpolicy.data.env import Step


class RewardScale:
    """Running mean and standard deviation of all rewards seen.

    Off by default: on tasks with a payoff table it hides errors, and where episodes end early a shift changes what is
    best. Source: Welford 1962, in the form for batches of Chan, Golub and LeVeque 1983.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self.squares = 0.0

    def observe(self, step: Step) -> None:
        """Take note of the rewards of a step, except where an environment failed."""
        rewards = step.reward if step.discarded is None else step.reward[~step.discarded]
        if not rewards.size:
            return
        values = rewards.astype(np.float64)
        difference = float(values.mean()) - self.mean
        total = self.count + values.size
        self.squares += float(values.var()) * values.size + difference**2 * self.count * values.size / total
        self.mean += difference * values.size / total
        self.count = total

    def __call__(self, reward: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Return rewards less their mean, divided by their standard deviation; only less their mean if that is 0."""
        deviation = (self.squares / self.count) ** 0.5 if self.count else 0.0
        return (reward - self.mean) / (deviation if deviation > 0.0 else 1.0)

    def state_dict(self) -> dict[str, Any]:
        """Return count, mean and sum of squared differences."""
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.count, self.mean, self.squares = state["count"], state["mean"], state["squares"]
