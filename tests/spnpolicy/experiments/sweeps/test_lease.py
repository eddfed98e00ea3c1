"""Leases: one process at a time, whoever died before."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from spnpolicy.experiments.sweeps.lease import SECONDS_TO_STALE, LeaseError, ask_all_to_stop, hold, read_lease

HOLD = """
import sys, time
from pathlib import Path
from spnpolicy.experiments.sweeps.lease import hold
with hold(Path(sys.argv[1]), "vdn-seed0"):
    print("held", flush=True)
    time.sleep(600)
"""


def write_lease(folder, *, machine, age):
    (folder / "leases").mkdir()
    facts = {"owner": "x", "host": "far", "machine": machine, "pid": 1, "time": time.time() - age}
    (folder / "leases" / "vdn-seed0.json").write_text(json.dumps(facts))


def test_one_holder_at_a_time(tmp_path):
    with hold(tmp_path, "vdn-seed0"):
        lease = read_lease(tmp_path, "vdn-seed0")
        assert lease is not None
        assert lease.pid == os.getpid()
        with pytest.raises(LeaseError, match=f"process {os.getpid()} on .* is at work on vdn-seed0"):
            hold(tmp_path, "vdn-seed0").__enter__()
        with hold(tmp_path, "vdn-seed1"):
            pass
    assert read_lease(tmp_path, "vdn-seed0") is None
    assert list((tmp_path / "leases").iterdir()) == []
    with hold(tmp_path, "vdn-seed0"):
        pass


def test_patience_waits_for_the_other_one(tmp_path):
    held, free = threading.Event(), threading.Event()

    def other():
        with hold(tmp_path, "vdn-seed0"):
            held.set()
            free.wait()

    thread = threading.Thread(target=other)
    thread.start()
    held.wait()
    threading.Timer(0.5, free.set).start()
    with hold(tmp_path, "vdn-seed0", patience=60.0):
        assert free.is_set()
    thread.join()


def test_a_killed_holder_of_this_machine_holds_nothing(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(LeaseError, match=f"process {other.pid}"):
            hold(tmp_path, "vdn-seed0").__enter__()
        other.kill()
    assert read_lease(tmp_path, "vdn-seed0").pid == other.pid
    with hold(tmp_path, "vdn-seed0"):
        assert read_lease(tmp_path, "vdn-seed0").pid == os.getpid()


def test_another_machine_counts_as_long_as_it_shows_life(tmp_path):
    write_lease(tmp_path, machine="another", age=SECONDS_TO_STALE / 2)
    with pytest.raises(LeaseError, match="process 1 on far"):
        hold(tmp_path, "vdn-seed0").__enter__()


def test_another_machine_that_went_silent_is_overruled(tmp_path):
    write_lease(tmp_path, machine="another", age=SECONDS_TO_STALE + 1)
    with hold(tmp_path, "vdn-seed0"):
        assert read_lease(tmp_path, "vdn-seed0").pid == os.getpid()


def test_a_damaged_lease_counts_for_nothing(tmp_path):
    (tmp_path / "leases").mkdir()
    (tmp_path / "leases" / "vdn-seed0.json").write_text("{")
    assert read_lease(tmp_path, "vdn-seed0") is None
    with hold(tmp_path, "vdn-seed0"):
        pass


def test_progress_and_stop_travel_through_the_folder(tmp_path):
    with hold(tmp_path, "vdn-seed0") as holder:
        holder.tell(step=7, seconds=1.5, evaluation={"success": 0.5})
        wait_until(lambda: read_lease(tmp_path, "vdn-seed0").step == 7)
        assert read_lease(tmp_path, "vdn-seed0").evaluation == {"success": 0.5}
        assert not holder.stop_requested
        ask_all_to_stop(tmp_path, wanted=True)
        wait_until(lambda: holder.stop_requested)
        ask_all_to_stop(tmp_path, wanted=False)
        wait_until(lambda: not holder.stop_requested)


def test_a_holder_notices_that_it_was_overruled(tmp_path):
    """As after a long sleep of its machine; whoever has the lease now keeps it."""
    with hold(tmp_path, "vdn-seed0") as holder:
        path = tmp_path / "leases" / "vdn-seed0.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"owner": "another", "machine": "another"}))
        holder.tell(step=1)
        wait_until(lambda: holder.is_lost)
    assert read_lease(tmp_path, "vdn-seed0").owner == "another"


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)
