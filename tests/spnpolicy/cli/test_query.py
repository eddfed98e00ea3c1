"""`spnpolicy query`: the rules of probability, and who can be asked."""

import json

import numpy as np
import pytest
from cli_cases import TINY
from PIL import Image

from spnpolicy.algorithms import ALGORITHMS
from spnpolicy.cli import main
from spnpolicy.cli.options import UsageError
from spnpolicy.cli.query import read_evidence


def query(trained, capsys, *words):
    assert main(["query", str(trained / "spn"), "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_query_without_evidence(trained, capsys):
    answer = query(trained, capsys)
    assert answer["probability_of_evidence"] == pytest.approx(1.0)
    assert answer["marginals"] == pytest.approx(np.array(answer["marginals_given_evidence"]), abs=1e-9)
    assert np.array(answer["marginals"]).sum(axis=1) == pytest.approx(np.ones(2))
    assert answer["log_likelihood_of_mode"] == pytest.approx(np.log(answer["probability_of_mode_given_evidence"]))


def test_query_obeys_the_rules_of_probability(trained, capsys):
    names = ["stay", "up", "down", "left", "right", "claim"]
    everything = query(trained, capsys, "--ask", "0,1", "--seed", "5")
    joint = np.array(everything["joint_table"])
    given = query(trained, capsys, "--given", "1=left,claim", "--ask", "0", "--seed", "5")
    allowed = [names.index("left"), names.index("claim")]
    assert given["probability_of_evidence"] == pytest.approx(joint[:, allowed].sum())
    expected = joint[:, allowed].sum(axis=1) / joint[:, allowed].sum()
    assert given["joint_table"] == pytest.approx(expected)
    assert given["marginals_given_evidence"][0] == pytest.approx(expected)
    assert given["mode_given_evidence"][1] in allowed
    best = np.unravel_index(np.where(np.isin(np.arange(6), allowed), joint, -1).argmax(), joint.shape)
    assert given["mode_given_evidence"] == list(best)
    assert everything["entropy"] == pytest.approx(-(joint * np.log(joint)).sum())


def test_query_in_words_and_as_a_picture(trained, tmp_path, capsys):
    picture = tmp_path / "answer.png"
    words = ["query", str(trained / "spn"), "--given", "1=0", "--ask", "0,1", "--at-step", "1"]
    assert main([*words, "--picture", str(picture)]) == 0
    text = capsys.readouterr().out
    for part in ("digits are agents", "P(agent 1 does stay) = ", "before -> given that", "joint table", "surprise"):
        assert part in text
    with Image.open(picture) as image:
        assert image.size[0] > 600


def test_reinforce_vi_can_be_asked(tmp_path, capsys):
    run = str(tmp_path / "run")
    assert main(["train", "reinforce_vi", "coverage", *TINY, "--out", run]) == 0
    assert f"spnpolicy query {run}" in capsys.readouterr().out
    assert main(["query", run, "--json", "--ask", "0,1"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert np.array(answer["joint_table"]).sum() == pytest.approx(1.0)
    assert np.array(answer["joint_table"]).sum(axis=1) == pytest.approx(np.array(answer["marginals"][0]))


def test_an_algorithm_without_a_joint_policy_names_those_that_have_one(trained, capsys):
    assert main(["query", str(trained / "vdn")]) == 2
    errors = capsys.readouterr().err
    able = [name for name, entry in ALGORITHMS.items() if entry.has_joint_policy]
    assert "reinforce_vi" in able
    assert f"Train one that has: {', '.join(able)}." in errors


def test_an_agent_has_no_more_actions_than_its_own():
    names = ["stay", "up", "down"]
    assert read_evidence(["1=up,0"], names, [3, 2]) == {1: [0, 1]}
    for word in ("down", "2"):
        assert read_evidence([f"0={word}"], names, [3, 2]) == {0: [2]}
        with pytest.raises(UsageError, match=f"action of agent 1.*{word}"):
            read_evidence([f"1={word}"], names, [3, 2])
