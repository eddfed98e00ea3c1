"""Episodes: sums kept while they run, and a CSV row for each that ends."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from spnpolicy.envs.protocol import Step

EPISODE_COLUMNS = ("kind", "step", "return", "discounted_return", "length", "success", "fraction_of_optimum")
"""Columns of episodes.csv; `kind` is train or evaluation, `step` counts env steps of training."""


class Episodes(NamedTuple):
    """Episodes that ended, one entry each. Rewards count as the mean over the agents."""

    env: Int[np.ndarray, " episodes"]
    """Index of the environment."""
    returns: Float[np.ndarray, " episodes"]
    """Sum of rewards."""
    discounted_returns: Float[np.ndarray, " episodes"]
    """Sum of discount^t times reward, with t = 0 for the first step."""
    lengths: Int[np.ndarray, " episodes"]
    """Number of steps."""
    successes: Bool[np.ndarray, " episodes"]
    """Whether the task ended for good (not by the time limit) with a positive last reward."""


class EpisodeTracker:
    """Running sums of the current episode of every environment."""

    def __init__(self, num_envs: int, discount: float):
        self._discount = discount
        self._returns = np.zeros(num_envs)
        self._discounted = np.zeros(num_envs)
        self._weights = np.ones(num_envs)
        self._lengths = np.zeros(num_envs, dtype=np.int64)

    def add(self, step: Step) -> Episodes:
        """Count one step of every environment and return the episodes that ended with it."""
        reward = step.reward.mean(axis=1, dtype=np.float64)
        self._returns += reward
        self._discounted += self._weights * reward
        self._weights *= self._discount
        self._lengths += 1
        done = np.flatnonzero(step.terminated | step.truncated)
        success = step.terminated[done] & (reward[done] > 0)
        ended = Episodes(done, self._returns[done], self._discounted[done], self._lengths[done], success)
        if len(done):
            self._returns[done] = self._discounted[done] = 0.0
            self._weights[done] = 1.0
            self._lengths[done] = 0
        return ended

    def state_dict(self) -> dict[str, Any]:
        """Return the sums of the episodes under way."""
        names = ("returns", "discounted", "weights", "lengths")
        return {name: getattr(self, f"_{name}").copy() for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        for name, values in state.items():
            setattr(self, f"_{name}", values.copy())


class EpisodeWriter:
    """Appends rows to episodes.csv."""

    def __init__(self, path: Path):
        is_new = not path.exists() or path.stat().st_size == 0
        self._file = path.open("a", encoding="utf-8")
        if is_new:
            self._file.write(",".join(EPISODE_COLUMNS) + "\n")

    def write(
        self,
        kind: str,
        step: int,
        episodes: Episodes,
        fraction_of_optimum: Float[np.ndarray, " episodes"] | None = None,
    ) -> None:
        """Append one row per episode; the last column stays empty where there is no known optimum."""
        for index in range(len(episodes.env)):
            fraction = "" if fraction_of_optimum is None else f"{fraction_of_optimum[index]:.9g}"
            self._file.write(
                f"{kind},{step},{episodes.returns[index]:.9g},{episodes.discounted_returns[index]:.9g},"
                f"{episodes.lengths[index]},{int(episodes.successes[index])},{fraction}\n"
            )

    def flush(self) -> None:
        """Hand all rows to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
