import json
import signal
import subprocess

import numpy as np
import pytest
from cli_cases import PROGRAM, TINY, contents, endless, wait_for
from PIL import Image

from spnpolicy.cli import main
from spnpolicy.cli.progress import duration
from spnpolicy.training.runs import read_run_config


def query(trained, capsys, *words):
    assert main(["query", str(trained / "spn"), "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_train_sets_what_the_flags_say(trained):
    config = read_run_config(trained / "spn")
    assert (config.algorithm, config.env) == ("spn_ac", "coverage")
    assert config.env_options == {"size": 3, "agents": 2, "episode_limit": 20}
    assert config.algorithm_options["network"]["hidden"] == [8]
    assert (config.train.steps, config.train.num_envs, config.train.updates) == (400, 8, 1)


def test_train_says_where_everything_is_and_finds_a_free_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/iql-coverage-seed4", "runs/iql-coverage-seed4-2"):
        assert main(["train", "iql", "coverage", *TINY, "--seed", "4", "--algorithm.exploration.end=0.2"]) == 0
        assert f"run folder: {folder}" in capsys.readouterr().out
    config = read_run_config(tmp_path / "runs" / "iql-coverage-seed4-2")
    assert config.train.seed == 4
    assert config.algorithm_options["exploration"]["end"] == 0.2


def test_evaluate_prints_means_with_errors_and_draws(trained, tmp_path, capsys):
    before = contents(trained)
    gif = tmp_path / "play.gif"
    assert main(["evaluate", str(trained / "spn"), "--episodes", "50", "--gif", str(gif)]) == 0
    text = capsys.readouterr().out
    assert "50 greedy episodes" in text
    for name in ("success", "steps", "fraction of the optimum"):
        assert name in text
    with Image.open(gif) as picture:
        assert picture.n_frames > 1
    assert contents(trained) == before


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


def test_a_killed_run_can_be_evaluated(tmp_path, capsys):
    folder = tmp_path / "run"
    words = ["train", "vdn", "coverage", *endless(), "--checkpoint-every", "80", "--out", str(folder)]
    with subprocess.Popen([*PROGRAM, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: len(list(folder.glob("checkpoints/checkpoint-*"))) >= 2, process)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert main(["evaluate", str(folder), "--episodes", "10"]) == 0
    assert "10 greedy episodes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7300, "2 h 1 min"), (1e999, "unknown")],
)
def test_durations(seconds, text):
    assert duration(seconds).startswith(text)
