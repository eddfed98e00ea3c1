"""Where trials are executed: an engine starts tries and tells how they ended; the folder of the plan is the truth."""

import os
from pathlib import Path
from typing import Protocol, runtime_checkable

from spnpolicy.base.errors import ConfigError
from spnpolicy.experiments.sweeps.attempts import Outcome
from spnpolicy.experiments.sweeps.engines.local import LocalEngine
from spnpolicy.experiments.sweeps.plan import Plan, Trial

_RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # Every line that Ray would print into the table of the driver is skipped; what matters comes as an outcome.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
}


@runtime_checkable
class Engine(Protocol):
    """Runs tries of trials somewhere else; used as a context manager, from one thread."""

    @property
    def workers(self) -> int:
        """How many tries it can run at a time; final once the engine is entered."""
        ...

    def submit(self, plan: Plan, trial: Trial, folder: Path) -> None:
        """Start a try; at most `workers` at a time."""
        ...

    def collect(self, seconds: float) -> dict[str, Outcome]:
        """Wait so long at most for tries to end, and return those that did by the name of the trial."""
        ...

    def stop(self, folder: Path) -> dict[str, Outcome]:
        """Ask all tries to save and leave, wait some seconds, end the others; return all that ended."""
        ...

    def __enter__(self) -> "Engine": ...

    def __exit__(self, *error: object) -> None: ...


def make_engine(name: str = "local", *, workers: int | None = None, threads: int = 1, address: str = "") -> Engine:
    """Return an engine by name.

    Args:
        name: "local" for processes of this machine, or "ray".
        workers: tries at a time; None for as many as there are cores for.
        threads: threads of each.
        address: of a running Ray cluster; empty to start one on this machine.

    Raises:
        ConfigError: no such engine, or Ray is not installed.
    """
    if name == "local":
        if address:
            raise ConfigError(f"address is {address!r}, but only the engine 'ray' has one; leave it out.")
        return LocalEngine(workers or cores_of_machine() // threads or 1, threads)
    if name != "ray":
        raise ConfigError(f"engine is {name!r}, but must be 'local' or 'ray'.")
    # What Ray reads when it is imported.
    for setting, value in _RAY_SETTINGS.items():
        os.environ.setdefault(setting, value)
    if not address:
        # Without it even a cluster of one machine listens to the whole network.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        from spnpolicy.experiments.sweeps.engines.cluster import RayEngine
    except ModuleNotFoundError as problem:
        if problem.name != "ray":
            raise
        raise ConfigError("ray is not installed: run pip install 'spnpolicy[ray]', or use engine 'local'.") from None
    if not address:
        workers = workers or cores_of_machine() // threads or 1
    return RayEngine(workers, threads, address)


def cores_of_machine() -> int:
    """Return the number of cores that this process may use."""
    # Not os.cpu_count(): a job of a cluster often may use a few cores of a large machine only.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
