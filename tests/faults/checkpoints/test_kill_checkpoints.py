"""The program that kills writers, with fewer kills."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


# A process of its own: the program forks, which the threads of a test runner do not survive.
@pytest.mark.full
@pytest.mark.parametrize("kills", [16, pytest.param(200, marks=pytest.mark.slow)])
def test_kill_minus_nine_leaves_readable_checkpoints(kills, tmp_path):
    command = [sys.executable, "-m", "tests.faults.checkpoints.kill_checkpoints", "--kills", str(kills)]
    done = subprocess.run(
        [*command, "--root", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=280 if kills < 100 else 3000,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    in_write = re.search(r"(\d+) inside the write of a checkpoint, (\d+) inside the write of the best", done.stdout)
    assert in_write is not None, done.stdout
    # Most land in a write; if none did, nothing was tried.
    assert sum(map(int, in_write.groups())) >= kills // 4, done.stdout
