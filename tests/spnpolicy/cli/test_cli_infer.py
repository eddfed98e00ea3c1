"""`spnpolicy infer`, against enumeration in numpy and against the models of known log partition function."""

import csv
import io
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from factor_q import parse_uai
from factor_q.elimination.memory import DEFAULT_MAX_ENTRIES
from factor_q.variational import FITTED_STRUCTURES
from spnpolicy.cli import infer_answer, infer_exact, infer_flags, infer_progress, main
from spnpolicy.cli.infer_words import probability

MODELS = Path(__file__).parents[3] / "benchmarks" / "uai_models"
EXACT = ["own/ring_n6_k3.uai", "own/ising_4x4_mixed_s1.uai", "own/mixedcards_n9.uai", "Promedus_24.uai", "Grids_12.uai"]
SMALL = ["own/ring_n6_k3.uai", "own/complete_n5_k3.uai", "own/triples_n6_k3.uai"]
WIDE = ["own/ising_12x12_mixed_s1.uai", "--max-entries", "300", "--seconds", "1"]
"""With so few entries elimination refuses everything."""
ROUNDING = 1e-9
IMPOSSIBLE = "MARKOV 2 2 2 2 1 0 2 0 1 2 0 1 4 1 1 0 0\n"
"""One table wants variable 0 to be 1, the other one forbids that."""


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


LOG_Z = {f"{folder}{row['file']}": float(row["logZ_natural"]) for folder in ("", "own/")
         for row in rows(MODELS / folder / "index.csv") if row["logZ_natural"]}  # fmt: skip
MAXIMUM = {row["file"]: row for row in rows(MODELS / "map_toulbar2.csv")}


def words_for(name, *flags):
    path = MODELS / name
    evidence = path.with_name(path.name + ".evid")
    return ["infer", str(path), *(["--evidence", str(evidence)] if evidence.exists() else []), *flags]


