"""Progress of an inference on stderr, in a terminal only: what is being worked out, and how far it is."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress

from spnpolicy.cli.progress import Throttle, duration

_SECONDS_BETWEEN_REDRAWS = 0.25


class InferenceProgress:
    """Shows one stage of the work after the other; without a terminal nothing."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._bar: RichProgress | None = None
        self._task = TaskID(0)
        self._begin = time.monotonic()
        self._seconds: float | None = None
        self._throttle = Throttle(_SECONDS_BETWEEN_REDRAWS)
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
            self._bar = RichProgress(*columns, console=console, refresh_per_second=4, transient=True)

    def stage(self, name: str, seconds: float | None = None) -> None:
        """Begin a stage.

        Args:
            name: what is worked out.
            seconds: how long it may take; None where that is not known.
        """
        self._begin, self._seconds = time.monotonic(), seconds
        if self._bar is not None:
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            self._task = self._bar.add_task(name, total=seconds, text="")

    def step(self, number: int, value: float) -> None:
        """Show how far an iteration has come; fits as `on_step` of everything in factor_q that iterates."""
        if self._bar is None or not self._throttle.is_due():
            return
        spent = time.monotonic() - self._begin
        left = "" if self._seconds is None else f", at most {duration(max(0.0, self._seconds - spent))} left"
        self._bar.update(self._task, completed=spent, text=f"step {number:,}, {value:.6f} nats{left}")

    def __enter__(self) -> "InferenceProgress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
