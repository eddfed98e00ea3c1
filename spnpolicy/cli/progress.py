"""Progress on stderr: live in a terminal, otherwise a plain line every few seconds, or nothing."""

import math
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import Any, TypeVar

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.progress_bar import ProgressBar
from rich.table import Table

from factor_q.inference import Progress as InferenceStep
from spnpolicy.algorithms import ALGORITHMS
from spnpolicy.experiments.sweeps.engines import Engine
from spnpolicy.experiments.sweeps.runner import TrialStatus, seconds_left
from spnpolicy.training.config import RunConfig
from spnpolicy.training.loop import Progress, TrainResult

SECONDS_BETWEEN_LINES = 5.0
_SECONDS_BETWEEN_REDRAWS = 0.25
_MOST_ROWS = 20
_FEWEST_ROWS = 4
_LINES_AROUND_ROWS = 4
_URGENCY = ("failed", "evaluating", "running", "stopped", "waiting", "done", "kept")
"""Which states are shown first where there is no room for all runs."""

_Entered = TypeVar("_Entered", bound="_Display")
_Item = TypeVar("_Item")


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


class _Display:
    """What moves on a terminal while it is entered; `live` is None elsewhere."""

    def __init__(self, make: Callable[[Console], Any]):
        console = Console(stderr=True)
        self.live = make(console) if console.is_terminal else None
        self.throttle = Throttle(SECONDS_BETWEEN_LINES if self.live is None else _SECONDS_BETWEEN_REDRAWS)

    def __enter__(self: _Entered) -> _Entered:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live is not None:
            self.live.stop()


