"""Shared by the tests of the command line."""

import hashlib
import sys
import time
from pathlib import Path

PROGRAM = [sys.executable, "-c", "import sys; from spnpolicy.cli import main; sys.exit(main())"]

SHORT = ["--steps", "400", "--num-envs", "8", "--batch-size", "16", "--warmup-steps", "40", "--updates", "1",
         "--evaluation-episodes", "4", "--algorithm.network.hidden", "8,"]  # fmt: skip
MATRIX = [*SHORT, "--env.game", "climbing"]
"""Flags of a training run of a second in a matrix game."""
TINY = [*SHORT, "--env.size", "3", "--env.agents", "2", "--env.episode_limit", "20"]
"""Flags of a training run of a second in the coverage gridworld."""


def endless() -> list[str]:
    """Return the flags of a run that ends only when it is stopped."""
    return [*TINY[2:], "--steps", "100000000"]


def contents(folder: Path) -> dict[str, str]:
    """Return every file below a folder with a hash of what is in it; folders count as well."""
    found = {}
    for path in sorted(folder.rglob("*")):
        found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    return found


def wait_for(condition, process, seconds=60):
    """Wait until a condition holds while a process goes on."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the program ended too early"
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)
