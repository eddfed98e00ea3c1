"""The benchmark of lower bounds: its models, what it keeps, what it concludes; every method against enumeration."""

import importlib
import itertools
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from circuits import structures
from circuits.errors import NotTractableError
from factor_q import FactorGraph, Factors

FOLDER = Path(__file__).parent.parent / "benchmarks"
LOWER = (
    "clique_tree",
    "fit_structure 2",
    "keep_set 2",
    "published",
    "published, annealed",
    "mean_field",
    "structured_mean_field",
)


def load(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.elbo.{name}")


def row(model: str, method: str, value: float | None, *, log_z: float | None = 10.0, **changes):
    kinds = {"loopy_bp": "estimate", "tree_reweighted": "upper", "mini_bucket": "upper", "elimination": "exact"}
    group = "ising" if model.startswith("ising") else "uai"
    fields = {"kind": kinds.get(method, "lower"), "budget": 1.0, "seed": 0, "value": value, "most_parameters": 100}
    if method.startswith(("keep_set", "fit_structure", "published")):
        fields["parameters"] = 90
    return load("results").Row(group, model, 4, 3, log_z, method, **{**fields, **changes})


def small_model(seed: int, *, forbidden: bool = False) -> tuple[Factors, float]:
    """Pairs and a loop over five variables of 2 or 3 values; log Z by enumeration in numpy."""
    rng = np.random.default_rng(seed)
    cards, scopes = (2, 3, 2, 2, 3), [(0, 1), (1, 2), (2, 3), (3, 4), (0, 4), (2,)]
    tables = [rng.normal(size=[cards[v] for v in scope]) for scope in scopes]
    if forbidden:
        tables[0][0, 0] = tables[2][1, 1] = -np.inf
    points = itertools.product(*(range(k) for k in cards))
    sums = [sum(t[tuple(u[v] for v in s)] for s, t in zip(scopes, tables, strict=True)) for u in points]
    log_z = max(sums) + math.log(math.fsum(math.exp(value - max(sums)) for value in sums))
    return Factors(FactorGraph(cards, scopes), [torch.from_numpy(table) for table in tables]), log_z


@pytest.mark.parametrize("cards", [(2,), (2,) * 7, (2,) * 16, (3, 2, 5, 2, 2, 4), (70, 2, 3)])
@pytest.mark.parametrize("copies", [1, 3, 32])
def test_published_weights_are_those_of_the_circuit(cards: tuple[int, ...], copies: int) -> None:
    built = structures.selective(cards, copies=copies, seed=None)
    assert load("models").published_weights(cards, copies) == built.num_parameters


def test_observed_variables_are_dropped_and_the_rest_keeps_its_values() -> None:
    factors, _ = small_model(1)
    left = load("models").without_observed(factors, {1: 2, 3: 0})
    assert left.cardinalities == (2, 2, 3)
    for u in itertools.product(range(2), range(2), range(3)):
        whole = torch.tensor([u[0], 2, u[1], 0, u[2]])
        torch.testing.assert_close(left(torch.tensor(u)), factors(whole))


def test_every_model_of_the_index_is_listed_and_grids_are_named() -> None:
    models = load("models")
    names = [model.name for model in models.uai_models()]
    files = [*FOLDER.glob("uai_models/*.uai"), *FOLDER.glob("uai_models/own/*.uai")]
    assert sorted(names) == sorted(file.stem for file in files)
    assert set(models.QUICK_UAI) <= set(names)
    grids = list(models.ising_models([2, 3], [1.0, 0.5], [1, 7]))
    assert [grid.name for grid in grids][:3] == ["ising 2x2 s=1", "ising 2x2 s=1 seed=7", "ising 2x2 s=0.5"]
    assert grids[-1].load().graph.num_variables == 9


@pytest.mark.parametrize("forbidden", [False, True])
def test_every_method_keeps_to_its_side_of_log_z(forbidden: bool) -> None:
    methods = load("methods")
    factors, log_z = small_model(2, forbidden=forbidden)
    problem = methods.Problem(factors, 0.05, 0)
    known = methods.methods([2])
    found = {name: method.run(problem).value for name, method in known.items()}
    assert set(found) == {*LOWER, "elimination", "loopy_bp", "tree_reweighted", "mini_bucket"}
    assert found["elimination"] == pytest.approx(log_z, rel=1e-12)
    assert found["clique_tree"] == pytest.approx(log_z, rel=1e-12)
    assert all(found[name] <= log_z + 1e-9 for name in LOWER)
    assert all(math.isfinite(found[name]) for name in LOWER if not (forbidden and name.startswith("published")))
    assert min(found["tree_reweighted"], found["mini_bucket"]) >= log_z - 1e-9
    if forbidden:
        assert found["published"] == found["published, annealed"] == -math.inf


@pytest.mark.full
def test_published_training_reaches_what_its_circuit_can_hold() -> None:
    published = load("published")
    factors, log_z = small_model(3)
    circuit = published.published_circuit(factors, 1000)
    for train in (published.train_as_published, published.train_annealed):
        curve, steps = train(factors, circuit, seconds=2.0, generator=torch.Generator().manual_seed(0))
        values = [value for _, value in curve]
        assert values == sorted(values)
        assert steps == len(curve)
        # All pairs of the halves are kept, so the circuit holds every distribution.
        assert 0 <= log_z - values[-1] + 1e-9 < 0.05
        assert log_z - values[0] > 0.2


def test_keep_set_has_no_more_weights_than_allowed() -> None:
    methods = load("methods")
    factors, _ = small_model(4)
    problem = methods.Problem(factors, 0.05, 0)
    outcome = methods.keep_set(2)(problem)
    assert outcome.parameters <= problem.most_parameters
    assert outcome.curve[-1][1] == pytest.approx(outcome.value)
    assert [seconds for seconds, _ in outcome.curve] == sorted(seconds for seconds, _ in outcome.curve)


def test_restarts_end_after_five_chunks_that_bring_nothing() -> None:
    values = iter([1.0, 2.0, 1.5, 2.0 + 1e-12, 2.0, 3.0, *[2.9] * 20])
    best, chunks, curve = load("methods").restarted(lambda seconds: next(values), math.inf)
    assert (best, chunks, len(curve)) == (3.0, 11, 11)
    assert load("methods").restarted(lambda seconds: 1.0, 0.0)[1] == 1


def test_a_method_that_takes_too_long_is_given_up() -> None:
    elbo = load("__main__")

    def endless(problem: object) -> None:
        while True:
            sum(range(1000))

    method = load("methods").Method("lower", endless, "")
    outcome, error, _ = elbo.attempt(method, None, 0.05)
    assert outcome is None
    assert error == "GivenUpError: given up after 0.05 s of processor time"


@pytest.mark.parametrize(
    ("method", "value", "wrong"),
    [
        ("mean_field", 10.0 + 0.9e-9, False),
        ("mean_field", 10.0 + 3e-9, True),
        ("mean_field", -math.inf, False),
        ("mean_field", math.nan, True),
        ("mini_bucket", 10.0 - 0.9e-9, False),
        ("mini_bucket", 10.0 - 3e-9, True),
        ("elimination", 10.0 + 5e-8, True),
        ("elimination", 10.0 - 5e-9, False),
        ("loopy_bp", 25.0, False),
    ],
)
def test_a_bound_on_the_wrong_side_is_found(method: str, value: float, wrong: bool) -> None:
    assert bool(load("results").violation(row("a", method, value))) == wrong


def test_rows_come_back_from_the_file_as_they_were(tmp_path: Path) -> None:
    results = load("results")
    rows = [
        row("ising 4x4 s=1", "mean_field", 1 / 3, note="20 restarts, all alike", steps=3),
        row("x", "published", -math.inf, parameters=1536, seconds=0.1 + 0.2),
        row("x", "clique_tree", None, error='NotTractableError: "wide", 3,000 weights', log_z=None),
    ]
    table = results.Table(tmp_path / "rows.csv", results.Row)
    table.add(rows[:2])
    table.add(rows[2:])
    assert results.Table(tmp_path / "rows.csv", results.Row).records == rows
    points = [results.Point("x", "m", 0.5, -math.inf, math.inf), results.Point("x", "m", 0.5, 1.0, None)]
    results.Table(tmp_path / "points.csv", results.Point).keep(points)
    assert results.Table(tmp_path / "points.csv", results.Point).records == points


def test_thinned_curves_rise_and_keep_their_end() -> None:
    thinned = load("results").thinned
    curve = [(0.001 * i, -math.inf if i < 3 else math.sin(i) + i / 1000) for i in range(1, 5000)]
    kept = thinned(curve)
    values = [value for _, value in kept]
    assert len(kept) <= 42
    assert values == sorted(values)
    assert kept[-1] == (curve[-1][0], max(value for _, value in curve))
    assert all(value in {value for time, value in curve if time <= seconds} for seconds, value in kept)
    assert thinned([]) == thinned([(1.0, -math.inf)]) == []


def marks(*rows: object) -> list[str]:
    groups = {"ising": [], "uai": [], "weights": []}
    for one in rows:
        groups[one.group].append(one)
    return [line.mark for line in load("verdict").acceptance(groups)]


def test_acceptance_compares_with_a_third_of_the_published_gap() -> None:
    def first(*rows: object) -> str:
        return marks(*rows)[0]

    model = "ising 9x9 s=1"
    published = row(model, "published", 7.0), row(model, "published, annealed", 8.5)
    assert first() == "NOT RUN"
    assert first(*published) == "NOT RUN"
    assert first(*published, row(model, "keep_set 32", 9.5)) == "PASS"
    assert first(*published, row(model, "keep_set 32", 9.4)) == "FAIL"
    assert first(*published, row(model, "keep_set 32", 9.4), row(model, "keep_set 64", 9.9)) == "PASS"
    assert first(*published, row(model, "keep_set 32", 10.0, parameters=101)) == "FAIL"
    assert first(*published, row(model, "keep_set 32", None, error="too wide")) == "FAIL"
    assert first(row(model, "published", 9.999), row(model, "keep_set 32", 9.991)) == "PASS"
    assert first(row(model, "published", None, error="no"), row(model, "keep_set 32", 9.0)) == "PASS"


def test_acceptance_compares_with_both_mean_fields() -> None:
    ours = row("a", "keep_set 32", 5.0)
    assert marks(ours, row("a", "mean_field", 5.0 + 4e-9))[1:3] == ["PASS", "NOT RUN"]
    assert marks(ours, row("a", "mean_field", 5.0 + 6e-9), row("a", "structured_mean_field", 4.0))[1:3] == [
        "FAIL",
        "PASS",
    ]
    assert marks(ours, row("a", "structured_mean_field", 5.1), row("a", "clique_tree", 6.0))[2] == "PASS"
    # Log Z need not be known.
    assert marks(row("b", "keep_set 32", 5.0, log_z=None), row("b", "mean_field", 5.1, log_z=None))[1] == "FAIL"


def test_acceptance_of_one_grid_and_of_wrong_bounds() -> None:
    grid = "ising 8x8 s=2"
    assert marks(row(grid, "keep_set 64", 9.6))[3] == "PASS"
    assert marks(row(grid, "keep_set 64", 9.5))[3] == "FAIL"
    assert marks(row(grid, "clique_tree", 10.0, parameters=9694), row(grid, "keep_set 64", 9.5))[3] == "FAIL"
    assert marks(row(grid, "mean_field", 9.0))[3:] == ["NOT RUN", "PASS"]
    assert marks(row("a", "mean_field", 11.0, error="VIOLATION: 1 nat"))[4] == "FAIL"


def test_counts_and_estimates_closer_than_the_bound() -> None:
    verdict = load("verdict")
    models = verdict.by_model(
        [
            row("a", "keep_set 32", 9.0), row("a", "mean_field", 9.0), row("a", "loopy_bp", 10.5),
            row("b", "keep_set 32", 9.0), row("b", "mean_field", None, error="x"), row("b", "loopy_bp", 11.5),
            row("c", "keep_set 32", 8.0), row("c", "mean_field", 9.0),
            row("d", "mean_field", 1.0),
        ]
    )  # fmt: skip
    assert verdict.counts(models, "ours", "mean_field") == (2, 3)
    assert verdict.counts(models, "mean_field", "ours") == (2, 3)
    assert verdict.closer_estimates(models) == ["a"]


def test_what_overran_its_budget_is_named() -> None:
    late = row("a", "keep_set 32", 1.0, seconds=1.26), row("a", "elimination", 10.0, seconds=9.0)
    assert load("report").over_budget([*late, row("b", "mean_field", 1.0, seconds=1.2)]) == "- a, keep_set 32: 1.3 s"


def run(folder: Path, *more: str) -> None:
    options = ["--set", "ising", "--sizes", "2", "3", "--strengths", "1", "--labels", "2", "--memory", "0"]
    load("__main__").main([*options, "--output", str(folder), "--seconds", "0.02", *more])


def test_a_run_writes_everything_and_a_second_one_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"README.md", "curves.csv", "elbo_ising.csv", "gap_overview.png", "gap_against_time.png"} <= names
    text = (tmp_path / "README.md").read_text()
    assert "- PASS: no bound is on the wrong side" in text
    assert "NOT RUN: UAI models" in text
    assert "--sizes 2 3 --strengths 1" in text
    assert "| ising 3x3 s=1 | 9 |" in text
    assert "0 left" in capsys.readouterr().out
    first = (tmp_path / "elbo_ising.csv").read_text()
    assert len(first.splitlines()) == 1 + 2 * 11

    def fail(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(load("__main__"), "attempt", fail)
    run(tmp_path)
    assert (tmp_path / "elbo_ising.csv").read_text() == first
    with pytest.raises(AssertionError, match="measured again"):
        run(tmp_path, "--seconds", "0.03")


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elbo, calls = load("__main__"), []
    attempt = elbo.attempt

    def interrupted(method, problem, limit):
        calls.append(method)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return attempt(method, problem, limit)

    monkeypatch.setattr(elbo, "attempt", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    run(tmp_path)
    assert len(calls) == 22 + 1
    rows = load("results").Table(tmp_path / "elbo_ising.csv", load("results").Row).records
    assert len({one.key for one in rows}) == len(rows) == 22
    assert all(one.log_z is not None for one in rows)


def test_what_fails_is_a_row_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(problem: object) -> None:
        raise NotTractableError("too wide, by far\n    Give more.")

    def cheat(problem: object) -> object:
        return load("methods").Outcome(1e6)

    elbo, found = load("__main__"), load("methods").methods([2])
    found = {name: method for name, method in found.items() if name in ("elimination", "clique_tree", "mean_field")}
    found["clique_tree"] = load("methods").Method("lower", refuse, "")
    found["mean_field"] = load("methods").Method("lower", cheat, "")
    monkeypatch.setattr(elbo, "methods", lambda labels: found)
    run(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "- ising 3x3 s=1, clique_tree: NotTractableError: too wide, by far" in text
    assert "Give more" not in text
    assert "- FAIL: no bound is on the wrong side" in text
    assert "VIOLATION" in text


def test_pictures_of_failures_infinities_and_unknown_log_z(tmp_path: Path) -> None:
    names = [f"ising {n}x{n} s=1" for n in range(2, 8)] + [f"model {i}" for i in range(40)]
    rows = [row(name, "published", -math.inf) for name in names]
    rows += [row(name, "keep_set 32", 10.0 - 1.0 / i) for i, name in enumerate(names, 1)]
    rows += [row(names[0], "loopy_bp", 1e3), row(names[1], "mean_field", None, error="no")]
    rows.append(row("nobody knows", "keep_set 32", 1.0, log_z=None))
    point = load("results").Point
    curves = [point(name, "keep_set 32", 0.1 * i, 9.0, 1.0 / i) for name in names for i in (1, 2)]
    curves.append(point("nobody knows", "keep_set 32", 0.1, 1.0, None))
    groups = {g: [one for one in rows if one.group == g] for g in ("ising", "uai")}
    groups["weights"] = [row(names[0], f"keep_set {n}", 10.0 - 1 / n, parameters=n * 100) for n in (1, 2, 4)]
    load("plots").draw_all(groups, curves, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "gap_overview.png", "gap_against_time.png", "gap_against_weights.png",
    }  # fmt: skip


def test_options_out_of_range_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    read = load("__main__").read_options
    assert read(["--quick"]).seconds == 5.0
    assert read(["--quick"]).output != read([]).output
    for wrong in (["--labels", "0"], ["--seconds", "-1"], ["--sizes", "0"]):
        with pytest.raises(SystemExit):
            read(wrong)
    assert "must be positive" in capsys.readouterr().err
