"""Adding a structure touches three places: its file, the registry, and one contract row. Here it is done in a copy."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

NEW_FILE = '''"""Teams: consecutive variables decide together, by one table per team; the teams are independent."""

from collections.abc import Sequence
from itertools import product as assignments

from circuits.circuit import Circuit, CircuitBuilder
from circuits.errors import StructureError


def teams(cardinalities: Sequence[int], *, size: int = 2) -> Circuit:
    """Return independent tables over each `size` consecutive variables.

    Args:
        cardinalities: number of values of each variable.
        size: variables per team, at least 1; the last team may be smaller. 1 is mean field.

    Returns:
        A deterministic circuit with sum over teams of the product of the team's cardinalities parameters.

    Raises:
        StructureError: size below 1.
    """
    if size < 1:
        raise StructureError(f"teams size is {size}; it must be at least 1.")
    builder = CircuitBuilder(cardinalities, name=f"teams(size={size})")
    cards = builder.cardinalities
    tables = []
    for start in range(0, len(cards), size):
        team = range(start, min(start + size, len(cards)))
        rows = assignments(*(range(cards[variable]) for variable in team))
        indicators = ([builder.input(v, [x]) for v, x in zip(team, row, strict=True)] for row in rows)
        tables.append(builder.sum(*(builder.product(*row) for row in indicators)))
    return builder.build(builder.product(*tables))
'''

IMPORT = "from circuits.structures.teams import teams\n"
REGISTRY_LINE = '    "teams": teams,\n'
ROW = '    Structure("teams", ({}, {"size": 1}, {"size": 3}), _teams_size),\n'
SIZE = """def _teams_size(cards: Cards, size: int = 2) -> int:
    tables = [prod(cards[start : start + size]) for start in range(0, len(cards), size)]
    return sum(tables)


"""

PLACES = {
    "circuits/structures/__init__.py": [
        ("from circuits.structures.tree import", IMPORT),
        ('    "mean_field": mean_field,', REGISTRY_LINE),
    ],
    "tests/contracts.py": [("STRUCTURE_ROWS = (", SIZE), ('    Structure("mean_field"', ROW)],
}
"""Where each line goes: in front of this text."""


def copy_with_teams(folder: Path, *, row: str = ROW) -> Path:
    """Copy the package and its tests, and add the structure as a contributor would."""
    unwanted = shutil.ignore_patterns("__pycache__", "results")
    for name in ("circuits", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=unwanted)
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "circuits/structures/teams.py").write_text(NEW_FILE)
    for name, lines in PLACES.items():
        text = (folder / name).read_text()
        for place, line in lines:
            assert text.count(place) == 1, f"{place!r} is there {text.count(place)} times in {name}"
            text = text.replace(place, (row if line is ROW else line) + place)
        (folder / name).write_text(text)
    return folder


GENERIC = ("structures/test_structures.py", "test_exactness_families.py")


def generic_tests(folder: Path, *files: str) -> tuple[int, str]:
    """Run what is asked of every structure, as far as it concerns the new one, in a new process."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
    command += ["-k", "teams or keeps_its_promises or has_a_row or among_the_builders"]
    run = subprocess.run(
        [*command, *(f"tests/circuits/{name}" for name in files)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    return run.returncode, run.stdout + run.stderr


@pytest.mark.full
def test_three_places_are_enough(tmp_path: Path) -> None:
    code, output = generic_tests(copy_with_teams(tmp_path), *GENERIC)
    assert code == 0, output
    assert " passed" in output
    assert "failed" not in output


@pytest.mark.full
@pytest.mark.parametrize(
    ("row", "name"),
    [
        pytest.param(
            ROW.replace(old, new), "test_a_structure_keeps_its_promises", id=f"wrong {what}", marks=pytest.mark.slow
        )
        for what, old, new in (
            ("size", "_teams_size", "lambda cards, size=2: sum(cards)"),
            ("property", "_teams_size)", "_teams_size, is_deterministic=False)"),
        )
    ]
    + [pytest.param("", "test_every_structure_has_a_row", id="no row")],
)
def test_a_wrong_or_missing_row_fails(tmp_path: Path, row: str, name: str) -> None:
    code, output = generic_tests(copy_with_teams(tmp_path, row=row), GENERIC[0])
    assert code == 1, output
    assert f"FAILED tests/circuits/structures/test_structures.py::{name}" in output
