"""README and examples do what they say: every block of code runs, in order, as a reader would type it."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
# The two commands of the front page set up an environment and run for minutes; this very suite is one of them.
RUN_ELSEWHERE = ("make coverage", "make test", "git clone", "cd spnpolicy")


def environment(tmp_path):
    return os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}


def test_readme_has_only_blocks_that_this_file_runs():
    assert {language for language, _ in BLOCKS} == {"python", "sh", "text"}


def test_python_blocks_run_one_after_the_other(tmp_path):
    """Blocks share names, as in one long session; asserts in them are checked."""
    program = "\n".join(code for language, code in BLOCKS if language == "python")
    assert program.count("assert ") >= 5
    script = tmp_path / "readme.py"
    script.write_text(program)
    done = subprocess.run(
        [sys.executable, "-W", "error", script],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_shell_blocks_run_one_after_the_other(tmp_path):
    lines = [line for language, code in BLOCKS if language == "sh" for line in code.splitlines() if line.strip()]
    commands = [line.split("  #")[0].strip() for line in lines if not line.startswith(RUN_ELSEWHERE)]
    assert len(commands) >= 4
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")  # a reader stands in the root of the project
    for command in commands:
        words = shlex.split(command)
        if words[0] == "python":
            words = [sys.executable, str(ROOT / words[1]), *words[2:]]
        else:
            assert words[0] == "spnpolicy", command
            words = [sys.executable, "-m", "spnpolicy", *words[1:]]
        done = subprocess.run(
            words, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"


def test_pictures_and_files_that_the_readme_names_exist():
    named = re.findall(r"\]\(([^)#]+)\)", README) + re.findall(r'src="([^"]+)"', README)
    local = [path for path in named if not path.startswith("http")]
    assert len(local) >= 3
    missing = [path for path in local if not (ROOT / path).exists()]
    assert not missing


@pytest.mark.parametrize("example", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_every_example_runs(example, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "examples" / example],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) >= 5
    assert 30 <= len((ROOT / "examples" / example).read_text().splitlines()) <= 70
    assert not list(tmp_path.iterdir())
