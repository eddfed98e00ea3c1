"""Progress of many trials on stderr: one live table in a terminal, otherwise a plain line every few seconds."""

import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from spnpolicy.cli.progress import SECONDS_BETWEEN_LINES, Throttle, duration, evaluation_text
from spnpolicy.experiments.sweeps.engines import Engine
from spnpolicy.experiments.sweeps.runner import TrialStatus, seconds_left

_SECONDS_BETWEEN_REDRAWS = 0.5
_MOST_ROWS = 20
_FEWEST_ROWS = 4
_LINES_AROUND_ROWS = 4
_URGENCY = ("failed", "evaluating", "running", "stopped", "waiting", "done", "kept")
"""Which states are shown first where there is no room for all runs."""


class TrialTable:
    """Shows the states of all trials. Call it with them as often as you like."""

    def __init__(self, engine: Engine):
        self._engine = engine
        console = Console(stderr=True)
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._throttle = Throttle(_SECONDS_BETWEEN_REDRAWS if self._live else SECONDS_BETWEEN_LINES)

    def __call__(self, statuses: Sequence[TrialStatus]) -> None:
        """Show them if the last time was long enough ago."""
        is_last = all(status.is_over for status in statuses)
        if not self._throttle.is_due() and not is_last:
            return
        if self._live is None:
            print(_line(statuses, self._engine.workers), file=sys.stderr, flush=True)
        else:
            self._live.update(_table(statuses, self._engine.workers), refresh=True)

    def __enter__(self) -> "TrialTable":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()


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
