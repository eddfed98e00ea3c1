"""`spnpolicy doctor`: is the installation sound, and is this machine fit for it?"""

import importlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import spnpolicy
from spnpolicy.algorithms import ALGORITHMS, algorithm_class
from spnpolicy.base.tables import aligned
from spnpolicy.cli.command import Command, add_json
from spnpolicy.cli.options import CommandLine
from spnpolicy.envs import ENVIRONMENTS

EXTRAS = {
    "ray": "ray",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "av": "video",
    "mpe2": "environments",
    "lbforaging": "environments",
}
"""Package -> the extra of spnpolicy that installs it."""
PROBLEM = 2
LEAST_FREE_BYTES = 2**30
_MOST_SECONDS = 60.0


class Check(NamedTuple):
    """One line of the diagnosis."""

    what: str
    is_ok: bool
    text: str
    """What was found, and what to do if it is not ok."""


def run(line: CommandLine) -> int:
    """Print every check and return 2 if one found a problem."""
    checks = list(all_checks())
    if line.options.json:
        is_ok = all(check.is_ok for check in checks)
        print(json.dumps({"is_ok": is_ok, "checks": [check._asdict() for check in checks]}, indent=1))
        return 0 if is_ok else PROBLEM
    print("\n".join(aligned(("OK     " if check.is_ok else "PROBLEM", check.what, check.text) for check in checks)))
    problems = sum(not check.is_ok for check in checks)
    print(f"{problems} problem{'s' if problems != 1 else ''} found." if problems else "Everything is fine.")
    return PROBLEM if problems else 0


def all_checks() -> Iterator[Check]:
    """Yield all checks; none of them raises."""
    yield Check("python", True, f"{platform.python_version()}, {platform.system()} {platform.machine()}")
    yield _circuits()
    yield _machine_code()
    yield from map(_package, ("torch", "numpy", "scipy", "safetensors", "matplotlib", "pillow"))
    yield from (_extra(name, extra) for name, extra in EXTRAS.items())
    yield from _machine(Path.cwd())
    yield from _registries()


def check_circuits(module: ModuleType, installed: Iterable[str]) -> Check:
    """Tell whether `circuits` is ours; PyPI has an unrelated event framework of the same name.

    Args:
        module: what `import circuits` gave.
        installed: names of all installed distributions.
    """
    where = getattr(module, "__file__", None) or "an unknown place"
    ours = Path(spnpolicy.__file__).resolve().parent.parent
    is_beside_us = Path(where).resolve().parent.parent == ours
    if not hasattr(module, "CircuitDistribution") or not is_beside_us:
        problem = f"`import circuits` finds {where}, which is not ours (ours lies in {ours / 'circuits'})"
    elif "circuits" in {name.lower() for name in installed}:
        problem = "the unrelated PyPI package `circuits` is installed as well and may replace ours at any time"
    else:
        return Check("circuits", True, f"ours, in {Path(where).parent}")
    return Check("circuits", False, f"{problem}. Run: pip uninstall circuits, and install spnpolicy again.")


def _circuits() -> Check:
    try:
        module = importlib.import_module("circuits")
    except Exception as problem:
        return Check("circuits", False, f"cannot be imported ({problem}); install spnpolicy again.")
    return check_circuits(module, [distribution.name for distribution in metadata.distributions() if distribution.name])


def _machine_code() -> Check:
    # Imported here, because `circuits` may be someone else's.
    try:
        from circuits.engine import native
    except ImportError:
        return Check("machine code", False, "circuits cannot be imported; see above.")
    if native.is_available():
        return Check("machine code", True, "the likelihood kernels are compiled")
    return Check("machine code", True, "none: no C compiler when installing; all runs through torch, some of it slower")


def _package(name: str) -> Check:
    try:
        importlib.import_module({"pillow": "PIL"}.get(name, name))
        return Check(name, True, metadata.version(name))
    except Exception as problem:
        return Check(name, False, f"cannot be imported ({problem}); install spnpolicy again.")


def _extra(name: str, extra: str) -> Check:
    try:
        return Check(name, True, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Check(name, True, f"not installed (optional); pip install 'spnpolicy[{extra}]'")


def _registries() -> Iterator[Check]:
    from spnpolicy.envs.make import environment_class

    for what, names, load in (
        ("algorithms", list(ALGORITHMS), algorithm_class),
        ("environments", list(ENVIRONMENTS), environment_class),
    ):
        broken: list[str] = []
        for name in names:
            try:
                load(name)
            except Exception as problem:
                broken.append(f"{name} ({type(problem).__name__}: {problem})")
        text = f"cannot be imported: {'; '.join(broken)}" if broken else ", ".join(names)
        yield Check(what, not broken, text)


def _machine(folder: Path) -> Iterator[Check]:
    """Yield the checks of this machine; runs would be written to the folder."""
    yield from _torch_on_this_machine()
    yield _disk(folder)
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
    except ImportError:
        return Check(what, False, "circuits cannot be imported; see above.")
    except Exception as problem:
        return Check(what, False, f"{type(problem).__name__}: {problem}; {remedy}.")


def _write(folder: Path) -> str:
    from circuits.files import replace_file

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


COMMAND = Command(
    "doctor",
    "Check the installation and this machine.",
    "doctor [--json]",
    "Prints OK or PROBLEM per line, with what to do; the exit code is 2 if there is a problem.",
    ("doctor", "doctor --json"),
    add_json,
    run,
)
