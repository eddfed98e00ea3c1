"""`spnpolicy train`: what flags say, --resume, --config, --device, sinks, environments of others."""

import json
import os
import signal

import pytest
import torch
from cli_cases import MATRIX, SHORT, TINY, contents

from spnpolicy.cli import main
from spnpolicy.cli.progress import TrainingProgress
from spnpolicy.training.runs import read_run_config


def newest(folder):
    (*_, last) = sorted((folder / "checkpoints").glob("checkpoint-*"))
    return {path.name: path.read_bytes() for path in last.iterdir()}


def train_interrupted(monkeypatch, words):
    """Run `spnpolicy train` and press Ctrl-C at step 200."""
    with monkeypatch.context() as patch:
        press = lambda _, progress: progress.step == 200 and os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
        patch.setattr(TrainingProgress, "__call__", press)
        assert main(words) == 130


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


def test_resume_finishes_as_if_nothing_had_happened(tmp_path, monkeypatch, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(["train", "vdn", "coverage", *TINY, "--out", str(whole)]) == 0
    train_interrupted(monkeypatch, ["train", "vdn", "coverage", *TINY, "--out", str(parts)])
    output = capsys.readouterr().out
    assert "interrupted after 200 env steps" in output
    assert f"continue: spnpolicy train --resume {parts}" in output
    assert main(["train", "--resume", str(parts), "--strict"]) == 0
    assert "finished after 400 env steps" in capsys.readouterr().out
    assert (parts / "episodes.csv").read_bytes() == (whole / "episodes.csv").read_bytes()
    assert newest(parts) == newest(whole)


def test_resume_of_a_finished_run_changes_nothing(trained, capsys):
    before = contents(trained / "vdn")
    assert main(["train", "--resume", str(trained / "vdn")]) == 0
    assert "finished after 400 env steps" in capsys.readouterr().out
    assert contents(trained / "vdn") == before


def test_another_number_of_threads_is_refused_by_strict_and_named_otherwise(tmp_path, monkeypatch, capfd):
    folder = tmp_path / "run"
    train_interrupted(monkeypatch, ["train", "vdn", "coverage", *TINY, "--threads", "1", "--out", str(folder)])
    before = contents(folder)
    assert main(["train", "--resume", str(folder), "--strict", "--threads", "2"]) == 2
    assert "threads was 1, is 2" in capfd.readouterr().err
    assert contents(folder) == before
    assert main(["train", "--resume", str(folder), "--threads", "2"]) == 0
    torch.set_num_threads(1)
    facts = json.loads((folder / "run.json").read_text())
    assert [attempt["threads"] for attempt in facts["attempts"]] == [1, 2]


@pytest.mark.full
def test_resume_keeps_the_threads_of_the_run(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    train_interrupted(monkeypatch, ["train", "vdn", "coverage", *TINY, "--threads", "2", "--out", str(folder)])
    assert main(["train", "--resume", str(folder), "--strict"]) == 0
    torch.set_num_threads(1)


def test_config_file_repeats_a_run(trained, tmp_path):
    assert main(["train", "--config", str(trained / "vdn" / "config.json"), "--out", str(tmp_path / "run")]) == 0
    assert read_run_config(tmp_path / "run") == read_run_config(trained / "vdn")
    assert newest(tmp_path / "run") == newest(trained / "vdn")


def test_flags_go_on_top_of_a_config_file(trained, tmp_path):
    changes = ["--seed", "9", "--env.agents", "1", "--algorithm.exploration.end", "0.3"]
    source, copy = trained / "vdn", tmp_path / "run"
    assert main(["train", "--config", str(source / "config.json"), *changes, "--out", str(copy)]) == 0
    before, after = read_run_config(source), read_run_config(copy)
    assert after.train.seed == 9
    assert after.train.steps == before.train.steps
    assert after.env_options == {**before.env_options, "agents": 1}
    exploration = {**before.algorithm_options["exploration"], "end": 0.3}
    assert after.algorithm_options == {**before.algorithm_options, "exploration": exploration}


def test_tensorboard_gets_the_numbers(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = tmp_path / "run"
    assert main(["train", "vdn", "coverage", *TINY, "--tensorboard", "--out", str(folder)]) == 0
    events = event_accumulator.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    evaluations = [record for record in records if record["kind"] == "evaluation"]
    scalars = events.Scalars("evaluation/length")
    assert [scalar.step for scalar in scalars] == [record["step"] for record in evaluations]
    assert [scalar.value for scalar in scalars] == pytest.approx([record["length"] for record in evaluations])


def test_device_cpu_and_auto(tmp_path):
    for device in ("cpu", "auto"):
        folder = tmp_path / device
        assert main(["train", "vdn", "matrix_game", *MATRIX, "--device", device, "--out", str(folder)]) == 0
        (attempt,) = json.loads((folder / "run.json").read_text())["attempts"]
        assert attempt["device"].startswith("cuda" if device == "auto" and torch.cuda.is_available() else "cpu")


def test_an_environment_of_ones_own_lies_in_the_current_folder(tmp_path, monkeypatch, capsys):
    source = "from spnpolicy.envs.games.matrix_games import MatrixGame\n\n\nclass Mine(MatrixGame):\n    pass\n"
    (tmp_path / "my_own_env.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    assert main(["train", "vdn", "my_own_env:Mine", *MATRIX]) == 0
    assert "run folder: runs/vdn-my_own_env-Mine-seed0\n" in capsys.readouterr().out
    assert main(["evaluate", "runs/vdn-my_own_env-Mine-seed0", "--episodes", "5"]) == 0


def test_pettingzoo_by_name(tmp_path, capsys):
    pytest.importorskip("mpe2")
    folder, env = tmp_path / "run", "pettingzoo:mpe2.simple_spread_v3"
    settings = ["--env.N", "2", "--env.max_cycles", "5", "--env.workers", "0"]
    assert main(["train", "iql", env, *SHORT, *settings, "--out", str(folder)]) == 0
    config = read_run_config(folder)
    assert (config.env, config.env_options) == (env, {"N": 2, "max_cycles": 5, "workers": 0})
    capsys.readouterr()
    assert main(["evaluate", str(folder), "--episodes", "3"]) == 0
    assert "3 greedy episodes" in capsys.readouterr().out


def test_processes_of_torchrun_must_be_told_where(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", "vdn", "coverage", *TINY]) == 2
    assert "--out is missing" in capsys.readouterr().err