def infer(capsys, name, *flags, code=0):
    """Return the JSON answer about a model of the collection; nothing else may be printed."""
    assert main([*words_for(name, *flags), "--json"]) == code
    output = capsys.readouterr()
    assert output.err == ""
    return json.loads(output.out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def text_of(capsys, name, *flags):
    assert main(words_for(name, *flags)) == 0
    output = capsys.readouterr()
    assert output.err == ""
    return output.out


def number_behind(text, start):
    """The number that follows some words."""
    return float(text.partition(start)[2].split()[0].rstrip(";,"))


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


@pytest.mark.parametrize("name", EXACT)
def test_exact_log_z_and_maximum_are_the_known_ones(name, capsys):
    text, answer = text_of(capsys, name), infer(capsys, name)
    assert number_behind(text, "log Z = ") == pytest.approx(LOG_Z[name], abs=1e-8)
    assert ", exact" in text.partition("log Z = ")[2].splitlines()[0]
    assert "certified" not in text
    assert answer["log_z"]["exact"] == pytest.approx(LOG_Z[name], abs=1e-8)
    assert answer["log_z"]["lower"] == answer["log_z"]["exact"] == answer["log_z"]["upper"]
    assert float(text.partition("(log10 Z = ")[2].partition(")")[0]) == pytest.approx(LOG_Z[name] / math.log(10))
    if row := MAXIMUM.get(name):
        tolerance = float(row["tolerance"]) + ROUNDING
        assert answer["map"]["value"] == pytest.approx(float(row["map_value"]), abs=tolerance)
        assert number_behind(text, "MAP: value ") == pytest.approx(float(row["map_value"]), abs=tolerance)
    assert answer["map"]["is_exact"]
    assert answer["map"]["upper"] == answer["map"]["value"]
    assert answer["marginals"]["is_exact"]
    assert answer["fit"] is None


@pytest.mark.parametrize("name", SMALL)
def test_everything_agrees_with_enumeration(name, capsys):
    log_z, marginals, maximum, assignment = enumerate_model(MODELS / name)
    answer = infer(capsys, name)
    assert answer["log_z"]["exact"] == pytest.approx(log_z, abs=ROUNDING)
    assert answer["map"]["value"] == pytest.approx(maximum, abs=ROUNDING)
    assert answer["map"]["assignment"] == list(assignment)
    for found, expected in zip(answer["marginals"]["values"], marginals, strict=True):
        assert found == pytest.approx(expected, abs=ROUNDING)


def test_json_says_what_the_model_is(capsys):
    answer = infer(capsys, "own/mixedcards_n9.uai")
    model = parse_uai((MODELS / "own/mixedcards_n9.uai").read_text())
    assert answer["file"].endswith("own/mixedcards_n9.uai")
    assert answer["variables"] == 9
    assert answer["cardinalities"] == list(model.cardinalities)
    assert answer["factors"] == 23
    assert answer["width"] == 3
    assert answer["evidence"] == {}
    assert set(answer["versions"]) == {"spnpolicy", "torch", "python"}
    assert [len(row) for row in answer["marginals"]["values"]] == list(model.cardinalities)


def test_text_shows_the_first_variables_or_all(capsys):
    some, everything = text_of(capsys, "Grids_12.uai"), text_of(capsys, "Grids_12.uai", "--all")
    assert "and 80 more variables (--all shows all)" in some
    assert "more variables" not in everything
    table = [line.split() for line in everything.partition("  variable  ")[2].splitlines()[1:]]
    marginals = infer(capsys, "Grids_12.uai")["marginals"]["values"]
    for variable, (row, shown) in enumerate(zip(marginals, table, strict=True)):
        assert shown[0] == str(variable)
        assert shown[1] == str(int(np.argmax(row)))
        assert [float(word) for word in shown[2:]] == pytest.approx([max(row), *row], abs=1e-4)


def test_observed_variables_are_shown_as_such(capsys):
    evidence = list(map(int, (MODELS / "Promedus_24.uai.evid").read_text().split()))[1:]
    observed = dict(zip(evidence[::2], evidence[1::2], strict=True))
    answer = infer(capsys, "Promedus_24.uai")
    assert answer["evidence"] == {str(variable): value for variable, value in observed.items()}
    text = text_of(capsys, "Promedus_24.uai", "--all")
    assert "evidence   4 observed" in text
    shown = [line.split() for line in text.splitlines() if line.endswith("observed") and "evidence" not in line]
    assert {int(row[0]): int(row[1]) for row in shown} == observed
    for variable, value in observed.items():
        assert answer["marginals"]["values"][variable][value] == 1
        assert answer["map"]["assignment"][variable] == value


def test_too_wide_gives_certified_bounds_and_calls_nothing_exact(capsys):
    name, *flags = WIDE
    answer = infer(capsys, name, *flags)
    log_z, best = answer["log_z"], answer["map"]
    assert log_z["exact"] is None
    assert log_z["lower"] < LOG_Z[name] < log_z["upper"]
    assert log_z["upper"] - log_z["lower"] < 5
    maximum, tolerance = (float(MAXIMUM[name][key]) for key in ("map_value", "tolerance"))
    assert best["value"] <= maximum + tolerance + ROUNDING
    assert best["upper"] >= maximum - ROUNDING
    assert not best["is_exact"]
    model = parse_uai((MODELS / name).read_text())
    assert float(model(torch.tensor(best["assignment"]))) == pytest.approx(best["value"], abs=ROUNDING)
    assert not answer["marginals"]["is_exact"]
    assert "approximate" in answer["marginals"]["method"]
    assert [sum(row) for row in answer["marginals"]["values"]] == pytest.approx([1.0] * 144)
    assert answer["fit"]["structure"] == "auto"
    assert answer["fit"]["circuit"] in answer["marginals"]["method"]
    assert answer["fit"]["lower_bound"] <= LOG_Z[name]
    assert answer["fit"]["gap"] is None


def test_too_wide_in_words(capsys):
    text = text_of(capsys, *WIDE)
    interval = text.partition("log Z in [")[2].partition("]")[0].split(",")
    lower, upper = map(float, interval)
    assert lower < LOG_Z[WIDE[0]] < upper
    for part in ("certified bounds", "fitted to the model; above: weighted mini-buckets", "the maximum is at most",
                 "marginals: approximate", "not exact: log Z, MAP, marginals", "300 table entries at"):  # fmt: skip
        assert part in text
    assert ", exact" not in text
    assert "log Z = " not in text


def test_named_structure_is_fitted_beside_the_exact_value(capsys):
    name = "own/tree_n6_k3.uai"
    flags = ["--structure", "keep_set", "--labels", "2", "--seconds", "1000"]
    answer, exact = infer(capsys, name, *flags), infer(capsys, name)
    fit, log_z = answer["fit"], answer["log_z"]
    assert (fit["structure"], fit["labels"]) == ("keep_set", 2)
    assert fit["converged"]
    assert log_z["exact"] == log_z["upper"] == pytest.approx(LOG_Z[name], abs=1e-8)
    assert log_z["lower"] == fit["lower_bound"] < log_z["exact"]
    assert fit["gap"] == pytest.approx(log_z["exact"] - fit["lower_bound"])
    assert answer["map"]["is_exact"]
    assert not answer["marginals"]["is_exact"]
    pairs = zip(answer["marginals"]["values"], exact["marginals"]["values"], strict=True)
    error = max(abs(p - q) for row, other in pairs for p, q in zip(row, other, strict=True))
    assert answer["marginals"]["largest_error"] == pytest.approx(error)
    assert error > 0
    text = text_of(capsys, name, *flags)
    assert number_behind(text, "fit: log Z >= ") == pytest.approx(fit["lower_bound"], abs=ROUNDING)
    assert number_behind(text, "log Z = ") == pytest.approx(LOG_Z[name], abs=1e-8)
    assert "below the exact log Z" in text
    assert "marginals: approximate, those of the fitted keep_set" in text


def test_a_fit_that_holds_the_model_has_no_gap(capsys):
    answer = infer(capsys, "own/ring_n6_k3.uai", "--structure", "clique_tree")
    assert answer["fit"]["gap"] == pytest.approx(0.0, abs=ROUNDING)
    assert answer["log_z"]["lower"] == pytest.approx(answer["log_z"]["exact"], abs=ROUNDING)
    assert answer["log_z"]["exact"] == pytest.approx(LOG_Z["own/ring_n6_k3.uai"], abs=1e-8)


@pytest.mark.parametrize("structure", FITTED_STRUCTURES)
def test_every_structure_gives_a_lower_bound(structure, capsys):
    name = "own/triples_n6_k3.uai"
    answer = infer(capsys, name, "--structure", structure, "--seconds", "1", "--labels", "9")
    assert answer["fit"]["structure"] == structure
    assert answer["log_z"]["lower"] <= LOG_Z[name] + ROUNDING
    assert answer["log_z"]["lower"] > LOG_Z[name] - 10


def test_the_seed_fixes_a_converged_fit(capsys):
    flags = ["--structure", "keep_set", "--labels", "2", "--seconds", "1000", "--seed", "5"]
    first, second = (infer(capsys, "own/tree_n6_k3.uai", *flags) for _ in range(2))
    assert first["fit"]["converged"]
    for answer in (first, second):
        del answer["fit"]["seconds"], answer["log_z"]["seconds"]
    assert first == second


@pytest.mark.parametrize("flags", [[], ["--structure", "keep_set"], ["--max-entries", "4", "--seconds", "1"]])
def test_impossible_evidence_is_log_z_of_minus_infinity_and_exit_code_6(flags, tmp_path, capsys):
    (tmp_path / "none.uai").write_text(IMPOSSIBLE)
    assert main(["infer", str(tmp_path / "none.uai"), *flags]) == 6
    output = capsys.readouterr()
    assert "log Z = -inf" in output.out
    assert "every assignment that agrees with the evidence is forbidden" in output.out
    assert output.err == ""
    assert main(["infer", str(tmp_path / "none.uai"), "--json", *flags]) == 6
    answer = json.loads(capsys.readouterr().out)
    assert [answer["log_z"][key] for key in ("exact", "lower", "upper")] == ["-inf"] * 3
    assert (answer["map"], answer["marginals"], answer["fit"]) == (None, None, None)
    assert float(answer["log_z"]["exact"]) == -math.inf


def test_evidence_alone_can_be_impossible(tmp_path, capsys):
    (tmp_path / "m.uai").write_text("MARKOV 1 2 1 1 0 2 0 3")
    (tmp_path / "m.evid").write_text("1 0 0")
    assert main(["infer", str(tmp_path / "m.uai")]) == 0
    assert number_behind(capsys.readouterr().out, "log Z = ") == pytest.approx(math.log(3))
    assert main(["infer", str(tmp_path / "m.uai"), "--evidence", str(tmp_path / "m.evid")]) == 6


def test_impossible_without_exact_elimination_is_proved_by_the_upper_bound(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(infer_exact, "MOST_WORK", 0)
    (tmp_path / "none.uai").write_text(IMPOSSIBLE)
    assert main(["infer", str(tmp_path / "none.uai"), "--json", "--seconds", "1"]) == 6
    answer = json.loads(capsys.readouterr().out)
    assert answer["log_z"]["exact"] == "-inf"
    assert "mini-buckets" in answer["log_z"]["method"]


@pytest.mark.parametrize(("model", "log_z"), [("MARKOV 0 0", 0.0), ("MARKOV 0 1 0 1 2.5", math.log(2.5)),
                                              ("MARKOV 3 2 1 4 0", math.log(8))])  # fmt: skip
def test_models_without_variables_or_tables(model, log_z, tmp_path, capsys):
    (tmp_path / "m.uai").write_text(model)
    assert main(["infer", str(tmp_path / "m.uai")]) == 0
    assert number_behind(capsys.readouterr().out, "log Z = ") == pytest.approx(log_z, abs=ROUNDING)


def test_nothing_is_exact_where_the_work_is_limited(monkeypatch, capsys):
    monkeypatch.setattr(infer_exact, "MOST_WORK", 0)
    answer = infer(capsys, "own/ring_n6_k3.uai", "--seconds", "2")
    assert answer["log_z"]["exact"] is None
    assert not answer["map"]["is_exact"]
    assert not answer["marginals"]["is_exact"]
    lower, upper = answer["log_z"]["lower"], answer["log_z"]["upper"]
    assert lower <= LOG_Z["own/ring_n6_k3.uai"] + ROUNDING
    assert upper >= LOG_Z["own/ring_n6_k3.uai"] - ROUNDING


def test_an_assignment_can_be_the_better_lower_bound(monkeypatch, capsys):
    class Bad:
        lower_bound = torch.tensor(-torch.inf, dtype=torch.float64)
        steps, converged = 0, False

    def fit_badly(*arguments, **options):
        fit = real(*arguments, **options)
        Bad.distribution = fit.distribution
        return Bad

    real = infer_answer.fit_structure
    monkeypatch.setattr(infer_exact, "MOST_WORK", 0)
    monkeypatch.setattr(infer_answer, "fit_structure", fit_badly)
    answer = infer(capsys, "own/ring_n6_k3.uai", "--seconds", "1")
    assert answer["log_z"]["lower"] == answer["map"]["value"]
    assert "the value of the best assignment found" in answer["log_z"]["method"]
    assert answer["fit"]["lower_bound"] == "-inf"
    assert answer["marginals"]["values"] is None
    assert "marginals: none" in text_of(capsys, "own/ring_n6_k3.uai", "--seconds", "1")


@pytest.mark.parametrize("name", ["own/complete_n5_k3.uai", "own/triples_n6_k3.uai"])
def test_marginals_by_the_gradient_are_those_of_enumeration(name):
    _, expected, _, _ = enumerate_model(MODELS / name)
    factors = parse_uai((MODELS / name).read_text())
    for loops, max_entries in ((1, 2**20), (3, 700), (1000, 100)):
        found = infer_exact._gradient(factors, max_entries, loops)
        for row, other in zip(found, expected, strict=True):
            assert row == pytest.approx(other, abs=ROUNDING)


def test_marginals_fall_back_on_the_gradient(monkeypatch):
    factors = parse_uai((MODELS / "own/complete_n5_k3.uai").read_text())
    used = []
    real = infer_exact._gradient
    monkeypatch.setattr(infer_exact, "_gradient", lambda *arguments: used.append(arguments) or real(*arguments))
    whole = infer_exact.exact_marginals(factors, 2**20)
    assert not used
    parts = infer_exact.exact_marginals(factors, 300)
    assert len(used) == 1
    assert np.concatenate(parts) == pytest.approx(np.concatenate(whole), abs=ROUNDING)
    assert infer_exact.exact_marginals(factors, 2) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1.0, "1"), (0.5, "0.5000"), (4.2e-7, "4e-07"), (1 - 1e-9, ">0.9999"), (0.99994, "0.9999")],
)
def test_probabilities_near_certainty_do_not_look_certain(value, text):
    assert probability(value) == text


