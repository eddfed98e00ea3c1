"""Checkpoints while training: a disk that refuses for a while does not end a run, one that refuses for good does."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from spnpolicy.base.errors import DiskError
from spnpolicy.training.storage.checkpoints import save_checkpoint

RETRY_AFTER = (1.0, 4.0, 16.0)
"""Seconds between an attempt that failed and the next one."""
MOST_FAILURES = 3
"""Checkpoints in a row that may fail, each with all its retries, before the run ends."""

_WAITS = f"after {', '.join(f'{seconds:g}' for seconds in RETRY_AFTER)} s"
_log = logging.getLogger(__name__)

MakeState = Callable[[], Mapping[str, Any]]
"""Makes the parts of a checkpoint; called anew for every attempt, so a late one is not out of date."""


class CheckpointSaver:
    """Saves checkpoints; when the disk refuses it warns once, lets training go on and tries again.

    A loop uses it like this:

        saver = CheckpointSaver(root)
        while not done:
            ...
            if checkpoint_is_due:
                saver.save(make_state)
            saver.retry_if_due(make_state)  # cheap: nothing happens unless a save has failed
        saver.save(make_state, final=True)

    Attempts are made at once and 1, 4 and 16 s after each other. If all four fail, the checkpoint counts as failed;
    `save` then starts the next one. Three failed checkpoints in a row end the run with a `DiskError`.
    """

    def __init__(
        self,
        root: Path,
        *,
        keep: int = 2,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        warn: Callable[[str], object] = _log.warning,
    ):
        """Prepare to save into a folder of which the last `keep` checkpoints stay; nothing is read or written yet.

        The clock counts seconds, sleep waits for some, at the end of a run only, and `warn` takes the one warning that
        there is for each checkpoint in trouble.
        """
        self._root = root
        self._keep = keep
        self._clock = clock
        self._sleep = sleep
        self._warn = warn
        self._failed_attempts = 0
        self._due = math.inf
        self.failures = 0
        """Checkpoints in a row that failed with all their retries."""

    @property
    def is_retrying(self) -> bool:
        """Whether a checkpoint could not be written yet and is going to be tried again."""
        return self._failed_attempts > 0

    def save(self, make_state: MakeState, *, final: bool = False) -> Path | None:
        """Write a checkpoint now, unless one is waiting to be tried again: then that one takes its place.

        Where it is the final one, this is the last chance: it waits for the retries instead of training on.

        Returns:
            Its folder; None if the disk refused.

        Raises:
            CheckpointError: the state has no exact plain form.
            DiskError: the disk refused for the third checkpoint in a row, or a final one with all its retries.
        """
        if final:
            return self._save_final(make_state)
        return self.retry_if_due(make_state) if self.is_retrying else self._attempt(make_state)

    def retry_if_due(self, make_state: MakeState) -> Path | None:
        """Try again if a save has failed and its waiting time is over; call it in every iteration.

        Returns:
            The folder of the checkpoint; None if nothing was to be done, or the disk refused again.

        Raises:
            DiskError: as in `save`.
        """
        return self._attempt(make_state) if self._clock() >= self._due else None

    def _attempt(self, make_state: MakeState) -> Path | None:
        try:
            folder = save_checkpoint(self._root, make_state(), keep=self._keep)
        except DiskError as problem:
            self._failed(problem)
            return None
        self._failed_attempts, self._due, self.failures = 0, math.inf, 0
        return folder

    def _failed(self, problem: DiskError) -> None:
        if self._failed_attempts == 0:
            self._warn(f"{problem} Training goes on; trying again {_WAITS}.")
        if self._failed_attempts < len(RETRY_AFTER):
            self._due = self._clock() + RETRY_AFTER[self._failed_attempts]
            self._failed_attempts += 1
            return
        self._failed_attempts, self._due = 0, math.inf
        self.failures += 1
        if self.failures >= MOST_FAILURES:
            raise DiskError(f"{self.failures} checkpoints in a row could not be written: {problem}") from problem

    def _save_final(self, make_state: MakeState) -> Path:
        for attempt, seconds in enumerate(RETRY_AFTER):
            try:
                return save_checkpoint(self._root, make_state(), keep=self._keep)
            except DiskError as problem:
                if attempt == 0:
                    self._warn(f"{problem} This is the last checkpoint of the run: waiting to try again {_WAITS}.")
                self._sleep(seconds)
        return save_checkpoint(self._root, make_state(), keep=self._keep)
