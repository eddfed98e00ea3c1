"""Tries in processes of this machine: one process per try, so that a crash takes only itself along."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch

from spnpolicy.experiments.sweeps.attempts import Outcome, attempt
from spnpolicy.experiments.sweeps.plan import Plan, Trial

_SECONDS_TO_STOP = 15.0


class LocalEngine:
    """Starts a process per try; none of them outlives the driver.

    Args:
        workers: processes at a time.
        threads: threads of each.
    """

    def __init__(self, workers: int, threads: int = 1):
        self.workers = workers
        self._threads = threads
        self._running: dict[str, _Worker] = {}

    def submit(self, plan: Plan, trial: Trial, folder: Path) -> None:
        """Start a try; at most `workers` at a time."""
        self._running[trial.name] = _Worker(replace(plan, trials=()), trial, folder, self._threads)

    def collect(self, seconds: float) -> dict[str, Outcome]:
        """Wait so long at most for tries to end, and return those that did by the name of the trial."""
        ready = wait([worker.connection for worker in self._running.values()], timeout=seconds)
        ended = {name: worker for name, worker in self._running.items() if worker.connection in ready}
        for name in ended:
            del self._running[name]
        return {name: worker.outcome() for name, worker in ended.items()}

    def stop(self, folder: Path) -> dict[str, Outcome]:
        """Ask all tries to save and leave, wait some seconds, end the others; return all that ended."""
        for worker in self._running.values():
            worker.ask_to_stop()
        deadline = time.monotonic() + _SECONDS_TO_STOP
        outcomes = {name: worker.finish(deadline) for name, worker in self._running.items()}
        self._running.clear()
        return outcomes

    def __enter__(self) -> "LocalEngine":
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._running.values():
            worker.finish(0.0)
        self._running.clear()


class _Worker:
    """The driver's side of one worker process."""

    def __init__(self, plan: Plan, trial: Trial, folder: Path, threads: int):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(
            target=_work, args=(theirs, plan, trial, folder, threads), name=trial.name, daemon=True
        )
        with _ignoring_interrupts():
            self._process.start()
        theirs.close()

    def outcome(self) -> Outcome:
        """Take the one message of the worker, or find that it is gone."""
        try:
            outcome = Outcome(*self.connection.recv())
        except (EOFError, OSError):
            self._process.join()
            outcome = Outcome("lost", f"the worker process died (exit code {self._process.exitcode})")
        self._process.join()
        self.connection.close()
        return outcome

    def ask_to_stop(self) -> None:
        """Send the signal at which training saves a checkpoint and leaves."""
        if self._process.is_alive():
            self._process.terminate()

    def finish(self, deadline: float) -> Outcome:
        """Wait for the end of the process until a time, then insist."""
        if self.connection.poll(max(0.0, deadline - time.monotonic())):
            outcome = self.outcome()
            return outcome if outcome.state != "lost" else Outcome("stopped")
        self._process.kill()
        self._process.join()
        self.connection.close()
        return Outcome("stopped")


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


def _work(connection: Connection, plan: Plan, trial: Trial, folder: Path, threads: int) -> None:
    """Do one try in a worker process and tell the driver how it ended."""
    # Out of the terminal's process group: the Ctrl-C meant for the driver would count as a second, insisting one.
    os.setpgrp()
    threading.Thread(target=_leave_with_driver, args=(connection,), daemon=True).start()
    torch.set_num_threads(threads)
    outcome = attempt(plan, trial, folder)
    with contextlib.suppress(BrokenPipeError):
        connection.send(tuple(outcome))


def _leave_with_driver(connection: Connection) -> None:
    """End this process when the driver is gone, however it ended: the next driver must find nobody in its folders."""
    with contextlib.suppress(EOFError, OSError):
        connection.recv()
    os._exit(1)
