"""What a run writes down while it goes: means per log interval, evaluations, and a row for each episode."""

import time
from pathlib import Path
from types import TracebackType

import numpy as np

from spnpolicy.envs.protocol import Step
from spnpolicy.training.config import TrainConfig
from spnpolicy.training.episodes import EpisodeTracker, EpisodeWriter
from spnpolicy.training.evaluation import EvaluationResult
from spnpolicy.training.metrics import MetricsWriter


class Recorder:
    """Collects numbers between two log records and writes them to the files of the run."""

    def __init__(self, folder: Path, settings: TrainConfig):
        self.tracker = EpisodeTracker(settings.num_envs, settings.discount)
        self._metrics = MetricsWriter(folder / "metrics.jsonl")
        self._rows = EpisodeWriter(folder / "episodes.csv")
        self._start = time.monotonic()
        self._sums: dict[str, float] = {}
        self._updates = 0
        self._episodes = np.zeros(5)

    def seconds(self) -> float:
        """Return the time since the start."""
        return time.monotonic() - self._start

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._metrics.close()
        self._rows.close()

    def stepped(self, step_count: int, step: Step) -> None:
        """Count one step of every environment."""
        ended = self.tracker.add(step)
        if len(ended.env):
            self._rows.write("train", step_count, ended)
            sums = [len(ended.env), *(column.sum() for column in ended[1:])]
            self._episodes += sums

    def learned(self, numbers: list[dict[str, float]]) -> None:
        """Count the numbers of some updates."""
        for update in numbers:
            self._updates += 1
            for name, value in update.items():
                self._sums[name] = self._sums.get(name, 0.0) + value

    def log(self, step: int) -> None:
        """Write the means since the last record, and start new ones."""
        count, *sums = self._episodes.tolist()
        names = ("return", "discounted_return", "length", "success")
        means = dict(zip(names, (total / count for total in sums), strict=True)) if count else {}
        learning = {name: total / self._updates for name, total in self._sums.items()}
        record = {"kind": "train", "step": step, "episodes": int(count), **means}
        self._metrics.write(record | {"updates": self._updates, **learning, "seconds": self.seconds()})
        self._rows.flush()
        self._sums, self._updates, self._episodes = {}, 0, np.zeros(5)

    def evaluated(self, step: int, result: EvaluationResult) -> dict[str, float]:
        """Write one evaluation and return its means."""
        means = result.summary()
        self._metrics.write({"kind": "evaluation", "step": step, **means, "seconds": self.seconds()})
        self._rows.write("evaluation", step, result.episodes, result.fraction_of_optimum)
        self._rows.flush()
        return means
