"""What `spnpolicy doctor` tries on this machine: cores, GPU, disk, locks and worker processes."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from spnpolicy.base.files import replace_file

LEAST_FREE_BYTES = 2**30
_MOST_SECONDS = 60.0


class Check(NamedTuple):
    """One line of the diagnosis."""

    what: str
    is_ok: bool
    text: str
    """What was found, and what to do if it is not ok."""


def machine_checks(folder: Path) -> Iterator[Check]:
    """Yield the checks of this machine; none of them raises.

    Args:
        folder: where runs would be written.
    """
    yield from _torch_on_this_machine()
    disk = _disk(folder)
    yield disk
    if os.access(folder, os.W_OK):
        yield _tried("writing", _write, folder, f"choose a folder on another disk than {folder} with --out")
        yield _tried("locking", _lock, folder, "choose a folder on a local disk with --out")
    yield _tried("workers", _start_worker, folder, "use --workers 1 and see what limits processes here (ulimit -u)")


def _torch_on_this_machine() -> Iterator[Check]:
    try:
        import torch
    except Exception:
        return  # said already
    here, threads = os.cpu_count() or 1, torch.get_num_threads()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else here
    text = f"{usable} of {here} for this process; torch would use {threads} threads, commands use --threads 1"
    yield Check("cores", True, text)
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "none; everything runs on the CPU"
    yield Check("gpu", True, name)


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    if not os.access(folder, os.W_OK):
        return Check("disk", False, f"{folder} is not writable; change to another folder or use --out.")
    if free < LEAST_FREE_BYTES:
        return Check("disk", False, f"only {free / 2**20:.0f} MiB are free in {folder}; runs need about 1 GiB.")
    return Check("disk", True, f"{free / 2**30:.0f} GiB free in {folder}")


def _tried(what: str, act: Callable[[Path], str], folder: Path, remedy: str) -> Check:
    try:
        return Check(what, True, act(folder))
    except Exception as problem:
        return Check(what, False, f"{type(problem).__name__}: {problem}; {remedy}.")


def _write(folder: Path) -> str:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".spnpolicy-doctor-") as name:
        path, content = Path(name) / "file", os.urandom(1 << 20)
        replace_file(path, content)
        if path.read_bytes() != content:
            raise OSError("what was written is not what is read")
    return "a file was written, synced, renamed and read back"


def _lock(folder: Path) -> str:
    import fcntl

    with tempfile.TemporaryDirectory(dir=folder, prefix=".spnpolicy-doctor-") as name:
        path = Path(name) / "lock"
        with path.open("wb") as first, path.open("wb") as second:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(BlockingIOError):
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
                raise OSError("two holders got one lock")
    return "a lock that is held is refused to others"


def _start_worker(folder: Path) -> str:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        if pool.submit(os.getpid).result(_MOST_SECONDS) == os.getpid():
            raise OSError("the worker is this process")
    return "a new process started and answered"
