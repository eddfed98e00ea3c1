"""Progress of many trials on stderr: one live table in a terminal, otherwise a plain line every few seconds."""

import sys
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from spnpolicy.cli.progress import SECONDS_BETWEEN_LINES, Throttle, duration, evaluation_text
from spnpolicy.experiments.runner import TrialStatus, seconds_left

_SECONDS_BETWEEN_REDRAWS = 0.5


class TrialTable:
    """Shows the states of all trials. Call it with them as often as you like."""

    def __init__(self, workers: int):
        self._workers = workers
        console = Console(stderr=True)
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._throttle = Throttle(_SECONDS_BETWEEN_REDRAWS if self._live else SECONDS_BETWEEN_LINES)

    def __call__(self, statuses: Sequence[TrialStatus]) -> None:
        """Show them if the last time was long enough ago."""
        is_last = all(status.is_over for status in statuses)
        if not self._throttle.is_due() and not is_last:
            return
        if self._live is None:
            print(_line(statuses, self._workers), file=sys.stderr, flush=True)
        else:
            self._live.update(_table(statuses, self._workers), refresh=True)

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
    over = sum(status.is_over for status in statuses)
    running = ", ".join(
        f"{status.name} {status.step / status.config.train.steps:.0%}"
        for status in statuses
        if status.state in ("running", "evaluating")
    )
    left = duration(seconds_left(statuses, workers))
    return f"{over} of {len(statuses)} runs done, {left} left" + (f"; now {running}" if running else "")


def _table(statuses: Sequence[TrialStatus], workers: int) -> Table:
    table = Table(caption=f"{duration(seconds_left(statuses, workers))} left", box=None, caption_justify="left")
    for heading in ("run", "state", "", "latest evaluation", "time"):
        table.add_column(heading)
    for status in statuses:
        steps = status.config.train.steps
        done = steps if status.state in ("done", "kept", "evaluating") else status.step
        text = escape(status.problem[:60]) or ", ".join(evaluation_text(status.evaluation))
        time = duration(status.seconds) if status.seconds else ""
        table.add_row(status.name, status.state, ProgressBar(total=steps, completed=done, width=24), text, time)
    return table
