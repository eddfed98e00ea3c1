"""Who is at work on a trial: one process at a time, on all machines that share the folder.

leases/<trial>.lock    locked by the process at work; the system drops the lock when the process ends, however it ends
leases/<trial>.json    the Lease: who it is, when it last gave a sign of life, and how far it has come
leases/stop            there while everybody is asked to save and leave

The lock decides among processes of one machine. Not every shared file system hands locks on to other machines, so a
lease of another machine counts as long as its sign of life is young; the clocks must agree to some seconds.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from spnpolicy.base.errors import SpnPolicyError

SECONDS_BETWEEN_REPORTS = 0.5
"""Shortest time between two writes of a lease."""
SECONDS_BETWEEN_SIGNS = 5.0
"""Longest time between two writes of a lease."""
SECONDS_TO_STALE = 60.0
"""A lease of another machine that is older is void."""
_SECONDS_BETWEEN_TRIES = 0.2


class LeaseError(SpnPolicyError):
    """Somebody else is at work on the trial."""


@dataclass(frozen=True)
class Lease:
    """What the process at work on a trial tells about itself."""

    owner: str
    """Unique to this try."""
    host: str
    machine: str
    """The running system: the same for all containers of a machine, another one after a restart."""
    pid: int
    time: float
    """When this was written, in seconds since 1970."""
    state: str = "running"
    step: int = 0
    """Env steps done."""
    seconds: float = 0.0
    """Time they took, earlier tries included."""
    evaluation: dict[str, float] = field(default_factory=dict)
    """Means of the latest evaluation during training."""


class Holder:
    """The lease as the process that has it sees it."""

    def __init__(self, folder: Path, trial: str):
        self._folder, self._trial = folder, trial
        self._stop_file = folder / "leases" / "stop"
        self._path = _lease_file(folder, trial)
        self._owner = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}"
        self._end = threading.Event()
        self._changed = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self.facts: dict[str, Any] = {}
        """What was told last."""
        self.is_lost = False
        """Whether somebody else has taken it over, because there was no sign of life for too long."""
        self.stop_requested = False
        """Whether everybody is asked to save and leave."""

    def tell(self, **facts: Any) -> None:
        """Note how far the trial has come; it is written soon, by a thread of its own."""
        self.facts = self.facts | facts
        self._changed.set()

    def start(self) -> None:
        """Write the first sign of life, and keep writing."""
        self._write()
        self._thread.start()

    def end(self) -> None:
        """Stop writing and remove the lease."""
        self._end.set()
        self._changed.set()
        self._thread.join()
        if not self.is_lost:
            self._path.unlink(missing_ok=True)

    def _keep(self) -> None:
        last = time.monotonic()
        while not self._end.wait(SECONDS_BETWEEN_REPORTS):
            self.stop_requested = self._stop_file.exists()
            if self._changed.is_set() or time.monotonic() - last > SECONDS_BETWEEN_SIGNS:
                self._changed.clear()
                last = time.monotonic()
                # A full disk must not end a trial that could go on.
                with contextlib.suppress(OSError):
                    self._write()

    def _write(self) -> None:
        current = read_lease(self._folder, self._trial)
        # The first write takes over whatever a dead process has left; a stranger's lease found later means that we were
        # silent for so long that somebody else began, and of two writers this one must be silent from now on.
        if self._thread.is_alive() and current is not None and current.owner != self._owner:
            self.is_lost = True
            self._end.set()
            return
        own = Lease(self._owner, socket.gethostname(), _machine(), os.getpid(), time.time(), **self.facts)
        # Not synced: it is worth nothing after a crash of the system.
        temporary = self._path.with_name(f".{self._path.name}-{os.getpid()}")
        try:
            temporary.write_text(json.dumps(asdict(own)), encoding="utf-8")
            os.replace(temporary, self._path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def hold(folder: Path, trial: str, *, patience: float = 0.0) -> Iterator[Holder]:
    """Be the only one at work on a trial of the plan in a folder.

    Raises:
        LeaseError: somebody else still is, after `patience` seconds.
    """
    deadline = time.monotonic() + patience
    (folder / "leases").mkdir(parents=True, exist_ok=True)
    while (lock := _lock(folder, trial)) is None or (other := _living_lease(folder, trial)) is not None:
        if lock is not None:
            lock.close()
        if time.monotonic() >= deadline:
            other = read_lease(folder, trial)
            who = f"process {other.pid} on {other.host}" if other else "another process"
            raise LeaseError(f"{who} is at work on {trial}.")
        time.sleep(_SECONDS_BETWEEN_TRIES)
    with lock:
        holder = Holder(folder, trial)
        holder.start()
        try:
            yield holder
        finally:
            holder.end()
            # Removed while it is locked; whoever waits for it notices that it is not the file of that name any more.
            with contextlib.suppress(OSError):
                (folder / "leases" / f"{trial}.lock").unlink(missing_ok=True)


def read_lease(folder: Path, trial: str) -> Lease | None:
    """Return who is at work on a trial, or was when it was killed; None if nobody is."""
    try:
        return Lease(**json.loads(_lease_file(folder, trial).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def ask_all_to_stop(folder: Path, wanted: bool) -> None:
    """Ask everybody who is at work in a folder to save and leave, or take that back."""
    path = folder / "leases" / "stop"
    if wanted:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    else:
        path.unlink(missing_ok=True)


def _lock(folder: Path, trial: str) -> IO[bytes] | None:
    path = folder / "leases" / f"{trial}.lock"
    file = path.open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    file.close()
    return None


def _living_lease(folder: Path, trial: str) -> Lease | None:
    """Return a lease that another machine holds; one of our own machine died with its lock."""
    lease = read_lease(folder, trial)
    if lease is None or lease.machine == _machine() or time.time() - lease.time > SECONDS_TO_STALE:
        return None
    return lease


def _lease_file(folder: Path, trial: str) -> Path:
    return folder / "leases" / f"{trial}.json"


def _machine() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()
