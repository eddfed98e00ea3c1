"""What a run writes down while it goes: means per log interval, evaluations, faults, and a row for each episode."""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spnpolicy.base.distributed import gather_rows, share, world
from spnpolicy.data.env import Step
from spnpolicy.training.agreement import saved_records
from spnpolicy.training.episodes import EPISODE_COLUMNS, Episodes, EpisodeTracker, episode_rows, format_rows
from spnpolicy.training.evaluation import EvaluationResult
from spnpolicy.training.metrics import RecordDigest, record_line
from spnpolicy.training.sinks import SafeSinks, Sink
from spnpolicy.training.storage.append import AppendOnlyFile

FILES = ("metrics.jsonl", "episodes.csv", "faults.jsonl")
"""Append-only files of a run; faults.jsonl is there only once an environment or an update has failed."""


class Recorder:
    """Collects numbers between two log records and appends them to the files of the run.

    In a run of several processes every one counts its own environments, and rank 0 writes what all of them counted.

    Args:
        folder: the folder of the run.
        num_envs: environments of the whole run.
        discount: worth of a reward one step later.
        sinks: who else gets the metrics records; one that fails is left out after a warning.
    """

    def __init__(self, folder: Path, num_envs: int, discount: float, sinks: Iterable[Sink] = ()):
        self.tracker = EpisodeTracker(share("train.num_envs", num_envs), discount)
        self.evaluation: dict[str, float] = {}
        self.faults = 0
        self._folder = folder
        self._files = {name: AppendOnlyFile(folder / name) for name in FILES}
        self._sinks = SafeSinks(sinks)
        self._is_writer = world().rank == 0
        self._start = time.monotonic()
        self._digest = RecordDigest()
        self._sums: dict[str, float] = {}
        self._finite_updates = 0
        self._rows: list[np.ndarray] = []

    def seconds(self) -> float:
        """Return the time since the start, earlier attempts included."""
        return time.monotonic() - self._start

    def __enter__(self) -> "Recorder":
        if self._files["episodes.csv"].is_empty():
            self._append("episodes.csv", ",".join(EPISODE_COLUMNS) + "\n")
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._files.values():
            file.close()

    def stepped(self, step_count: int, step: Step) -> Episodes:
        """Count one step of every environment, and return the episodes that ended with it."""
        ended = self.tracker.add(step)
        if len(ended.env):
            self._rows.append(episode_rows(step_count, ended))
        return ended

    def learned(self, numbers: Iterable[Mapping[str, float]]) -> None:
        """Count the numbers of some updates."""
        for update in numbers:
            self._finite_updates += 1
            for name, value in update.items():
                self._sums[name] = self._sums.get(name, 0.0) + value

    def log(self, step: int, learned: Mapping[str, int], *, skipped: int) -> None:
        """Write the means since the last record, and start new ones.

        Args:
            step: env steps so far.
            learned: how much was learned so far, see `Learning.counts`.
            skipped: how many updates were skipped because a number was not finite.
        """
        rows = gather_rows(_joined(self._rows))
        names = ("return", "discounted_return", "length", "success")
        means = dict(zip(names, rows[:, 1:].mean(axis=0).tolist(), strict=True)) if len(rows) else {}
        learning = {name: total / self._finite_updates for name, total in self._sums.items()}
        counts = {**learned, "skipped_updates": skipped, "episodes": len(rows)}
        self._record({"kind": "train", "step": step, **counts, **means, **learning, "seconds": self.seconds()})
        self._append("episodes.csv", format_rows("train", rows))
        self._rows, self._sums, self._finite_updates = [], {}, 0

    def evaluated(self, step: int, learned: Mapping[str, int], result: EvaluationResult) -> dict[str, float]:
        """Write one evaluation and return its means."""
        self.evaluation = result.summary()
        times = {"seconds": self.seconds()}
        self._record({"kind": "evaluation", "step": step, **learned, **self.evaluation, **times})
        rows = episode_rows(step, result.episodes)
        self._append("episodes.csv", format_rows("evaluation", rows, result.fraction_of_optimum))
        return self.evaluation

    def fault(self, record: Mapping[str, Any]) -> None:
        """Write down something that went wrong and was survived."""
        self.faults += 1
        self._append("faults.jsonl", record_line(record))

    def records_sha256(self) -> str:
        """Return the digest of all records so far, see `RecordDigest`."""
        return self._digest.hex()

    def state_dict(self) -> dict[str, Any]:
        """Return the sums under way and how many lines each file has, all of which are then on the disk."""
        return {
            "tracker": self.tracker.state_dict(),
            "evaluation": dict(self.evaluation),
            "faults": self.faults,
            "sums": dict(self._sums),
            "finite_updates": self._finite_updates,
            "rows": _joined(self._rows),
            "records_sha256": self.records_sha256(),
            "files": {name: file.state_dict() for name, file in self._files.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned: what was appended to the files since then is cut off.

        Raises:
            CheckpointError: the files are not those of this state: lines are lost, or others are in their place.
        """
        self.tracker.load_state_dict(state["tracker"])
        self.evaluation = dict(state["evaluation"])
        self.faults = state["faults"]
        self._sums = dict(state["sums"])
        self._finite_updates = state["finite_updates"]
        self._rows = [state["rows"]]
        if self._is_writer:
            # All of them are looked at before one is touched.
            records = saved_records(self._folder, state)
            for name, file in self._files.items():
                file.check(state["files"][name])
            for name, file in self._files.items():
                file.load_state_dict(state["files"][name])
            # Times are not part of the state: two runs that are the same have the same checkpoints.
            self._start = time.monotonic() - (records[-1]["seconds"] if records else 0.0)
            self._digest = RecordDigest(records)

    def _record(self, record: Mapping[str, Any]) -> None:
        self._append("metrics.jsonl", record_line(record))
        if self._is_writer:
            self._digest.add(record)
            self._sinks.write(record)

    def _append(self, name: str, text: str) -> None:
        if self._is_writer:
            self._files[name].write(text)


def _joined(rows: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(rows) if rows else np.zeros((0, len(EPISODE_COLUMNS) - 2))