def test_many_values_show_the_likeliest(capsys, tmp_path):
    weights = np.arange(1, 11)
    (tmp_path / "m.uai").write_text("MARKOV 1 10 1 1 0 10 " + " ".join(map(str, weights)))
    assert main(["infer", str(tmp_path / "m.uai")]) == 0
    assert "9: 0.1818, 8: 0.1636, 7: 0.1455, ..." in capsys.readouterr().out


def test_help_names_what_the_library_has():
    assert set(infer_flags.STRUCTURES) == set(FITTED_STRUCTURES)
    assert infer_flags.MAX_ENTRIES == DEFAULT_MAX_ENTRIES
    assert f"2^{math.log2(infer_exact.MOST_WORK):.0f}" in infer_flags.DESCRIPTION
    assert f"{infer_exact.MOST_ASSIGNMENTS:,} assignments" in infer_flags.DESCRIPTION
    assert infer_flags.DEFAULT_STRUCTURE in FITTED_STRUCTURES


def test_help_teaches(capsys):
    assert main(["infer", "--help"]) == 0
    text = capsys.readouterr().out
    for part in ("log Z", "MAP", "marginals", "width", "nats", "files", "evidence", "-inf", "exit code is 6", "--json"):
        assert part in text
    for structure in FITTED_STRUCTURES:
        assert structure in text


