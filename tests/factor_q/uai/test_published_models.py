"""The models in benchmarks/uai_models: partition function and best assignment against other programs' answers."""

import csv
import gc
import hashlib
from functools import lru_cache

import pytest
import torch

from benchmarks.elbo.ising import ising_grid
from factor_q import Factors, log_partition, max_assignment
from factor_q.queries.condition import condition
from factor_q.uai.evidence import read_uai_evidence
from factor_q.uai.models import read_uai
from tests.factor_q import solve_with_toulbar2 as by_hand

FOLDER = by_hand.MODELS
NORMAL, MOST = 16.0, 26.0
"""log2 of the largest table: up to the first in the normal suite, up to the second at all."""


def rows_of(name: str) -> dict[str, dict[str, str]]:
    with open(FOLDER / name, newline="") as file:
        prefix = name.rpartition("/")[0]
        return {f"{prefix}/{row['file']}".strip("/"): row for row in csv.DictReader(file)}


INDEX = {**rows_of("index.csv"), **rows_of("own/index.csv")}
BEST = rows_of("map_toulbar2.csv")


def log2_largest(row: dict[str, str]) -> float:
    """Own models list the width only; all of the wide ones are binary."""
    return float(row.get("log2_largest_cluster") or int(row["induced_width"]) + 1)


def split(names: list[str]) -> list:
    """Parameters of a test: the wide models are slow."""
    sizes = {name: log2_largest(INDEX[name]) for name in names}
    marks = {name: [pytest.mark.slow] if size > NORMAL else [] for name, size in sizes.items() if size <= MOST}
    return [pytest.param(name, marks=mark, id=name) for name, mark in marks.items()]


@lru_cache(maxsize=1)
def model(name: str) -> Factors:
    """The model given its evidence."""
    factors = read_uai(FOLDER / name)
    path = FOLDER / f"{name}.evid"
    return condition(factors, read_uai_evidence(path, factors.cardinalities)) if path.exists() else factors


@pytest.mark.one_in(12)
@pytest.mark.parametrize("name", split([name for name, row in INDEX.items() if row["logZ_natural"]]))
def test_log_partition_is_that_of_the_index(name: str) -> None:
    expected = float(INDEX[name]["logZ_natural"])
    assert log_partition(model(name), max_entries=2**28).item() == pytest.approx(expected, rel=1e-8, abs=1e-8)
    gc.collect()


@pytest.mark.one_in(12)
@pytest.mark.parametrize("name", split(list(BEST)))
def test_the_best_assignment_is_as_good_as_that_of_toulbar2(name: str) -> None:
    row, f = BEST[name], model(name)
    # Rounding in float64 sums of thousands of terms comes on top of the solver's own tolerance.
    tolerance = float(row["tolerance"]) + 1e-12 * f.graph.num_factors
    value, assignment = max_assignment(f, max_entries=2**28)
    assert -1e-9 <= value.item() - float(row["map_value"]) <= tolerance + 1e-9
    assert f(assignment).item() == pytest.approx(value.item(), abs=1e-9)
    gc.collect()


@pytest.mark.one_in(4)
@pytest.mark.parametrize("name", list(BEST))
def test_the_stored_assignment_has_the_stored_value(name: str) -> None:
    row, f = BEST[name], model(name)
    assignment = [int(word) for word in row["assignment"].split()]
    assert f(torch.tensor(assignment)).item() == pytest.approx(float(row["map_value"]), abs=1e-9)
    cards, factors = by_hand.read_model(FOLDER / name)
    assert by_hand.value_of(cards, factors, assignment) == float(row["map_value"])
    evidence = by_hand.read_evidence(FOLDER / f"{name}.evid")
    assert all(assignment[variable] == value for variable, value in evidence.items())


def test_the_tables_list_every_model() -> None:
    assert len(INDEX) == 59
    assert set(INDEX) == {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.uai")}
    assert len(BEST) >= 30
    assert sum(log2_largest(INDEX[name]) <= NORMAL for name in BEST) >= 30


@pytest.mark.parametrize("name", list(INDEX))
def test_the_index_describes_the_files(name: str) -> None:
    row, path = INDEX[name], FOLDER / name
    cards, factors = by_hand.read_model(path)
    found = [len(cards), max(cards), len(factors), max(len(scope) for scope, _ in factors)]
    assert found == [int(row[key]) for key in ("n_vars", "max_states", "n_factors", "max_arity")]
    if "sha256_16" in row:
        assert hashlib.sha256(path.read_bytes()).hexdigest()[:16] == row["sha256_16"]
        evidence = by_hand.read_evidence(path.with_name(path.name + ".evid"))
        assert len(cards) - len(evidence) == int(row["n_free_after_evidence"])


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("side", "strength", "log_z"),
    [(4, 1.0, 14.287), (4, 2.0, 21.574), (8, 1.0, 60.914), (10, 2.0, 152.387), (16, 1.0, 249.244)],
)
def test_ising_grids_are_the_published_ones(side: int, strength: float, log_z: float) -> None:
    f = ising_grid(side, side, strength)
    assert f.graph.num_factors == 2 * side * (side - 1)
    assert log_partition(f).item() == pytest.approx(log_z, abs=5e-4)


def test_ising_grids_by_hand() -> None:
    f = ising_grid(2, 3, 2.0, seed=7, mode="ferromagnetic")
    assert f.scopes == ((0, 1), (0, 3), (1, 2), (1, 4), (2, 5), (3, 4), (4, 5))
    up = f(torch.ones(6, dtype=torch.long)).item()
    assert up == f(torch.zeros(6, dtype=torch.long)).item() == f.max()[0].item()
    assert all(0 < table[0, 0].item() < 2 and table[0, 1] == -table[0, 0] for _, table in f)
    mixed = ising_grid(2, 3, 2.0, seed=7)
    assert any(table[0, 0] < 0 for _, table in mixed)
    # Both couplings come from the same uniform numbers: w = s (2 r - 1) and w = s r.
    torch.testing.assert_close(mixed.flat[::4], 2 * f.flat[::4] - 2.0)
    assert ising_grid(1, 1, 1.0).graph.num_factors == 0
