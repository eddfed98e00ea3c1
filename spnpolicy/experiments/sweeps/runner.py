"""The driver of a plan: hands trials to an engine until each is finished or has failed too often."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from spnpolicy.experiments.sweeps.attempts import Outcome, write_failure
from spnpolicy.experiments.sweeps.engines import Engine
from spnpolicy.experiments.sweeps.lease import SECONDS_BETWEEN_REPORTS, ask_all_to_stop, read_lease
from spnpolicy.experiments.sweeps.plan import Plan, Trial
from spnpolicy.experiments.sweeps.trials import is_finished
from spnpolicy.training.interrupts import StopRequest

MOST_TRIES = 3
"""A trial that raises so often is given up, until the plan is run again."""
MOST_LOSSES = 10
"""So many workers may be lost on one trial: killed, out of memory, their machine gone."""

State = Literal["waiting", "running", "evaluating", "done", "kept", "failed", "stopped"]


@dataclass
class TrialStatus:
    """How far a trial has come."""

    config: Trial
    state: State = "waiting"
    step: int = 0
    """Env steps done."""
    seconds: float = 0.0
    """Time they took."""
    evaluation: dict[str, float] = field(default_factory=dict)
    """Means of the latest evaluation during training."""
    problem: str = ""
    """One line about the latest failure."""
    failures: int = 0
    """Tries that ended with an exception."""
    losses: int = 0
    """Tries whose worker was lost."""
    tries: int = 0
    """Tries of this driver, the one under way included."""

    @property
    def name(self) -> str:
        """Name of the trial."""
        return self.config.name

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ("done", "kept", "failed", "stopped")


def run_trials(
    plan: Plan,
    folder: Path,
    engine: Engine,
    *,
    on_change: Callable[[Sequence[TrialStatus]], None] = lambda statuses: None,
) -> list[TrialStatus]:
    """Run every trial that is not finished yet.

    A trial that raises leaves its traceback in its folder and is tried again, three times in all, while the others go
    on; a trial whose worker is lost is tried again up to ten times. Ctrl-C or SIGTERM stops all workers, which save
    first; calling this again goes on with the trials that are not finished, from their checkpoints.

    Args:
        plan: what to run.
        folder: folder of the plan, opened by the caller.
        engine: where to run it; entered only if something is left to do.
        on_change: called with the states of all trials a few times per second.

    Returns:
        The states at the end; some are "stopped" or "waiting" after an interruption.
    """
    statuses = [TrialStatus(trial, "kept" if is_finished(trial, folder) else "waiting") for trial in plan.trials]
    waiting = deque(status for status in statuses if status.state == "waiting")
    if not waiting:
        return statuses
    ask_all_to_stop(folder, wanted=False)
    active: dict[str, TrialStatus] = {}
    # In this order: Ray sets a handler of its own for SIGTERM when it starts.
    with engine, StopRequest() as stop:
        try:
            while (waiting or active) and not stop.requested:
                while waiting and len(active) < engine.workers:
                    status = waiting.popleft()
                    engine.submit(plan, status.config, folder)
                    status.state = "running"
                    status.tries += 1
                    active[status.name] = status
                    # Seen as running even when its try ends at once.
                    on_change(statuses)
                for name, outcome in engine.collect(0.25).items():
                    _settle(active.pop(name), outcome, waiting, folder)
                _look(active, folder)
                on_change(statuses)
        finally:
            for name, outcome in engine.stop(folder).items():
                active[name].state = "done" if outcome.state == "done" else "stopped"
    with suppress(OSError):
        (folder / "leases").rmdir()
    return statuses


def seconds_left(statuses: Sequence[TrialStatus], workers: int) -> float:
    """Estimate the time to the end from the speed of each algorithm so far; infinite while nothing is known."""
    speeds: dict[tuple[str, str], list[float]] = {}
    for status in statuses:
        if status.step and status.seconds:
            speeds.setdefault(_kind(status), []).append(status.seconds / status.step)
    if not speeds:
        return math.inf
    means = {kind: sum(values) / len(values) for kind, values in speeds.items()}
    unknown = max(means.values())
    rest = [
        (status.config.train.steps - status.step) * means.get(_kind(status), unknown)
        for status in statuses
        if not status.is_over
    ]
    return max([sum(rest) / workers, *rest], default=0.0)


def _kind(status: TrialStatus) -> tuple[str, str]:
    return status.config.algorithm, status.config.environment


def _settle(status: TrialStatus, outcome: Outcome, waiting: deque[TrialStatus], folder: Path) -> None:
    """Take the end of a try into account."""
    status.problem = outcome.problem
    if outcome.state == "done":
        status.state = "done"
        status.step = status.config.train.steps
        status.seconds = outcome.seconds
    elif outcome.state == "failed":
        status.failures += 1
        status.state = "failed" if status.failures >= MOST_TRIES else "waiting"
        if status.state == "waiting":
            waiting.append(status)
    else:
        # A worker that was stopped by somebody else than this driver is as good as lost.
        status.losses += 1
        status.state = "failed" if status.losses > MOST_LOSSES else "waiting"
        if status.state == "waiting":
            # At the front: it has a checkpoint, and whoever waits for its results waits longest.
            waiting.appendleft(status)
        else:
            write_failure(folder, status.config, f"lost {status.losses} workers, the last one: {outcome.problem}\n")


def _look(active: dict[str, TrialStatus], folder: Path) -> None:
    """Read how far the active trials have come."""
    for status in active.values():
        lease = read_lease(folder, status.name)
        # What a killed try has left is as old as that one.
        if lease is None or time.time() - lease.time > 60 * SECONDS_BETWEEN_REPORTS:
            continue
        status.state = "evaluating" if lease.state == "evaluating" else "running"
        # The last iteration may go beyond the end.
        status.step = min(lease.step, status.config.train.steps)
        status.seconds, status.evaluation = lease.seconds, lease.evaluation
