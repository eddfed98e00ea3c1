"""Tries as tasks of Ray, on this machine or on a cluster; needs the extra `spnpolicy[ray]`.

On several machines the folder of the plan must lie on a file system that all of them share, under the same path.
Ray only executes: it retries nothing, and what became of a trial is read from its folder.
"""

import contextlib
import logging
import shutil
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray  # pyright: ignore[reportMissingImports]
import torch
from ray.exceptions import (  # pyright: ignore[reportMissingImports]
    GetTimeoutError,
    RayError,
    RayTaskError,
)

from spnpolicy.base.errors import SpnPolicyError
from spnpolicy.experiments.sweeps.attempts import Outcome, attempt
from spnpolicy.experiments.sweeps.lease import ask_all_to_stop
from spnpolicy.experiments.sweeps.plan import Plan, Trial

_SECONDS_TO_STOP = 15.0
_OBJECT_STORE_BYTES = 100 * 2**20


class RayEngine:
    """Runs every try as a Ray task.

    Args:
        workers: tasks at a time; None for as many as the cluster has cores for.
        threads: threads, and cores, of each.
        address: of a running cluster; empty to start one on this machine that only this machine can reach, without
            dashboard, which ends with the driver however that ends.
    """

    def __init__(self, workers: int | None, threads: int = 1, address: str = ""):
        self.workers = workers or 1
        self._wanted = workers
        self._threads = threads
        self._address = address
        self._running: dict[Any, str] = {}
        self._folder: Path | None = None
        self._task: Any = None

    def submit(self, plan: Plan, trial: Trial, folder: Path) -> None:
        """Start a try; at most `workers` at a time."""
        task = self._task.remote(replace(plan, trials=()), trial, str(folder.resolve()), self._threads)
        self._running[task] = trial.name

    def collect(self, seconds: float) -> dict[str, Outcome]:
        """Wait so long at most for tries to end, and return those that did by the name of the trial."""
        tasks = list(self._running)
        ready, _ = ray.wait(tasks, num_returns=len(tasks), timeout=seconds) if tasks else ([], [])
        return {self._running.pop(task): _outcome(task) for task in ready}

    def stop(self, folder: Path) -> dict[str, Outcome]:
        """Ask all tries to save and leave, wait some seconds, end the others; return all that ended."""
        ask_all_to_stop(folder, wanted=True)
        outcomes: dict[str, Outcome] = {}
        deadline = time.monotonic() + _SECONDS_TO_STOP
        try:
            while self._running and (left := deadline - time.monotonic()) > 0:
                outcomes |= self.collect(min(left, 0.25))
            for task, name in self._running.items():
                ray.cancel(task, force=True)
                outcomes[name] = Outcome("stopped")
            self._running.clear()
        finally:
            ask_all_to_stop(folder, wanted=False)
        return outcomes

    def __enter__(self) -> "RayEngine":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._connect()
        if self._wanted is None:
            self.workers = max(1, int(ray.cluster_resources().get("CPU", 1)) // self._threads)
        self._task = ray.remote(num_cpus=self._threads, max_retries=0)(_work)
        return self

    def __exit__(self, *error: object) -> None:
        self._running.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _connect(self) -> None:
        # As many threads as cores: the numerical libraries of a worker read this before anything of ours runs.
        threads = str(self._threads)
        common: dict[str, Any] = {
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}},
            "log_to_driver": False,
            "logging_level": logging.ERROR,
        }
        try:
            if self._address:
                ray.init(address=self._address, **common)
                return
            # Its own short folder: names of sockets have few characters, and nothing is to stay behind.
            self._folder = Path(tempfile.mkdtemp(prefix="spnpolicy-ray-"))
            ray.init(
                address="local",
                num_cpus=self.workers * self._threads,
                num_gpus=0,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                _node_ip_address="127.0.0.1",
                _temp_dir=str(self._folder),
                **common,
            )
            if (ip := ray.util.get_node_ip_address()) != "127.0.0.1":
                ray.shutdown()
                raise RuntimeError(f"it would listen on {ip}, because it was imported before make_engine was called.")
        except (ConnectionError, RuntimeError, ValueError) as problem:
            where = self._address or "on this machine"
            raise SpnPolicyError(f"cannot start or reach Ray {where}: {problem}") from problem


def _outcome(task: Any) -> Outcome:
    try:
        return ray.get(task, timeout=60)
    except GetTimeoutError:
        return Outcome("lost", "its result did not arrive")
    except RayTaskError as problem:
        return Outcome("failed", str(problem).strip().splitlines()[-1])
    except RayError as problem:
        return Outcome("lost", f"{type(problem).__name__}: {str(problem).strip().splitlines()[0]}")


def _work(plan: Plan, trial: Trial, folder: str, threads: int) -> Outcome:
    """Do one try in a worker of Ray."""
    with contextlib.suppress(RuntimeError):
        torch.set_num_threads(threads)
    return attempt(plan, trial, Path(folder))
