"""One try of a trial, in a worker: under a lease, with its end written down, never with an exception."""

import json
import logging
import os
import socket
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from spnpolicy.experiments.sweeps.lease import SECONDS_TO_STALE, Holder, LeaseError, hold
from spnpolicy.experiments.sweeps.plan import Plan, Trial, trial_folder
from spnpolicy.experiments.sweeps.trials import FAILURE_FILE, is_finished, run_trial
from spnpolicy.training.loop import Progress

# A worker that was killed a moment ago may not be quite gone, and a lease of another machine has to become stale.
_PATIENCE = SECONDS_TO_STALE + 30.0


class Outcome(NamedTuple):
    """How a try ended."""

    state: Literal["done", "stopped", "failed", "lost"]
    """Lost: the worker is gone, or somebody else is at work; no fault of the trial."""
    problem: str = ""
    """One line about what went wrong."""
    seconds: float = 0.0
    """Time of training, earlier tries included; 0 where that is not known."""


def attempt(plan: Plan, trial: Trial, folder: Path) -> Outcome:
    """Try to do what is missing of a trial, alone, and tell how that went; see `run_trial`."""
    try:
        with (
            hold(folder, trial.name, patience=_PATIENCE) as holder,
            _logged(folder, trial.name),
            _recorded(folder, trial.name) as record,
        ):
            if is_finished(trial, folder):
                # By somebody else, while we waited.
                record["end"] = "found done"
                return Outcome("done")
            is_done = run_trial(plan, trial, folder, on_progress=_teller(holder))
            record["end"] = "done" if is_done else "stopped"
            seconds = holder.facts.get("seconds", 0.0)
            return Outcome("done" if is_done else "stopped", seconds=seconds)
    except LeaseError as problem:
        return Outcome("lost", str(problem))
    except Exception as problem:
        write_failure(folder, trial, traceback.format_exc())
        return Outcome("failed", f"{type(problem).__name__}: {problem}")


def write_failure(folder: Path, trial: Trial, text: str) -> None:
    """Put the traceback of a failure into the folder of its trial."""
    own = trial_folder(folder, trial)
    with suppress(OSError):
        own.mkdir(parents=True, exist_ok=True)
        (own / FAILURE_FILE).write_text(text, encoding="utf-8")


def _teller(holder: Holder) -> Any:
    def tell(progress: Progress) -> None:
        is_trained = progress.step >= progress.steps
        holder.tell(
            state="evaluating" if is_trained else "running",
            step=progress.step,
            seconds=progress.seconds,
            evaluation=dict(progress.evaluation),
        )
        if holder.is_lost:
            raise LeaseError("somebody else has taken over the trial, because there was no sign of life from here.")
        if holder.stop_requested and not is_trained:
            raise KeyboardInterrupt

    return tell


@contextmanager
def _logged(folder: Path, trial: str) -> Iterator[None]:
    """Put warnings into a file of the trial: on the terminal they would tear the table of the driver."""
    logger = logging.getLogger("spnpolicy")
    handler = logging.FileHandler(folder / "attempts" / f"{trial}.log", encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    propagates = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates
        handler.close()


@contextmanager
def _recorded(folder: Path, trial: str) -> Iterator[dict[str, Any]]:
    """Write down that a try begins, and how it ends; a try without an end was killed."""
    record: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid(), "begun": round(time.time(), 3)}
    _append(folder, trial, record)
    start = time.monotonic()
    try:
        yield record
    except BaseException as problem:
        record |= {"end": "failed", "problem": f"{type(problem).__name__}: {problem}"[:500]}
        raise
    finally:
        _append(folder, trial, record | {"seconds": round(time.monotonic() - start, 3)})


def _append(folder: Path, trial: str, record: dict[str, Any]) -> None:
    path = folder / "attempts" / f"{trial}.jsonl"
    # A trial goes on where only its diary cannot be written.
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
