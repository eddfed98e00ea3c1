"""`spnpolicy infer` reads, asks `factor_q.inference`, and prints what that says, in words and as JSON."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from factor_q import read_uai, read_uai_evidence
from factor_q.inference import Effort, approximation, exact, solve
from factor_q.variational import FITTED_STRUCTURES
from spnpolicy.cli import infer as command
from spnpolicy.cli import main
from spnpolicy.experiments.answers.models import probability

MODELS = Path(__file__).parents[3] / "benchmarks" / "uai_models"
EXACT = ["own/ring_n6_k3.uai", "own/mixedcards_n9.uai", "Promedus_24.uai", "Grids_12.uai"]
WIDE = ["own/ising_12x12_mixed_s1.uai", "--max-entries", "300", "--seconds", "1"]
"""With so few entries elimination refuses everything."""
IMPOSSIBLE = "MARKOV 2 2 2 2 1 0 2 0 1 2 0 1 4 1 1 0 0\n"
"""One table wants variable 0 to be 1, the other one forbids that."""


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


def solved(name):
    """What the library says about a model of the collection."""
    path = MODELS / name
    model, observed = read_uai(path), path.with_name(path.name + ".evid")
    return solve(model, read_uai_evidence(observed, model.cardinalities) if observed.exists() else None)


@pytest.mark.parametrize("name", EXACT)
def test_words_and_json_say_what_the_library_says(name, capsys):
    text, answer, expected = text_of(capsys, name), infer(capsys, name), solved(name)
    log_z, best = expected.log_z, expected.maximum
    assert number_behind(text, "log Z = ") == pytest.approx(log_z.exact, abs=1e-9)
    assert float(text.partition("(log10 Z = ")[2].partition(")")[0]) == pytest.approx(log_z.exact / math.log(10))
    assert ", exact" in text.partition("log Z = ")[2].splitlines()[0]
    assert "certified" not in text
    assert number_behind(text, "MAP: value ") == pytest.approx(best.value, abs=1e-9)
    assert {**answer["log_z"], "seconds": 0} == {**asdict(log_z), "seconds": 0}
    assert answer["map"] == asdict(best)
    assert answer["marginals"] == asdict(expected.marginals)
    assert answer["fit"] is None
    assert answer["width"] == expected.width


def test_json_says_what_the_model_is(capsys):
    answer = infer(capsys, "own/mixedcards_n9.uai")
    assert answer["file"].endswith("own/mixedcards_n9.uai")
    assert answer["variables"] == 9
    assert answer["cardinalities"] == list(read_uai(MODELS / "own/mixedcards_n9.uai").cardinalities)
    assert answer["factors"] == 23
    assert answer["width"] == 3
    assert answer["evidence"] == {}
    assert set(answer["versions"]) == {"spnpolicy", "torch", "python"}


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


@pytest.mark.full
def test_too_wide_in_words(capsys):
    text = text_of(capsys, *WIDE)
    interval = text.partition("log Z in [")[2].partition("]")[0].split(",")
    lower, upper = map(float, interval)
    assert lower < upper
    for part in ("certified bounds", "fitted to the model; above: weighted mini-buckets", "the maximum is at most",
                 "marginals: approximate", "not exact: log Z, MAP, marginals", "300 table entries at"):  # fmt: skip
        assert part in text
    assert ", exact" not in text
    assert "log Z = " not in text


@pytest.mark.full
def test_flags_reach_the_library(capsys):
    name = "own/tree_n6_k3.uai"
    flags = ["--structure", "keep_set", "--labels", "2", "--seconds", "1000", "--seed", "5", "--max-parameters", "99"]
    answer = infer(capsys, name, *flags)
    effort = Effort("keep_set", labels=2, seconds=1000.0, max_parameters=99)
    expected = solve(read_uai(MODELS / name), effort=effort, generator=torch.Generator().manual_seed(5))
    assert expected.fit.converged
    assert {**answer["fit"], "seconds": 0} == {**asdict(expected.fit), "seconds": 0}
    assert answer["marginals"] == asdict(expected.marginals)
    text = text_of(capsys, name, *flags)
    assert number_behind(text, "fit: log Z >= ") == pytest.approx(answer["fit"]["lower_bound"], abs=1e-9)
    assert "below the exact log Z" in text
    assert "marginals: approximate, those of the fitted keep_set" in text


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


@pytest.mark.parametrize(("model", "log_z"), [("MARKOV 0 0", 0.0), ("MARKOV 0 1 0 1 2.5", math.log(2.5)),
                                              ("MARKOV 3 2 1 4 0", math.log(8))])  # fmt: skip
def test_models_without_variables_or_tables(model, log_z, tmp_path, capsys):
    (tmp_path / "m.uai").write_text(model)
    assert main(["infer", str(tmp_path / "m.uai")]) == 0
    assert number_behind(capsys.readouterr().out, "log Z = ") == pytest.approx(log_z, abs=1e-9)


def test_a_fit_that_found_nothing_is_reported_in_words(monkeypatch, capsys):
    real = approximation.fit_structure

    def fit_badly(*arguments, **options):
        bound = torch.tensor(-torch.inf, dtype=torch.float64)
        return real(*arguments, **options)._replace(lower_bound=bound)

    monkeypatch.setattr(exact, "MOST_WORK", 0)
    monkeypatch.setattr(approximation, "fit_structure", fit_badly)
    assert infer(capsys, "own/ring_n6_k3.uai", "--seconds", "1")["fit"]["lower_bound"] == "-inf"
    assert "marginals: none" in text_of(capsys, "own/ring_n6_k3.uai", "--seconds", "1")


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
    assert set(command.STRUCTURES) == set(FITTED_STRUCTURES)
    assert Effort().max_entries == command.MAX_ENTRIES
    assert f"2^{math.log2(exact.MOST_WORK):.0f}" in command.COMMAND.description
    assert f"{exact.MOST_ASSIGNMENTS:,} assignments" in command.COMMAND.description
    assert approximation.DEFAULT_STRUCTURE in FITTED_STRUCTURES


def test_help_teaches(capsys):
    assert main(["infer", "--help"]) == 0
    text = capsys.readouterr().out
    for part in ("log Z", "MAP", "marginals", "width", "nats", "files", "evidence", "-inf", "exit code is 6", "--json"):
        assert part in text
    for structure in FITTED_STRUCTURES:
        assert structure in text