def test_progress_is_shown_in_a_terminal_only(monkeypatch, capsys):
    screen = io.StringIO()
    monkeypatch.setattr(
        infer_progress, "Console", lambda *, stderr: Console(file=screen, force_terminal=stderr, width=120)
    )
    monkeypatch.setattr(infer_progress, "_SECONDS_BETWEEN_REDRAWS", 0.0)
    answer = infer(capsys, "own/ising_8x8_mixed_s1.uai", "--structure", "keep_set", "--labels", "8", "--seconds", "3")
    assert answer["fit"]["steps"] > 0
    for part in ("log Z by elimination", "fitting keep_set", "nats"):
        assert part in screen.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "flags"),
    [("ObjectDetection_54.uai", []), ("ObjectDetection_54.uai", ["--max-entries", "100000", "--seconds", "2"]),
     ("DBN_13.uai", []), ("Promedus_14.uai", []), ("Grids_15.uai", ["--seconds", "5"]),
     ("CSP_12.uai", ["--max-entries", "3000", "--seconds", "5"])],
)  # fmt: skip
def test_wide_models(name, flags, capsys):
    answer = infer(capsys, name, *flags)
    log_z, best = answer["log_z"], answer["map"]
    if name in LOG_Z:
        assert log_z["lower"] <= LOG_Z[name] + 1e-8
        assert log_z["upper"] >= LOG_Z[name] - 1e-8
    assert log_z["lower"] <= log_z["upper"] + ROUNDING
    if name in MAXIMUM:
        maximum, tolerance = (float(MAXIMUM[name][key]) for key in ("map_value", "tolerance"))
        assert best["value"] <= maximum + tolerance + ROUNDING
        assert best["upper"] >= maximum - ROUNDING
    assert best["is_exact"] == (best["method"] == "variable elimination")
