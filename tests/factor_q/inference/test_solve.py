"""`factor_q.inference`, against enumeration in numpy and against the models of known log partition function."""

import csv
import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from factor_q import FactorGraph, Factors, NotTractableError, StructureError, parse_uai, read_uai, read_uai_evidence
from factor_q.inference import Effort, approximation, exact, solve
from factor_q.variational import FITTED_STRUCTURES

MODELS = Path(__file__).parents[3] / "benchmarks" / "uai_models"
KNOWN = ["own/ring_n6_k3.uai", "own/ising_4x4_mixed_s1.uai", "own/mixedcards_n9.uai", "Promedus_24.uai", "Grids_12.uai"]
SMALL = ["own/ring_n6_k3.uai", "own/complete_n5_k3.uai", "own/triples_n6_k3.uai"]
WIDE = "own/ising_12x12_mixed_s1.uai"
FEW = Effort(max_entries=300, seconds=1.0)
"""With so few entries elimination refuses everything in the wide model."""
ROUNDING = 1e-9
IMPOSSIBLE = "MARKOV 2 2 2 2 1 0 2 0 1 2 0 1 4 1 1 0 0\n"
"""One table wants variable 0 to be 1, the other one forbids that."""


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


LOG_Z = {f"{folder}{row['file']}": float(row["logZ_natural"]) for folder in ("", "own/")
         for row in rows(MODELS / folder / "index.csv") if row["logZ_natural"]}  # fmt: skip
MAXIMUM = {row["file"]: row for row in rows(MODELS / "map_toulbar2.csv")}


def solved(name, effort=None, **options):
    """The answer about a model of the collection, with its evidence where it has some."""
    path = MODELS / name
    model, observed = read_uai(path), path.with_name(path.name + ".evid")
    evidence = read_uai_evidence(observed, model.cardinalities) if observed.exists() else None
    return solve(model, evidence, effort=effort, generator=torch.Generator().manual_seed(0), **options)


def enumerate_model(path):
    """log Z, marginals, maximum of a small model, by the words of its file and a loop over all assignments."""
    words = iter(path.read_text().split())
    assert next(words) == "MARKOV"
    cards = [int(next(words)) for _ in range(int(next(words)))]
    scopes = [[int(next(words)) for _ in range(int(next(words)))] for _ in range(int(next(words)))]
    tables = [np.array([float(next(words)) for _ in range(int(next(words)))]) for _ in scopes]
    shaped = [table.reshape([cards[v] for v in scope]) for table, scope in zip(tables, scopes, strict=True)]
    weights = np.empty(cards)
    for values in itertools.product(*map(range, cards)):
        weights[values] = math.prod(
            table[tuple(values[v] for v in scope)] for table, scope in zip(shaped, scopes, strict=True)
        )
    total = weights.sum()
    axes = range(len(cards))
    marginals = [weights.sum(tuple(other for other in axes if other != axis)) / total for axis in axes]
    return math.log(total), marginals, math.log(weights.max()), np.unravel_index(weights.argmax(), weights.shape)


@pytest.fixture(scope="module")
def wide():
    """The answer about the wide model, and all progress that was told on the way."""
    told = []
    return solved(WIDE, FEW, on_progress=told.append), told


@pytest.mark.parametrize("name", KNOWN)
def test_exact_log_z_and_maximum_are_the_known_ones(name):
    answer = solved(name)
    assert answer.log_z.exact == pytest.approx(LOG_Z[name], abs=1e-8)
    assert answer.log_z.lower == answer.log_z.exact == answer.log_z.upper
    if row := MAXIMUM.get(name):
        assert answer.maximum.value == pytest.approx(float(row["map_value"]), abs=float(row["tolerance"]) + ROUNDING)
    assert answer.maximum.is_exact
    assert answer.maximum.upper == answer.maximum.value
    assert answer.marginals.is_exact
    assert answer.fit is None
    assert answer.refused == ()


@pytest.mark.parametrize("name", SMALL)
def test_everything_agrees_with_enumeration(name):
    log_z, marginals, maximum, assignment = enumerate_model(MODELS / name)
    answer = solved(name)
    assert answer.log_z.exact == pytest.approx(log_z, abs=ROUNDING)
    assert answer.maximum.value == pytest.approx(maximum, abs=ROUNDING)
    assert answer.maximum.assignment == list(assignment)
    for found, expected in zip(answer.marginals.values, marginals, strict=True):
        assert found == pytest.approx(expected, abs=ROUNDING)


@pytest.mark.parametrize("name", SMALL)
def test_bounds_and_approximations_hold_against_enumeration(name, monkeypatch):
    monkeypatch.setattr(exact, "MOST_WORK", 0)
    log_z, marginals, maximum, _ = enumerate_model(MODELS / name)
    answer = solved(name, Effort(seconds=1.0))
    assert answer.refused == ("log_z", "maximum", "marginals")
    assert answer.log_z.exact is None
    assert answer.log_z.lower - ROUNDING <= log_z <= answer.log_z.upper + ROUNDING
    assert answer.maximum.value - ROUNDING <= maximum <= answer.maximum.upper + ROUNDING
    assert not answer.maximum.is_exact
    assert not answer.marginals.is_exact
    assert [sum(row) for row in answer.marginals.values] == pytest.approx([1.0] * len(marginals))


