"""Episodes: sums kept while they run, and a CSV row for each that ends."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from spnpolicy.data.env import Step

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
        is_over = step.terminated | step.truncated
        if step.discarded is not None:
            is_over &= ~step.discarded
            self.forget(np.flatnonzero(step.discarded))
        done = np.flatnonzero(is_over)
        success = step.terminated[done] & (reward[done] > 0)
        ended = Episodes(done, self._returns[done], self._discounted[done], self._lengths[done], success)
        self.forget(done)
        return ended

    @property
    def ages(self) -> Int[np.ndarray, " envs"]:
        """How many steps the episodes under way have lasted."""
        return self._lengths

    def forget(self, rows: Int[np.ndarray, " rows"] | slice = slice(None)) -> None:
        """Forget the episodes under way in some environments, or in all."""
        self._returns[rows] = self._discounted[rows] = 0.0
        self._weights[rows] = 1.0
        self._lengths[rows] = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the sums of the episodes under way."""
        names = ("returns", "discounted", "weights", "lengths")
        return {name: getattr(self, f"_{name}").copy() for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        for name, values in state.items():
            setattr(self, f"_{name}", values.copy())


def episode_rows(step: int, episodes: Episodes) -> Float[np.ndarray, "episodes columns"]:
    """Return one row per episode: the numbers of `EPISODE_COLUMNS` from `step` to `success`."""
    columns = (episodes.returns, episodes.discounted_returns, episodes.lengths, episodes.successes)
    return np.stack([np.full(len(episodes.env), step), *columns], axis=1).astype(np.float64)


def format_rows(
    kind: str,
    rows: Float[np.ndarray, "episodes columns"],
    fraction_of_optimum: Float[np.ndarray, " episodes"] | None = None,
) -> str:
    """Return lines of episodes.csv; the last column stays empty where there is no known optimum."""
    fractions = [""] * len(rows) if fraction_of_optimum is None else [f"{value:.9g}" for value in fraction_of_optimum]
    return "".join(
        f"{kind},{int(step)},{total:.9g},{discounted:.9g},{int(length)},{int(success)},{fraction}\n"
        for (step, total, discounted, length, success), fraction in zip(rows.tolist(), fractions, strict=True)
    )
