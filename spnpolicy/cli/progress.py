"""Progress on stderr: a bar in a terminal, otherwise a plain line every few seconds."""

import math
import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress

from spnpolicy.training.loop import Progress

SECONDS_BETWEEN_LINES = 5.0
_SECONDS_BETWEEN_REDRAWS = 0.25


class Throttle:
    """Lets something happen at most once in so many seconds."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._last = -math.inf

    def is_due(self) -> bool:
        """Return whether it is time again, and if so start a new interval."""
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True


class TrainingProgress:
    """Shows how far one training run has come. Call it with every `Progress`; most calls do nothing."""

    def __init__(self, name: str):
        self._name = name
        self._bar: RichProgress | None = None
        self._task = TaskID(0)
        console = Console(stderr=True)
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
            self._bar = RichProgress(*columns, console=console, refresh_per_second=4, transient=True)
            self._task = self._bar.add_task(name, total=1.0, text="")
        self._throttle = Throttle(_SECONDS_BETWEEN_REDRAWS if self._bar else SECONDS_BETWEEN_LINES)
        # No line for the first moment: a short run says all that matters at its end.
        self._throttle.is_due()

    def __call__(self, progress: Progress) -> None:
        """Show it if the last time was long enough ago."""
        if not self._throttle.is_due():
            return
        text = training_text(progress)
        if self._bar is None:
            print(f"{self._name}: {text}", file=sys.stderr, flush=True)
        else:
            self._bar.update(self._task, completed=progress.step / progress.steps, text=text)

    def __enter__(self) -> "TrainingProgress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def training_text(progress: Progress) -> str:
    """Return one line: share done, speed, time left and the latest evaluation."""
    speed = progress.step / progress.seconds if progress.seconds else 0.0
    parts = [
        f"{progress.step:,} of {progress.steps:,} steps ({progress.step / progress.steps:.0%})",
        f"{speed:,.0f} steps/s",
        f"{duration(progress.seconds_left)} left",
        *evaluation_text(progress.evaluation),
    ]
    return ", ".join(parts)


def evaluation_text(evaluation: dict[str, Any]) -> list[str]:
    """Return the two numbers of an evaluation that tell most."""
    parts: list[str] = []
    if "success" in evaluation:
        parts.append(f"success {evaluation['success']:.2f}")
    if math.isfinite(evaluation.get("fraction_of_optimum", math.nan)):
        parts.append(f"{evaluation['fraction_of_optimum']:.3f} of the optimum")
    return parts


def duration(seconds: float) -> str:
    """Return a time as people say it, such as "3 min 20 s"."""
    if not math.isfinite(seconds):
        return "unknown time"
    total = round(seconds)
    hours, minutes = total // 3600, total // 60 % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {total % 60} s" if minutes else f"{total} s"
