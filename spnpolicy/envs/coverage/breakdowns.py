"""Breakdowns: which agents of an episode stop for good, and when; a stream that can be stopped and resumed exactly."""

from typing import Any

import numpy as np
from jaxtyping import Int

NEVER = np.iinfo(np.int32).max
"""The step in which an agent breaks that works to the end."""


class Breakdowns:
    """Draws breakdowns for one episode after the other; how a total is split into calls does not change them.

    In each episode 0 to `most` agents break, every number equally likely, and each of them in one of the first `within`
    steps, every step and every choice of agents equally likely.

    Args:
        seed: of the stream; None for an arbitrary one.
        agents: how many there are.
        most: largest number that break in one episode.
        within: steps in which it may happen.
    """

    def __init__(self, seed: int | None, agents: int, most: int, within: int) -> None:
        self._agents, self._most, self._within = agents, most, within
        # Not the stream of the layouts: with and without breakdowns these are the same.
        self._generator = np.random.default_rng(None if seed is None else [seed, 1])

    def draw(self, rows: int) -> Int[np.ndarray, "rows agents"]:
        """Return for the next episodes the step in which each agent breaks, `NEVER` for those that do not."""
        if not self._most:
            return np.full((rows, self._agents), NEVER)
        # Doubles only: each takes one number of the generator, so that rows follow each other whatever their number.
        drawn = self._generator.random((rows, 2 * self._agents + 1))
        count = (drawn[:, :1] * (self._most + 1)).astype(np.intp)
        place = drawn[:, 1 : self._agents + 1].argsort(axis=1).argsort(axis=1)
        step = (drawn[:, self._agents + 1 :] * self._within).astype(np.intp)
        return np.where(place < count, step, NEVER)

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the stream as JSON values."""
        return {"generator": self._generator.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a place that `state_dict` returned.

        Raises:
            ValueError, TypeError or KeyError: this is no such place.
        """
        self._generator.bit_generator.state = state["generator"]
