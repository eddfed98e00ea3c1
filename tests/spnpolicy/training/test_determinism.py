"""The same seed gives the same bytes: in two processes, whatever Python's hash seed, for every algorithm."""

import json
import os
import subprocess
import sys

import pytest
from run_cases import assert_same_run, metrics_without_time

from spnpolicy.algorithms import ALGORITHMS
from spnpolicy.training.config import RunConfig, TrainConfig
from spnpolicy.training.loop import train

PROGRAM = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from spnpolicy.algorithms import ALGORITHMS
from spnpolicy.training.config import RunConfig, TrainConfig
from spnpolicy.training.loop import train
from tests.spnpolicy.training.run_cases import fitting
settings = TrainConfig(steps=248, num_envs=8, batch_size=16, warmup_steps=40, updates=1, log_every=80,
                       evaluate_every=160, evaluation_episodes=4, checkpoint_every=120, seed=7)
OWN = {"reinforce": {"rollout": 9}, "rbm": {"sweeps": 3}, "aql": {"num_proposed": 8, "num_uniform": 8}}
for name in ALGORITHMS:
    options = {"network": {"hidden": [8]}} | OWN.get(name, {})
    config = RunConfig(name, "coverage", options, {"agents": 2, "size": 3, "episode_limit": 9}, fitting(settings, name))
    train(config, Path(sys.argv[1]) / name)
"""


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Two folders with the same runs of every algorithm, made with different hash seeds."""
    folder = tmp_path_factory.mktemp("determinism")
    for hash_seed in ("1", "4242"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", PROGRAM, str(folder / hash_seed)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr[-2000:]
    return folder / "1", folder / "4242"


@pytest.mark.full
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_two_processes_with_different_hash_seeds(two_processes, algorithm):
    first, second = (folder / algorithm for folder in two_processes)
    assert_same_run(first, second)
    lines = [[_timeless(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (first, second)]
    assert lines[0] == lines[1]


def _timeless(line):
    return json.dumps({name: value for name, value in json.loads(line).items() if name != "seconds"})


class Broken:
    """A sink that fails, each time in another way, and spoils what it was given."""

    def __init__(self, error):
        self.error = error

    def write(self, record):
        for name in list(record):
            record[name] = None
        raise self.error

    def close(self):
        raise self.error


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("offline")])
def test_a_sink_that_fails_changes_nothing(tmp_path, capsys, error):
    settings = TrainConfig(steps=240, num_envs=8, batch_size=16, warmup_steps=40, updates=1, log_every=40,
                           evaluate_every=80, evaluation_episodes=4, seed=7)  # fmt: skip
    config = RunConfig(
        "vdn", "coverage", {"network": {"hidden": [8]}}, {"agents": 2, "size": 3, "episode_limit": 9}, settings
    )
    train(config, tmp_path / "alone")
    # Not even wrapped by the caller: training does that.
    train(config, tmp_path / "watched", sinks=[Broken(error)])
    assert "Broken" in capsys.readouterr().err
    assert_same_run(tmp_path / "alone", tmp_path / "watched")


def test_one_more_environment_shifts_no_other_stream(tmp_path):
    # Networks start the same whatever the number of environments, because every stream has a name of its own.
    runs = []
    for num_envs in (8, 9):
        settings = TrainConfig(steps=9, num_envs=num_envs, warmup_steps=0, evaluation_episodes=4, batch_size=8, seed=3)
        config = RunConfig(
            "iql", "coverage", {"network": {"hidden": [8]}}, {"agents": 2, "size": 3, "episode_limit": 9}, settings
        )
        train(config, tmp_path / str(num_envs))
        runs.append(metrics_without_time(tmp_path / str(num_envs))[0])
    assert runs[0] == runs[1]
