"""Whole training runs that are killed, stopped by a signal or left without disk: what is on the disk stays whole."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spnpolicy.training.metrics import read_metrics
from spnpolicy.training.storage.checkpoints import load_checkpoint
from tests.faults.runs.kill_runs import finish, kill_runs, killed_after, start
from tests.faults.runs.run_child import SETTINGS
from tests.spnpolicy.training.run_cases import assert_same_run


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The folder of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    assert finish(start(folder)) == 0
    return folder


@pytest.mark.full
def test_a_killed_run_goes_on_as_if_nothing_had_been(unbroken, tmp_path):
    run = tmp_path / "run"
    for lines in (35, 40):
        told = killed_after(start(run), lines, 0.005)
        saved = load_checkpoint(run / "checkpoints")["progress"]["step_count"]
        assert told - saved <= SETTINGS.checkpoint_every + SETTINGS.num_envs
    # What a torn write leaves behind is removed by the next attempt.
    (run / "checkpoints" / ".writing-checkpoint-00000099-1").mkdir()
    assert finish(start(run)) == 0
    assert not list(run.rglob(".writing*"))
    assert_same_run(unbroken, run)


@pytest.mark.slow
def test_sixty_kills(tmp_path):
    figures = kill_runs(tmp_path, kills=60, seed=1)
    assert (figures.unreadable, figures.different) == (0, 0)
    assert figures.most_lost_steps <= SETTINGS.checkpoint_every + SETTINGS.num_envs


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves(unbroken, tmp_path, number):
    child = start(tmp_path / "run", "--slow", "0.01")
    for _ in range(33):
        child.stdout.readline()
    begin = time.monotonic()
    child.send_signal(number)
    child.communicate(timeout=60)
    print(f"left after {time.monotonic() - begin:.2f} s")
    assert child.returncode == 130
    step = load_checkpoint(tmp_path / "run" / "checkpoints")["progress"]["step_count"]
    # Saved where it stopped, not at the last interval.
    assert step % SETTINGS.checkpoint_every
    assert finish(start(tmp_path / "run")) == 0
    assert_same_run(unbroken, tmp_path / "run")


@pytest.mark.full
def test_a_full_disk_leaves_the_last_checkpoint_whole_and_training_going(unbroken, tmp_path):
    """The replay buffer outgrows the largest file that may be written; everything else still fits."""
    run = tmp_path / "run"
    sizes = {path.name: path.stat().st_size for path in max((unbroken / "checkpoints").glob("check*")).iterdir()}
    limit = int(sizes["replay.safetensors"] * 0.3)
    assert limit > 2 * max(size for name, size in sizes.items() if name != "replay.safetensors")
    child = start(run, "--file-limit", str(limit))
    output, errors = child.communicate(timeout=120)
    assert child.returncode == 4
    # One warning with path and free space for each checkpoint in trouble, and three of those end the run.
    assert errors.count("Training goes on") == 3
    assert "checkpoints in a row could not be written" in errors
    assert "bytes are free" in errors
    steps = [int(line.split()[1]) for line in output.splitlines()]
    saved = load_checkpoint(run / "checkpoints")["progress"]["step_count"]
    assert 0 < saved < max(steps)
    assert max(steps) >= saved + 3 * SETTINGS.checkpoint_every
    assert not list(run.rglob(".writing*"))
    # With space again it goes on and ends like the run that was never disturbed.
    assert finish(start(run)) == 0
    assert_same_run(unbroken, run)


def test_metrics_that_the_disk_refuses_are_written_later(tmp_path):
    """The metrics file itself hits the limit: its lines wait in memory, and no line is torn or written twice."""
    program = (
        "import resource, logging\n"
        "from pathlib import Path\n"
        "from spnpolicy.training.storage.append import AppendOnlyFile\n"
        "from spnpolicy.training.metrics import record_line\n"
        "file = AppendOnlyFile(Path('metrics.jsonl'))\n"
        "hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))\n"
        "for step in range(20):\n"
        "    file.write(record_line({'step': step}))\n"
        "kept = file.state_dict()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))\n"
        "again = AppendOnlyFile(Path('metrics.jsonl'))\n"
        "again.load_state_dict(kept)\n"
        "again.write(record_line({'step': 20}))\n"
        "again.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("cannot write metrics.jsonl") == 1
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    assert [record["step"] for record in metrics.records] == list(range(21))
    assert metrics.torn_lines == 0


@pytest.mark.full
def test_every_attempt_is_on_record(tmp_path):
    run = tmp_path / "run"
    killed_after(start(run), 70, 0.0)
    assert finish(start(run)) == 0
    attempts = json.loads((Path(run) / "run.json").read_text())["attempts"]
    assert attempts[0]["from_step"] == 0
    assert attempts[1]["from_step"] in (240, 480)
    assert attempts[0]["commit"] == attempts[1]["commit"]
