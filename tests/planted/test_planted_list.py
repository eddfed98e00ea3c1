"""The list of planted bugs fits the source: a bug that cannot be planted any more would prove nothing, silently."""

import ast
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tests.planted import plant
from tests.planted.bug import Bug
from tests.planted.planted_bugs import BUGS

ROOT = Path(__file__).resolve().parents[2]
PARAMETERS = [pytest.param(bug, id=bug.name) for bug in BUGS]


@cache
def functions_of(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)}


def test_there_are_enough_bugs_with_names_of_their_own():
    assert len(BUGS) >= 40
    assert [name for name, count in Counter(bug.name for bug in BUGS).items() if count > 1] == []
    planted_in = Counter(bug.file.partition("/")[0] for bug in BUGS)
    assert min(planted_in[package] for package in plant.PACKAGES) >= 10


@pytest.mark.parametrize("bug", PARAMETERS)
def test_a_bug_can_be_planted_in_one_place_and_is_still_python(bug: Bug):
    source = (ROOT / bug.file).read_text("utf-8")
    assert source.count(bug.old) == 1, f"{bug.file} has changed: write {bug.name!r} for what stands there now"
    assert bug.new != bug.old
    ast.parse(source.replace(bug.old, bug.new))


@pytest.mark.parametrize("bug", PARAMETERS)
def test_its_tests_exist(bug: Bug):
    assert bug.tests
    for test in bug.tests:
        path, _, function = test.partition("[")[0].partition("::")
        assert path.startswith("tests/")
        assert (ROOT / path).is_file(), f"{path} is gone"
        assert not function or function in functions_of(ROOT / path), f"{test} is gone"


@cache
def long_functions_of(path: Path) -> set[str]:
    functions = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)]
    marks = {"pytest.mark.slow", "pytest.mark.full"}
    return {node.name for node in functions if marks & {ast.unparse(mark) for mark in node.decorator_list}}


@pytest.mark.parametrize("bug", PARAMETERS)
def test_its_tests_run_every_time(bug: Bug):
    for test in bug.tests:
        path, _, function = test.partition("[")[0].partition("::")
        assert not function or function not in long_functions_of(ROOT / path), f"{test} is not in `make test`"


@pytest.mark.parametrize(
    ("code", "output", "verdict"),
    [
        (0, "3 passed in 1.00s", plant.MISSED),
        (1, "FAILED tests/a.py::test_b[x y] - AssertionError: no\n1 failed in 1.00s", plant.CAUGHT),
        (1, "FAILED tests/a.py::test_b - assert 1 == 2\n1 failed in 1.00s", plant.CAUGHT),
        (1, "FAILED tests/a.py::test_b - NameError: name 'x' is not defined\n1 failed", plant.INVALID),
        (1, "ERROR tests/a.py::test_b - ValueError: in a fixture\n1 error", plant.INVALID),
        (2, "ERROR tests/a.py - ImportError: no\n1 error in 1.00s", plant.INVALID),
        (4, "ERROR: not found: tests/a.py::test_c", plant.INVALID),
        (None, "", plant.INVALID),
    ],
)
def test_only_a_test_that_fails_by_itself_catches_a_bug(code: int | None, output: str, verdict: str):
    assert plant.judge(plant.Run(code, output, 1.0))[0] == verdict


def test_a_bug_is_there_for_the_block_only_and_compiled_files_notice(tmp_path: Path):
    path = tmp_path / "sum.py"
    path.write_text("def add(a, b):\n    return a + b\n")
    before = path.read_text(), path.stat().st_mtime_ns // 10**9
    with plant.planted(tmp_path, Bug("minus", "sum.py", "a + b", "a - b", ()), 3):
        assert path.read_text() == "def add(a, b):\n    return a - b\n"
        assert path.stat().st_mtime_ns // 10**9 == before[1] + 3
    assert (path.read_text(), path.stat().st_mtime_ns // 10**9) == before
    with (
        pytest.raises(ValueError, match="occurs 0 times"),
        plant.planted(tmp_path, Bug("no", "sum.py", "c", "d", ()), 1),
    ):
        pass
