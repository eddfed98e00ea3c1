"""Compiling with torch; see tests/compiled.py for the checks themselves."""

import subprocess
import sys

import pytest

from tests import compiled


@pytest.mark.slow
def test_torch_compile_and_vmap() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.compiled"], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["log_prob", *compiled.QUERIES, "vmap"]
