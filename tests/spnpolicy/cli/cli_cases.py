"""Shared by the tests of the command line."""

import hashlib
from pathlib import Path

TINY = ["--steps", "400", "--num-envs", "8", "--batch-size", "16", "--warmup-steps", "40", "--updates", "1",
        "--evaluation-episodes", "4", "--algorithm.hidden", "8,", "--env.size", "3", "--env.agents", "2",
        "--env.episode_limit", "20"]  # fmt: skip
"""Flags of a training run of a second."""


def contents(folder: Path) -> dict[str, str]:
    """Return every file below a folder with a hash of what is in it; folders count as well."""
    found = {}
    for path in sorted(folder.rglob("*")):
        found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    return found
