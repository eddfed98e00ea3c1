"""Hostile checkpoints are refused without a side effect, and the watch over the reader sees what it looks for."""

import os
import subprocess
import sys
from pathlib import Path

import bad_readers
import build_attacks

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-m", "tests.attacks.refuse_attacks", "--most-seconds", "10"]


def run(command):
    return subprocess.run(
        command, capture_output=True, text=True, timeout=280, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def test_every_attack_is_refused_by_name_and_without_side_effects(tmp_path):
    # Built here and read by another process, which takes no memory for building.
    build_attacks.build_all(tmp_path)
    done = run([*PROGRAM, "--attacks", str(tmp_path)])
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    count = len(build_attacks.ATTACKS)
    assert count >= 24
    assert f"{count} of {count} attacks refused without side effects" in done.stdout


def test_the_watch_catches_readers_that_misbehave(tmp_path):
    for name in ("attack", "harmless"):
        build_attacks.build_root(tmp_path / name / "checkpoints")
    done = run([sys.executable, "-m", "tests.attacks.bad_readers", str(tmp_path)])
    assert done.returncode == 0, done.stderr
    problems = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert set(problems) == set(bad_readers.READERS)
    assert problems.pop("good") == ""
    assert [name for name, problem in problems.items() if not problem] == []
    for name in ("process", "fork", "connection", "written", "made", "removed", "unpickled", "executed", "foreign"):
        assert problems[name].startswith("side effects: "), name


def test_every_attack_is_explained():
    text = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
    missing = [name for name in build_attacks.ATTACKS if f"`{name}`" not in text and "protocol-" not in name]
    assert not missing
