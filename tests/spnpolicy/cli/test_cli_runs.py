import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from cli_cases import TINY, contents
from PIL import Image

from spnpolicy.cli import main
from spnpolicy.cli.progress import duration
from spnpolicy.training.runs import read_run_config

PROGRAM = [sys.executable, "-c", "import sys; from spnpolicy.cli import main; sys.exit(main())"]


def query(trained, capsys, *words):
    assert main(["query", str(trained / "spn"), "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_train_sets_what_the_flags_say(trained):
    config = read_run_config(trained / "spn")
    assert (config.algorithm, config.env) == ("spn_ac", "coverage")
    assert config.env_options == {"size": 3, "agents": 2, "episode_limit": 20}
    assert config.algorithm_options["hidden"] == [8]
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
    tiny = [word for word in TINY if word not in ("--steps", "400")]
    words = [
        "train",
        "vdn",
        "coverage",
        *tiny,
        "--steps",
        "100000000",
        "--checkpoint-every",
        "80",
        "--out",
        str(folder),
    ]
    with subprocess.Popen([*PROGRAM, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: len(list(folder.glob("checkpoints/checkpoint-*"))) >= 2, process)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert main(["evaluate", str(folder), "--episodes", "10"]) == 0
    assert "10 greedy episodes" in capsys.readouterr().out


def test_ctrl_c_saves_and_ends_with_130(tmp_path):
    folder = tmp_path / "run"
    tiny = [word for word in TINY if word not in ("--steps", "400")]
    words = ["train", "vdn", "coverage", *tiny, "--steps", "100000000", "--out", str(folder)]
    with subprocess.Popen([*PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: (folder / "metrics.jsonl").exists() and (folder / "metrics.jsonl").stat().st_size, process)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted after" in output
    assert "Traceback" not in errors
    assert (folder / "checkpoints" / "latest").exists()


def test_numbers_that_explode_end_with_6(tmp_path, capsys):
    words = ["train", "vdn", "coverage", *TINY, "--algorithm.learning_rate", "1e38", "--out", str(tmp_path / "run")]
    assert main(words) == 6
    errors = capsys.readouterr().err
    assert "Try a smaller learning_rate" in errors
    assert "Traceback" not in errors


def test_a_full_disk_ends_with_4(tmp_path):
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); " + (
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); "
    )
    program = [PROGRAM[0], "-c", limit + PROGRAM[2]]
    words = ["train", "vdn", "coverage", *TINY, "--out", str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([*program, *words], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 4, done.stderr
    assert "cannot write a checkpoint" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unforeseen_error_is_one_line_and_keeps_its_traceback(monkeypatch, tmp_path, capsys):
    def break_down(*_, **__):
        raise RuntimeError("the cat sat on the keyboard")

    monkeypatch.setattr("spnpolicy.cli.train.train", break_down)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["train", "vdn", "coverage", *TINY]) == 3
    errors = capsys.readouterr().err
    assert "unexpected RuntimeError: the cat sat on the keyboard" in errors
    assert "Traceback" not in errors
    (saved,) = tmp_path.glob("spnpolicy-traceback-*.txt")
    assert str(saved) in errors
    assert "break_down" in saved.read_text()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7300, "2 h 1 min"), (1e999, "unknown")],
)
def test_durations(seconds, text):
    assert duration(seconds).startswith(text)


def wait_for(condition, process, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the program ended too early"
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)
