"""Shared by the tests of sweeps under faults: who is at work, how to hurt them, and whether two sweeps agree."""

import contextlib
import hashlib
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

from spnpolicy.experiments.sweeps.attempts import attempt
from spnpolicy.experiments.sweeps.lease import read_lease
from spnpolicy.experiments.sweeps.plan import read_plan, trial_folder
from spnpolicy.experiments.sweeps.trials import EVALUATION_FILE, is_finished
from spnpolicy.training.metrics import TIME_FIELDS, read_metrics
from spnpolicy.training.storage.checkpoints import load_checkpoint

PROGRAM = [sys.executable, "-c", "import sys; from spnpolicy.cli import main; sys.exit(main())"]
SMALL_DISK = 4096
"""Bytes per file that a process with a full disk may still write."""


class InlineEngine:
    """Does every try at once in this process: no faults, and no time for new processes."""

    workers = 1

    def __init__(self):
        self._waiting = []

    def submit(self, plan, trial, folder):
        """Remember a try."""
        self._waiting.append((plan, trial, folder))

    def collect(self, seconds):
        """Do what was submitted."""
        tries, self._waiting = self._waiting, []
        return {trial.name: attempt(plan, trial, folder) for plan, trial, folder in tries}

    def stop(self, folder):
        """Nothing is under way between two calls."""
        return {}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


def workers_at_work(folder):
    """Return the process of each trial that is being worked on right now."""
    found = {}
    for path in (folder / "leases").glob("*.json"):
        lease = read_lease(folder, path.stem)
        if lease is not None and is_alive(lease.pid):
            found[path.stem] = lease.pid
    return found


def finished_count(folder):
    """Return how many trials of a folder have their final evaluation."""
    return sum((path / EVALUATION_FILE).exists() for path in (folder / "trials").glob("*"))


def wait_until(condition, what, seconds=300):
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.02)
    return result


def kill(pid):
    """Kill a process as the system does when memory runs out; return whether it was there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def fill_disk(pid, limit=SMALL_DISK):
    """Let every larger write of a process fail from now on; return whether the process was there."""
    try:
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, hard))
    except ProcessLookupError:
        return False
    return True


def free_disk(pid):
    """Take `fill_disk` back."""
    return fill_disk(pid, resource.RLIM_INFINITY)


def descendants(pid):
    """Return the processes that a process started, and those that they started."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        if parent == pid:
            found += [int(path.name), *descendants(int(path.name))]
    return found


def is_alive(pid):
    """Return whether a process runs; one that has ended and that nobody has collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def differences(calm, disturbed):
    """Return in which trials and files two folders of the same plan differ, apart from times."""
    found = []
    for trial in read_plan(calm).trials:
        first, second = trial_folder(calm, trial), trial_folder(disturbed, trial)
        if not is_finished(trial, disturbed):
            found.append(f"{trial.name}: not finished")
            continue
        for name in (EVALUATION_FILE, "episodes.csv"):
            if (first / name).read_bytes() != (second / name).read_bytes():
                found.append(f"{trial.name}: {name}")
        if metrics(first) != metrics(second):
            found.append(f"{trial.name}: metrics.jsonl")
        if final_checkpoint(first) != final_checkpoint(second):
            found.append(f"{trial.name}: checkpoint")
    return found


def metrics(run):
    """Return the records of a run without its times."""
    records = read_metrics(run / "metrics.jsonl").records
    return repr([{key: value for key, value in record.items() if key not in TIME_FIELDS} for record in records])


def final_checkpoint(run):
    """Return the SHA-256 of each file of the last checkpoint."""
    root = run / "checkpoints"
    load_checkpoint(root)
    folder = root / (root / "latest").read_text().split()[0]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def read_attempts(folder, trial):
    """Return what is known of the tries of a trial, oldest first; a line that was torn by a crash is left out."""
    records = []
    with contextlib.suppress(FileNotFoundError):
        for line in (folder / "attempts" / f"{trial}.jsonl").read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                records.append(json.loads(line))
    return records


def ends(folder, trial):
    """Return how the tries of a trial ended; a killed one has no end."""
    return [record["end"] for record in read_attempts(folder, trial) if "end" in record]
