"""Run the trials of a plan in worker processes: one process per trial, so that a crash takes only itself along."""

import contextlib
import math
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Literal

import torch

from spnpolicy.experiments.plan import Plan, trial_folder, trial_name
from spnpolicy.experiments.trials import FAILURE_FILE, is_finished, run_trial
from spnpolicy.training.config import RunConfig
from spnpolicy.training.interrupts import StopRequest
from spnpolicy.training.loop import Progress

_SECONDS_BETWEEN_REPORTS = 0.5
_SECONDS_TO_STOP = 15.0

State = Literal["waiting", "running", "evaluating", "done", "kept", "failed", "stopped"]


@dataclass
class TrialStatus:
    """How far a trial has come."""

    config: RunConfig
    state: State = "waiting"
    step: int = 0
    """Env steps done in this attempt."""
    seconds: float = 0.0
    """Time they took."""
    evaluation: dict[str, float] = field(default_factory=dict)
    """Means of the latest evaluation during training."""
    problem: str = ""
    """One line about a failure."""

    @property
    def name(self) -> str:
        """Name of the trial."""
        return trial_name(self.config)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ("done", "kept", "failed", "stopped")


def run_trials(
    plan: Plan,
    folder: Path,
    *,
    workers: int,
    threads: int = 1,
    on_change: Callable[[Sequence[TrialStatus]], None] | None = None,
) -> list[TrialStatus]:
    """Run every trial that is not finished yet.

    A trial that fails leaves its traceback in its folder, and the others go on. Ctrl-C or SIGTERM stops all workers;
    calling this again goes on with the trials that are not finished.

    Args:
        plan: what to run.
        folder: folder of the plan, opened by the caller.
        workers: processes at a time.
        threads: threads of each.
        on_change: called with the states of all trials a few times per second.

    Returns:
        The states at the end; some are "stopped" or "waiting" after an interruption.
    """
    statuses = [TrialStatus(config, "kept" if is_finished(config, folder) else "waiting") for config in plan.trials]
    waiting = deque(status for status in statuses if status.state == "waiting")
    active: list[_Worker] = []
    with StopRequest() as stop:
        try:
            while (waiting or active) and not stop.requested:
                while waiting and len(active) < workers:
                    active.append(_Worker(plan, waiting.popleft(), folder, threads))
                ready = wait([worker.connection for worker in active], timeout=0.25)
                for worker in active:
                    if worker.connection in ready:
                        worker.receive()
                active = [worker for worker in active if not worker.status.is_over]
                if on_change is not None:
                    on_change(statuses)
        finally:
            _stop(active)
    return statuses


def seconds_left(statuses: Sequence[TrialStatus], workers: int) -> float:
    """Estimate the time to the end from the speed of each algorithm so far; infinite while nothing is known."""
    speeds: dict[str, list[float]] = {}
    for status in statuses:
        if status.step and status.seconds:
            speeds.setdefault(status.config.algorithm, []).append(status.seconds / status.step)
    if not speeds:
        return math.inf
    means = {algorithm: sum(values) / len(values) for algorithm, values in speeds.items()}
    unknown = max(means.values())
    rest = [
        (status.config.train.steps - status.step) * means.get(status.config.algorithm, unknown)
        for status in statuses
        if not status.is_over
    ]
    return max([sum(rest) / workers, *rest], default=0.0)


class _Worker:
    """The driver's side of one worker process."""

    def __init__(self, plan: Plan, status: TrialStatus, folder: Path, threads: int):
        self.status = status
        self._folder = folder
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(
            target=_work,
            args=(theirs, plan, status.config, folder, threads),
            name=status.name,
            daemon=True,
        )
        with _ignoring_interrupts():
            self._process.start()
        theirs.close()
        status.state = "running"

    def receive(self) -> None:
        """Take one message from the worker, or find that it is gone."""
        try:
            message: dict[str, Any] = self.connection.recv()
        except (EOFError, OSError):
            self._process.join()
            self._lose()
            return
        for name, value in message.items():
            setattr(self.status, name, value)
        if self.status.is_over:
            self._process.join()
            self.connection.close()

    def ask_to_stop(self) -> None:
        """Send the signal at which training saves a checkpoint and leaves."""
        if self._process.is_alive():
            self._process.terminate()

    def finish(self, deadline: float) -> None:
        """Wait for the end of the process until a time, then insist."""
        self._process.join(max(0.0, deadline - time.monotonic()))
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self.connection.close()
        self.status.state = "stopped"

    def _lose(self) -> None:
        self.connection.close()
        self.status.state = "failed"
        self.status.problem = f"the worker process died (exit code {self._process.exitcode})"
        _write_failure(trial_folder(self._folder, self.status.config), self.status.problem + "\n")


def _stop(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.ask_to_stop()
    deadline = time.monotonic() + _SECONDS_TO_STOP
    for worker in workers:
        worker.finish(deadline)


@contextlib.contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    # A process started now ignores Ctrl-C from its first moment: stopping workers is the driver's job alone, and a
    # worker that is still importing would print a traceback.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _work(connection: Connection, plan: Plan, config: RunConfig, folder: Path, threads: int) -> None:
    """Run one trial in a worker process and report to the driver."""
    # Out of the terminal's process group: the Ctrl-C meant for the driver would count as a second, insisting one.
    os.setpgrp()
    threading.Thread(target=_leave_with_driver, args=(connection,), daemon=True).start()
    torch.set_num_threads(threads)
    last_report = -math.inf

    def tell(progress: Progress) -> None:
        nonlocal last_report
        now = time.monotonic()
        if now - last_report < _SECONDS_BETWEEN_REPORTS and progress.step < progress.steps:
            return
        last_report = now
        is_trained = progress.step >= progress.steps
        connection.send(
            {
                "state": "evaluating" if is_trained else "running",
                "step": progress.step,
                "seconds": progress.seconds,
                "evaluation": progress.evaluation,
            }
        )

    try:
        done = run_trial(plan, config, folder, on_progress=tell)
        connection.send({"state": "done" if done else "stopped"})
    except BrokenPipeError:
        pass  # nobody is left to be told
    except Exception as problem:
        _write_failure(trial_folder(folder, config), traceback.format_exc())
        connection.send({"state": "failed", "problem": f"{type(problem).__name__}: {problem}"})


def _leave_with_driver(connection: Connection) -> None:
    """End this process when the driver is gone, however it ended: the next driver must find nobody in its folders."""
    with contextlib.suppress(EOFError, OSError):
        connection.recv()
    os._exit(1)


def _write_failure(folder: Path, text: str) -> None:
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FAILURE_FILE).write_text(text, encoding="utf-8")
