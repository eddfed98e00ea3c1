"""Course: how far a run has come in its curriculum."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from spnpolicy.base.distributed import gather_rows, largest
from spnpolicy.training.config import Curriculum
from spnpolicy.training.episodes import Episodes


class Course:
    """The stage that a run is in, and what succeeded of its latest episodes.

    In a run of several processes all of them count the episodes of all, so that they go on to the next stage together.

    Args:
        curriculum: the stages, and when one is mastered.
    """

    def __init__(self, curriculum: Curriculum):
        self._curriculum = curriculum
        self.stage = 1
        """Number of the stage, counted from 1; the task of the run itself comes last."""
        self.began_at = 0
        """Env steps that were done when it began."""
        self._latest = np.zeros(0)
        self._waiting = np.zeros((0, 2))

    @property
    def stages(self) -> int:
        """How many stages there are, the task of the run itself included."""
        return len(self._curriculum.stages) + 1

    @property
    def is_over(self) -> bool:
        """Whether training is in the task of the run itself."""
        return self.stage == self.stages

    @property
    def options(self) -> Mapping[str, Any]:
        """Options of the environment in which this stage differs from the task of the run."""
        return {} if self.is_over else self._curriculum.stages[self.stage - 1]

    def observe(self, time: int, ended: Episodes, ages: Int[np.ndarray, " envs"]) -> None:
        """Count what ended in a step of every environment.

        Args:
            time: number of the step.
            ended: the episodes that ended with it.
            ages: how many steps the episodes under way have lasted.
        """
        if self.is_over:
            return
        rows = np.stack([time - ended.lengths, ended.successes], axis=1).astype(np.float64)
        waiting = np.concatenate([self._waiting, gather_rows(rows)])
        # Of all that began before the oldest episode under way, none is missing.
        oldest = -largest(float(ages.max()) - time)[0]
        is_next = waiting[:, 0] < oldest
        following = waiting[is_next]
        in_order = following[np.argsort(following[:, 0], kind="stable"), 1]
        self._latest = np.concatenate([self._latest, in_order])[-self._curriculum.episodes :]
        self._waiting = waiting[~is_next]

    @property
    def is_mastered(self) -> bool:
        """Whether enough of the latest episodes of the stage have succeeded; false in the task of the run itself."""
        is_full = len(self._latest) == self._curriculum.episodes
        return not self.is_over and is_full and bool(self._latest.mean() >= self._curriculum.success)

    def advance(self, step_count: int) -> None:
        """Go on to the next stage; nothing of the old one counts there."""
        self.stage += 1
        self.began_at = step_count
        self._latest, self._waiting = self._latest[:0], self._waiting[:0]

    def state_dict(self) -> dict[str, Any]:
        """Return the stage and what was counted in it."""
        counted = {"latest": self._latest.copy(), "waiting": self._waiting.copy()}
        return {"stage": self.stage, "began_at": self.began_at, **counted}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.stage, self.began_at = state["stage"], state["began_at"]
        self._latest, self._waiting = state["latest"].copy(), state["waiting"].copy()