@pytest.mark.full
def test_too_wide_gives_certified_bounds_and_calls_nothing_exact(wide):
    answer, _ = wide
    log_z, best, fit = answer.log_z, answer.maximum, answer.fit
    assert log_z.exact is None
    assert log_z.lower < LOG_Z[WIDE] < log_z.upper
    assert log_z.upper - log_z.lower < 5
    maximum, tolerance = (float(MAXIMUM[WIDE][key]) for key in ("map_value", "tolerance"))
    assert best.value <= maximum + tolerance + ROUNDING
    assert best.upper >= maximum - ROUNDING
    model = read_uai(MODELS / WIDE)
    assert float(model(torch.tensor(best.assignment))) == pytest.approx(best.value, abs=ROUNDING)
    assert "approximate" in answer.marginals.method
    assert fit.structure == "auto"
    assert fit.circuit in answer.marginals.method
    assert fit.lower_bound <= LOG_Z[WIDE]
    assert fit.gap is None


def test_named_structure_is_fitted_beside_the_exact_value():
    name = "own/tree_n6_k3.uai"
    answer, without = solved(name, Effort("keep_set", labels=2, seconds=1000.0)), solved(name)
    fit, log_z = answer.fit, answer.log_z
    assert (fit.structure, fit.labels) == ("keep_set", 2)
    assert fit.converged
    assert log_z.exact == log_z.upper == pytest.approx(LOG_Z[name], abs=1e-8)
    assert log_z.lower == fit.lower_bound < log_z.exact
    assert fit.gap == pytest.approx(log_z.exact - fit.lower_bound)
    assert answer.maximum.is_exact
    assert not answer.marginals.is_exact
    pairs = zip(answer.marginals.values, without.marginals.values, strict=True)
    error = max(abs(p - q) for row, other in pairs for p, q in zip(row, other, strict=True))
    assert answer.marginals.largest_error == pytest.approx(error)
    assert error > 0


def test_a_fit_that_holds_the_model_has_no_gap():
    answer = solved("own/ring_n6_k3.uai", Effort("clique_tree"))
    assert answer.fit.gap == pytest.approx(0.0, abs=ROUNDING)
    assert answer.log_z.lower == pytest.approx(answer.log_z.exact, abs=ROUNDING)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("structure", FITTED_STRUCTURES)
def test_every_structure_gives_a_lower_bound(structure):
    name = "own/triples_n6_k3.uai"
    answer = solved(name, Effort(structure, labels=9, seconds=1.0))
    assert answer.fit.structure == structure
    assert LOG_Z[name] - 10 < answer.log_z.lower <= LOG_Z[name] + ROUNDING


@pytest.mark.full
def test_the_generator_fixes_a_converged_fit():
    effort = Effort("keep_set", labels=2, seconds=1000.0)
    first, second = (solved("own/tree_n6_k3.uai", effort) for _ in range(2))
    assert first.fit.converged
    without_time = [
        replace(answer, fit=replace(answer.fit, seconds=0.0), log_z=replace(answer.log_z, seconds=0.0))
        for answer in (first, second)
    ]
    assert without_time[0] == without_time[1]


def test_only_what_is_asked_is_worked_out(monkeypatch):
    stages, name = [], "own/ring_n6_k3.uai"
    answer = solved(name, questions=["maximum"])
    assert answer.maximum.is_exact
    assert answer.marginals is None
    assert answer.log_z.exact is not None
    monkeypatch.setattr(exact, "MOST_WORK", 0)
    effort = Effort(seconds=0.5)
    answer = solved(name, effort, questions=["log_z"], on_progress=lambda progress: stages.append(progress.stage))
    assert (answer.maximum, answer.marginals) == (None, None)
    assert answer.refused == ("log_z",)
    assert answer.log_z.lower - ROUNDING <= LOG_Z[name] <= answer.log_z.upper + ROUNDING
    assert {*stages} == {"log Z by elimination", "upper bound of log Z", "fitting auto"}


@pytest.mark.full
def test_progress_begins_every_stage_with_step_0_and_then_counts(wide):
    answer, told = wide
    stages = [progress.stage for progress in told if progress.step == 0]
    assert len(stages) == len(set(stages)) == 6
    for stage in stages[3:]:
        steps = [progress.step for progress in told if progress.stage == stage]
        assert steps[:2] == [0, 1]
        assert all(progress.seconds <= 1.0 for progress in told if progress.stage == stage)
    assert all(math.isfinite(progress.value) for progress in told if progress.step)
    assert answer.width > 10


def test_evidence_may_be_anything_that_condition_takes():
    model = parse_uai("MARKOV 2 2 3 1 2 0 1 6 1 2 3 4 5 6")
    assert solve(model, {0: 1}).log_z.exact == pytest.approx(math.log(15))
    assert solve(model, {1: [0, 2]}).log_z.exact == pytest.approx(math.log(14))
    assert solve(model, {0: 1, 1: 0}).maximum.assignment == [1, 0]


