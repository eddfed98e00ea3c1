"""The engine Ray; slow, because Ray takes seconds to start, and only with the extra `spnpolicy[ray]`."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from kill_sweep import TRAIN
from sweep_faults import PROGRAM, descendants, differences, finished_count, is_alive, wait_until, workers_at_work

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def ray_is_installed():
    """Say how to get Ray where it is missing, instead of passing without it."""
    try:
        import ray  # noqa: F401
    except ImportError:
        pytest.fail("these tests need Ray: pip install 'spnpolicy[ray]', as `make test-slow` does")


def write_sweep(folder, **train):
    path = folder / "plan.json"
    content = {
        "algorithms": {"vdn": {"network": {"hidden": [8]}}, "spn_ac": {"network": {"hidden": [8]}}},
        "environments": {"small": {"env": "coverage", "size": 3, "agents": 2, "episode_limit": 15}},
        "seeds": 2,
        "train": TRAIN | train,
    }
    path.write_text(json.dumps(content))
    return path


def run_sweep(path, folder, *words):
    return subprocess.run([*PROGRAM, "sweep", str(path), "--out", str(folder), *words], check=False).returncode


def test_both_engines_give_the_same_bits(tmp_path):
    path = write_sweep(tmp_path, steps=400)
    assert run_sweep(path, tmp_path / "local") == 0
    assert run_sweep(path, tmp_path / "ray", "--engine", "ray", "--workers", "2") == 0
    assert differences(tmp_path / "local", tmp_path / "ray") == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ray_listens_to_this_machine_only_and_leaves_nothing_behind(tmp_path, number):
    path, folder = write_sweep(tmp_path, steps=100_000_000), tmp_path / "out"
    command = [*PROGRAM, "sweep", str(path), "--out", str(folder), "--engine", "ray", "--workers", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as driver:
        wait_until(lambda: len(workers_at_work(folder)) == 2, "two workers")
        family = [driver.pid, *descendants(driver.pid)]
        addresses = {address for pid in family for address in listening_addresses(pid)}
        if number == signal.SIGINT:
            # The terminal sends Ctrl-C to everybody in the foreground.
            os.killpg(driver.pid, number)
        else:
            driver.send_signal(number)
        _, errors = driver.communicate(timeout=120)
    assert driver.returncode == 130
    assert "Traceback" not in errors
    assert "SIGTERM received" not in errors
    assert addresses
    assert addresses <= {"127.0.0.1", "::1"}
    wait_until(lambda: not any(map(is_alive, family)), "Ray to leave")
    assert finished_count(folder) == 0
    for name in ("vdn-seed0", "spn_ac-seed0"):
        record = json.loads((folder / "attempts" / f"{name}.jsonl").read_text().splitlines()[-1])
        assert record["end"] == "stopped"
        assert (folder / "trials" / name / "checkpoints" / "latest").is_file()


def test_a_killed_driver_takes_its_ray_along(tmp_path):
    path, folder = write_sweep(tmp_path, steps=100_000_000), tmp_path / "out"
    command = [*PROGRAM, "sweep", str(path), "--out", str(folder), "--engine", "ray", "--workers", "2"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as driver:
        wait_until(lambda: len(workers_at_work(folder)) == 2, "two workers")
        family = descendants(driver.pid)
        driver.kill()
    # At least the two workers beside Ray's own processes: an empty family would have left already.
    assert len(family) > 2
    wait_until(lambda: not any(map(is_alive, family)), "Ray to leave")


def listening_addresses(pid):
    """Return the addresses on which a process waits for connections."""
    sockets = set()
    try:
        for path in Path(f"/proc/{pid}/fd").iterdir():
            sockets.add(os.readlink(path).removeprefix("socket:[").removesuffix("]"))
    except OSError:
        return []
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in sockets:
                found.append(readable(words[1].partition(":")[0]))
    return found


def readable(text):
    """Return an address of /proc/net as people write it; one of IPv4 within IPv6 as that of IPv4."""
    parts = [bytes.fromhex(text[start : start + 8])[::-1] for start in range(0, len(text), 8)]
    raw = b"".join(parts)
    if len(raw) == 16 and raw[:12] == b"\0" * 10 + b"\xff\xff":
        raw = raw[12:]
    if len(raw) == 4:
        return ".".join(map(str, raw))
    return "::1" if raw == b"\0" * 15 + b"\1" else raw.hex()
