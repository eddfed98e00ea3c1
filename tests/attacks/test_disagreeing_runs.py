"""Every door to a run answers as if nothing had happened, or refuses it by the name of a file that does not fit."""

import shutil
from pathlib import Path

import pytest

from tests.attacks import disagreeing_runs
from tests.attacks.disagreeing_runs import AFTER_THE_END, DAMAGES, DOORS, problem_of

CASES = [("finished", name) for name in DAMAGES]
CASES += [("interrupted", name) for name in DAMAGES if name not in AFTER_THE_END]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with three runs, and what every door answers for the first two."""
    folder = tmp_path_factory.mktemp("runs")
    disagreeing_runs.build(folder)
    # Elsewhere, and under the same name: to go on with a run changes it, and answers name its folder.
    place = folder / "damaged"
    answers = {}
    for name in ("finished", "interrupted"):
        for door, read in DOORS.items():
            shutil.copytree(folder / name, place)
            answers[name, door] = read(place)
            shutil.rmtree(place)
    return folder, place, answers


@pytest.mark.one_in(4)
@pytest.mark.parametrize(("name", "damage"), CASES)
def test_no_door_believes_files_that_disagree(runs, name, damage):
    folder, place, answers = runs
    problems = {}
    for door in DOORS:
        shutil.copytree(folder / name, place)
        DAMAGES[damage](place, folder / "other")
        problems[door] = problem_of(door, place, answers[name, door])
        shutil.rmtree(place)
    assert not {door: problem for door, problem in problems.items() if problem}


def test_every_damage_is_explained():
    text = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
    assert not [name for name in DAMAGES if f"`{name}`" not in text]