@pytest.mark.parametrize("effort", [Effort(), Effort("keep_set"), Effort(max_entries=4, seconds=1.0)])
def test_what_is_impossible_has_log_z_of_minus_infinity(effort):
    answer = solve(parse_uai(IMPOSSIBLE), effort=effort)
    assert answer.is_impossible
    assert (answer.log_z.exact, answer.log_z.lower, answer.log_z.upper) == (-math.inf,) * 3
    assert (answer.maximum, answer.marginals, answer.fit) == (None, None, None)


def test_impossible_without_exact_elimination_is_proved_by_the_upper_bound(monkeypatch):
    monkeypatch.setattr(exact, "MOST_WORK", 0)
    answer = solve(parse_uai(IMPOSSIBLE), effort=Effort(seconds=1.0))
    assert answer.log_z.exact == -math.inf
    assert "mini-buckets" in answer.log_z.method


def test_an_assignment_can_be_the_better_lower_bound(monkeypatch):
    real = approximation.fit_structure

    def fit_badly(*arguments, **options):
        bound = torch.tensor(-torch.inf, dtype=torch.float64)
        return real(*arguments, **options)._replace(lower_bound=bound)

    monkeypatch.setattr(exact, "MOST_WORK", 0)
    monkeypatch.setattr(approximation, "fit_structure", fit_badly)
    answer = solved("own/ring_n6_k3.uai", Effort(seconds=1.0))
    assert answer.log_z.lower == answer.maximum.value
    assert "the value of the best assignment found" in answer.log_z.method
    assert answer.fit.lower_bound == -math.inf
    assert answer.marginals.values is None


@pytest.mark.parametrize("name", ["own/complete_n5_k3.uai", "own/triples_n6_k3.uai"])
def test_marginals_by_the_gradient_are_those_of_enumeration(name):
    _, expected, _, _ = enumerate_model(MODELS / name)
    for loops, max_entries in ((1, 2**20), (3, 700), (1000, 100)):
        found = exact._gradient(read_uai(MODELS / name), max_entries, loops)
        for row, other in zip(found, expected, strict=True):
            assert row == pytest.approx(other, abs=ROUNDING)


def test_marginals_fall_back_on_the_gradient(monkeypatch):
    factors = read_uai(MODELS / "own/complete_n5_k3.uai")
    used = []
    real = exact._gradient
    monkeypatch.setattr(exact, "_gradient", lambda *arguments: used.append(arguments) or real(*arguments))
    whole = exact.exact_marginals(factors, 2**20)
    assert not used
    parts = exact.exact_marginals(factors, 300)
    assert len(used) == 1
    assert np.concatenate(parts) == pytest.approx(np.concatenate(whole), abs=ROUNDING)
    assert exact.exact_marginals(factors, 2) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"structure": "keepset"}, "structure is 'keepset'; use one of auto, keep_set"),
        ({"seconds": 0.0}, "seconds is 0.0"),
        ({"seconds": math.nan}, "seconds is nan"),
        ({"labels": 0}, "labels is 0"),
        ({"max_entries": -1}, "max_entries is -1"),
    ],
)
def test_an_effort_out_of_range_is_refused(options, message):
    with pytest.raises(StructureError, match=message):
        Effort(**options)


def test_what_cannot_be_answered_is_refused():
    model = parse_uai("MARKOV 2 2 2 0")
    with pytest.raises(StructureError, match=r"batch shape \(3,\)"):
        solve(Factors(FactorGraph([2], [(0,)]), [torch.zeros(3, 2)]))
    with pytest.raises(StructureError, match="'map' is not one of log_z, maximum, marginals"):
        solve(model, questions=["map"])
    with pytest.raises(StructureError, match="has no variables"):
        solve(parse_uai("MARKOV 0 0"), effort=Effort("tree"))
    with pytest.raises(NotTractableError, match="a table of 4 marginals, but max_entries is 3"):
        solve(model, effort=Effort(max_entries=3))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "effort"),
    [("ObjectDetection_54.uai", Effort()), ("ObjectDetection_54.uai", Effort(max_entries=100_000, seconds=2.0)),
     ("DBN_13.uai", Effort()), ("Promedus_14.uai", Effort()), ("Grids_15.uai", Effort(seconds=5.0)),
     ("CSP_12.uai", Effort(max_entries=3000, seconds=5.0))],
)  # fmt: skip
def test_wide_models(name, effort):
    answer = solved(name, effort)
    log_z, best = answer.log_z, answer.maximum
    if name in LOG_Z:
        assert log_z.lower <= LOG_Z[name] + 1e-8
        assert log_z.upper >= LOG_Z[name] - 1e-8
    assert log_z.lower <= log_z.upper + ROUNDING
    if name in MAXIMUM:
        maximum, tolerance = (float(MAXIMUM[name][key]) for key in ("map_value", "tolerance"))
        assert best.value <= maximum + tolerance + ROUNDING
        assert best.upper >= maximum - ROUNDING
    assert best.is_exact == (best.method == "variable elimination")