class _Bar(_Display):
    """One line with a bar and a text."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
        super().__init__(lambda console: RichProgress(*columns, console=console, refresh_per_second=4, transient=True))
        self._task = TaskID(0)

    def begin(self, name: str, total: float | None) -> None:
        """Show a new bar in place of the old one."""
        if self.live is not None:
            for task in self.live.task_ids:
                self.live.remove_task(task)
            self._task = self.live.add_task(name, total=total, text="")

    def move(self, completed: float, text: str) -> None:
        """Move the bar."""
        if self.live is not None:
            self.live.update(self._task, completed=completed, text=text)


class TrainingProgress(_Bar):
    """Shows how far one training run has come. Call it with every `Progress`; most calls do nothing."""

    def __init__(self, name: str):
        super().__init__()
        self._name = name
        self.begin(name, 1.0)
        # No line for the first moment: a short run says all that matters at its end.
        self.throttle.is_due()

    def __call__(self, progress: Progress) -> None:
        """Show it if the last time was long enough ago."""
        if not self.throttle.is_due():
            return
        text = training_text(progress)
        if self.live is None:
            print(f"{self._name}: {text}", file=sys.stderr, flush=True)
        self.move(progress.step / progress.steps, text)


class InferenceProgress(_Bar):
    """Shows one stage of an inference after the other; without a terminal nothing."""

    _began = 0.0

    def __call__(self, progress: InferenceStep) -> None:
        """Show a new stage at once, and its steps if the last time was long enough ago."""
        if progress.step == 0:
            self._began = time.monotonic()
            self.begin(progress.stage, progress.seconds)
        elif self.throttle.is_due():
            spent = time.monotonic() - self._began
            most = progress.seconds
            left = "" if most is None else f", at most {duration(max(0.0, most - spent))} left"
            self.move(spent, f"step {progress.step:,}, {progress.value:.6f} nats{left}")


class PictureProgress(_Bar):
    """Shows how much of a picture, an animation or a report is drawn; without a terminal nothing."""

    _what = ""

    def __call__(self, what: str, done: int, total: int | None) -> None:
        """Show a new kind of work at once, and its parts if the last time was long enough ago."""
        if what != self._what:
            self._what = what
            self.begin(what, total)
        if total is not None and (done == total or self.throttle.is_due()):
            self.move(done, f"{done:,} of {total:,}")

    def over(self, what: str, items: Iterable[_Item], total: int) -> Iterator[_Item]:
        """Yield the items, and show how many were taken."""
        for done, item in enumerate(items):
            self(what, done, total)
            yield item
        self(what, total, total)


class TrialTable(_Display):
    """Shows the states of all trials. Call it with them as often as you like."""

    def __init__(self, engine: Engine):
        super().__init__(lambda console: Live(console=console, auto_refresh=False))
        self._engine = engine

    def __call__(self, statuses: Sequence[TrialStatus]) -> None:
        """Show them if the last time was long enough ago."""
        is_last = all(status.is_over for status in statuses)
        if not self.throttle.is_due() and not is_last:
            return
        if self.live is None:
            print(_line(statuses, self._engine.workers), file=sys.stderr, flush=True)
        else:
            self.live.update(_table(statuses, self._engine.workers), refresh=True)


def training_text(progress: Progress) -> str:
    """Return one line: share done, stage, speed, time left and the latest evaluation."""
    speed = progress.step / progress.seconds if progress.seconds else 0.0
    parts = [
        f"{progress.step:,} of {progress.steps:,} steps ({progress.step / progress.steps:.0%})",
        *([f"stage {progress.stage} of {progress.stages}"] if progress.stages > 1 else []),
        f"{speed:,.0f} steps/s",
        f"{duration(progress.seconds_left)} left",
        *evaluation_text(progress.evaluation),
    ]
    return ", ".join(parts)


def result_text(folder: Path, config: RunConfig, result: TrainResult) -> str:
    """Return how a run ended, where its files are, and what can be done next."""
    means = {
        "success": "success {:.3f}",
        "length": "{:.2f} steps",
        "discounted_return": "discounted return {:.4f}",
        "fraction_of_optimum": "{:.4f} of the optimum",
    }
    # A mean that does not exist is left out.
    reached = ", ".join(
        text.format(result.evaluation[name])
        for name, text in means.items()
        if math.isfinite(result.evaluation.get(name, math.nan))
    )
    verb = "finished" if result.is_finished else "interrupted"
    lines = [f"{verb} after {result.step:,} env steps in {duration(result.seconds)}; {reached}"]
    if result.faults:
        scores = "episodes that failed are in no score"
        lines.append(f"faults survived: {result.faults:,}, see {folder / 'faults.jsonl'}; {scores}")
    stages = config.curriculum.stages
    if result.stage <= len(stages):
        was = f"stage {result.stage} of {len(stages) + 1}"
        lines.append(f"curriculum: training was in {was} and never came to the task of the run, which is the last")
    lines.append(f"run folder: {folder}")
    if not result.is_finished:
        return "\n".join([*lines, f"continue: spnpolicy train --resume {quote(str(folder))}"])
    lines.append(f"next: spnpolicy evaluate {quote(str(folder))}")
    if ALGORITHMS[config.algorithm].has_joint_policy:
        lines.append(f"      spnpolicy query {quote(str(folder))}")
    return "\n".join(lines)


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


def _line(statuses: Sequence[TrialStatus], workers: int) -> str:
    running = [
        f"{status.name} {status.step / status.config.train.steps:.0%}"
        for status in statuses
        if status.state in ("running", "evaluating")
    ]
    shown = running[:_FEWEST_ROWS] + [f"{len(running) - _FEWEST_ROWS} more"] * (len(running) > _FEWEST_ROWS)
    return _counts(statuses, workers) + (f"; now {', '.join(shown)}" if running else "")


def _counts(statuses: Sequence[TrialStatus], workers: int) -> str:
    """Return how many runs are in which state, and how long the rest will take."""
    states = Counter(status.state for status in statuses)
    over = states["done"] + states["kept"]
    parts = [f"{over} of {len(statuses)} runs done"]
    if states["failed"]:
        parts.append(f"{states['failed']} failed")
    alive = [status for status in statuses if status.state != "failed"]
    for what, count in (
        ("failed tries", sum(status.failures for status in alive)),
        ("lost workers", sum(status.losses for status in alive)),
    ):
        if count:
            parts.append(f"{what}: {count}")
    return ", ".join([*parts, f"{duration(seconds_left(statuses, workers))} left"])


def _table(statuses: Sequence[TrialStatus], workers: int) -> Table:
    shown = _most_urgent(statuses)
    hidden = f"; {len(statuses) - len(shown)} more runs are not shown" if len(shown) < len(statuses) else ""
    table = Table(caption=_counts(statuses, workers) + hidden, box=None, caption_justify="left")
    for heading in ("run", "state", "", "tries", "latest evaluation", "time"):
        table.add_column(heading)
    for status in shown:
        steps = status.config.train.steps
        done = steps if status.state in ("done", "kept", "evaluating") else status.step
        text = escape(status.problem[:60]) or ", ".join(evaluation_text(status.evaluation))
        time = duration(status.seconds) if status.seconds else ""
        bar = ProgressBar(total=steps, completed=done, width=24)
        table.add_row(status.name, status.state, bar, str(status.tries or ""), text, time)
    return table


def _most_urgent(statuses: Sequence[TrialStatus]) -> Sequence[TrialStatus]:
    """Return the runs to show, in the order of the plan: all where there is room, otherwise those that change."""
    room = shutil.get_terminal_size().lines - _LINES_AROUND_ROWS
    room = max(_FEWEST_ROWS, min(room, _MOST_ROWS))
    if len(statuses) <= room:
        return statuses
    places = sorted(range(len(statuses)), key=lambda place: _URGENCY.index(statuses[place].state))
    return [statuses[place] for place in sorted(places[:room])]
