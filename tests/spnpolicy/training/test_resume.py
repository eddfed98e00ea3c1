"""A run that was interrupted, crashed or killed and resumed equals the unbroken one bit for bit."""

import fcntl
import json
import logging
import os
import shutil
import signal
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from run_cases import assert_same_run, fitting, metrics_without_time

from spnpolicy.algorithms import ALGORITHMS, config_class
from spnpolicy.base.errors import CheckpointError, ConfigError, EnvError
from spnpolicy.envs import make_env
from spnpolicy.training.agreement import MAY_CHANGE
from spnpolicy.training.config import RunConfig, TrainConfig
from spnpolicy.training.loop import resume, train
from spnpolicy.training.recorder import FILES
from spnpolicy.training.runs import load_run, read_facts
from spnpolicy.training.storage.checkpoints import complete_checkpoints, load_checkpoint, save_checkpoint
from tests.spnpolicy.chain_env import ChainEnv, make_chain

SHORT = TrainConfig(
    steps=320,
    num_envs=8,
    batch_size=16,
    replay_capacity=120,
    warmup_steps=40,
    updates=2,
    log_every=48,
    evaluate_every=96,
    evaluation_episodes=4,
    checkpoint_every=64,
    seed=5,
)
RECURRENT = [name for name in ALGORITHMS if "recurrent" in config_class(name).network_kinds]
TASKS = {
    "chain with random masks": ("chain", {"has_action_masks": True}, make_chain),
    "chain cut by the clock": ("chain", {"ending": "truncated"}, make_chain),
    "coverage": ("coverage", {"agents": 2, "size": 3, "episode_limit": 9}, make_env),
    "matrix game": ("matrix_game", {"game": "climbing"}, make_env),
}


class Crash(Exception):
    """Ends a run without any chance to save."""


OWN = {
    "reinforce": {"rollout": 4},
    "rbm": {"sweeps": 3},
    "aql": {"num_proposed": 8, "num_uniform": 8},
    "wolpertinger": {"neighbours": 4},
}
MEMORY = {"network": {"kind": "recurrent", "hidden": [8]}, "share_parameters": False}
IN_EVERY_TASK = ("vdn", "ippo")
CASES = [(algorithm, task) for algorithm in IN_EVERY_TASK for task in TASKS]
CASES += [(algorithm, "chain with random masks") for algorithm in ALGORITHMS if algorithm not in IN_EVERY_TASK]
REST = [(algorithm, task) for algorithm in ALGORITHMS for task in TASKS if (algorithm, task) not in CASES]


def config_of(algorithm, task, settings=SHORT, **more):
    env, options, make = TASKS[task]
    return RunConfig(
        algorithm, env, {"network": {"hidden": [8]}} | OWN.get(algorithm, {}) | more, options,
        fitting(settings, algorithm),
    ), make  # fmt: skip


def ending(step, error):
    def on_progress(progress):
        if progress.step == step:
            raise error

    return on_progress


def broken_run(folder, config, make, ends):
    """Train with an interruption or crash at each of the given steps, then to the end."""
    attempts = [lambda **options: train(config, folder, make_env=make, **options)]
    attempts += [lambda **options: resume(folder, make_env=make, **options)] * len(ends)
    for attempt, (step, error) in zip(attempts, ends, strict=False):
        if error is Crash:
            with pytest.raises(Crash):
                attempt(on_progress=ending(step, Crash()))
        else:
            assert not attempt(on_progress=ending(step, error())).is_finished
    return attempts[-1]()


@pytest.mark.one_in(8)
@pytest.mark.parametrize(("algorithm", "task"), CASES + [pytest.param(*case, marks=pytest.mark.slow) for case in REST])
def test_a_resumed_run_equals_the_unbroken_one(tmp_path, algorithm, task):
    check_resumption(tmp_path, *config_of(algorithm, task))


@pytest.mark.parametrize(
    "algorithm",
    ["vdn", "ippo", *(pytest.param(n, marks=pytest.mark.slow) for n in RECURRENT if n not in ("vdn", "ippo"))],
)
def test_a_resumed_run_with_a_memory_equals_the_unbroken_one(tmp_path, algorithm):
    check_resumption(tmp_path, *config_of(algorithm, "chain with random masks", **MEMORY))


def test_a_resumed_run_with_standardised_rewards_equals_the_unbroken_one(tmp_path):
    settings = replace(SHORT, standardise_rewards=True)
    check_resumption(tmp_path, *config_of("iql", "chain cut by the clock", settings, trace=0.5, sequence_length=4))


def check_resumption(tmp_path, config, make):
    unbroken = train(config, tmp_path / "unbroken", make_env=make)
    # Before the warm-up is over, exactly at a checkpoint, between two, after a crash from which work is repeated.
    ends = [(24, KeyboardInterrupt), (64, KeyboardInterrupt), (136, Crash), (136, KeyboardInterrupt), (312, Crash)]
    result = broken_run(tmp_path / "broken", config, make, ends)
    assert result.is_finished
    assert result._replace(seconds=0.0) == unbroken._replace(seconds=0.0)
    assert_same_run(tmp_path / "unbroken", tmp_path / "broken")
    steps = [attempt["from_step"] for attempt in read_facts(tmp_path / "broken")["attempts"]]
    assert steps == [0, 24, 64, 128, 136, 256]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_interrupted_after_every_single_iteration(tmp_path, algorithm):
    config, make = config_of(algorithm, "chain with random masks")
    train(config, tmp_path / "unbroken", make_env=make)
    ends = [(step, KeyboardInterrupt) for step in range(8, 313, 8)]
    assert broken_run(tmp_path / "broken", config, make, ends).is_finished
    assert_same_run(tmp_path / "unbroken", tmp_path / "broken")


def test_a_run_that_ended_before_its_first_checkpoint_begins_again(tmp_path):
    config, make = config_of("vdn", "coverage")
    train(config, tmp_path / "unbroken", make_env=make)
    with pytest.raises(Crash):
        train(config, tmp_path / "broken", make_env=make, on_progress=ending(40, Crash()))
    shutil.rmtree(tmp_path / "broken" / "checkpoints")
    with pytest.raises(CheckpointError, match=r"has no checkpoint, but metrics.jsonl has records: put the checkpoints"):
        resume(tmp_path / "broken")
    (tmp_path / "broken" / "metrics.jsonl").write_text("{ half a li")
    assert resume(tmp_path / "broken").is_finished
    assert_same_run(tmp_path / "unbroken", tmp_path / "broken")


def stopped(folder, step=200, **more):
    """Train until a step and return the configuration."""
    config, make = config_of("vdn", "chain with random masks", **more)
    assert not train(config, folder, make_env=make, on_progress=ending(step, KeyboardInterrupt())).is_finished
    return config


def edited(folder, **train_settings):
    """Write other settings of training into the config.json of a run, as somebody with an editor does."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["train"] |= train_settings
    path.write_text(json.dumps(content))


def test_where_the_pointer_is_lost_a_run_goes_on_from_the_newest_whole_checkpoint(tmp_path, caplog):
    config = stopped(tmp_path / "broken")
    train(config, tmp_path / "unbroken", make_env=make_chain)
    (tmp_path / "broken" / "checkpoints" / "latest").unlink()
    assert resume(tmp_path / "broken", make_env=make_chain).is_finished
    assert "latest is missing; the newest whole checkpoint is taken" in caplog.text
    assert read_facts(tmp_path / "broken")["attempts"][1]["from_step"] == 200
    assert_same_run(tmp_path / "unbroken", tmp_path / "broken")


def test_only_length_and_what_is_measured_and_kept_may_change_on_the_way(tmp_path, caplog):
    config = stopped(tmp_path / "run")
    whole = (tmp_path / "run" / "config.json").read_text()
    for name, value in vars(config.train).items():
        if name in MAY_CHANGE:
            continue
        others = {"discount": 0.5, "on_env_fault": "drop-episode"}
        other = not value if isinstance(value, bool) else others[name] if name in others else value + 1
        edited(tmp_path / "run", **{name: other})
        with pytest.raises(
            CheckpointError, match=rf"config.json was changed: train.{name} was {value!r}, is .* --config"
        ):
            resume(tmp_path / "run", make_env=make_chain)
        (tmp_path / "run" / "config.json").write_text(whole)
    edited(tmp_path / "run", steps=400, evaluation_episodes=2, log_every=40, evaluate_every=80, checkpoint_every=80)
    assert resume(tmp_path / "run", make_env=make_chain).step == 400
    (_, second) = read_facts(tmp_path / "run")["attempts"]
    assert second["notes"][:2] == ["train.steps was 320, is 400", "train.log_every was 48, is 40"]
    assert "train.steps was 320, is 400" in caplog.text


@pytest.mark.parametrize("name", FILES)
def test_a_run_does_not_go_on_where_lines_of_its_files_are_lost(tmp_path, name):
    folder = tmp_path / "run"
    stopped(folder)
    path = folder / name
    if name == "faults.jsonl":
        # There was none; as if there had been one that the checkpoint knows.
        state = load_checkpoint(folder / "checkpoints")
        state["recorder"]["files"][name]["lines"] = 1
        save_checkpoint(folder / "checkpoints", state)
    else:
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(
        CheckpointError, match=rf"{name} has \d lines, but had \d+ at the checkpoint: some of it is lost"
    ):
        resume(folder, make_env=make_chain)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_finished_run_whose_length_was_changed_says_how_to_train_on(tmp_path):
    config, make = config_of("vdn", "chain with random masks")
    train(config, tmp_path / "run", make_env=make)
    edited(tmp_path / "run", steps=400)
    with pytest.raises(
        CheckpointError, match=r"train.steps was 320, is 400. Put it back, or remove result.json to train"
    ):
        resume(tmp_path / "run", make_env=make)
    (tmp_path / "run" / "result.json").unlink()
    assert resume(tmp_path / "run", make_env=make).step == 400
    edited(tmp_path / "run", seed=1)
    with pytest.raises(CheckpointError, match=r"train.seed was 5, is 1. Put it back\.$"):
        resume(tmp_path / "run", make_env=make)


def test_what_an_algorithm_does_not_find_in_a_checkpoint_is_named(tmp_path):
    config = stopped(tmp_path / "run")
    state = load_checkpoint(tmp_path / "run" / "checkpoints")
    state["algorithm"] = {}
    save_checkpoint(tmp_path / "run" / "checkpoints", state)
    for read in (resume, load_run):
        with pytest.raises(
            CheckpointError, match=r"config.json: it has no '\w+'. Both say the same settings, so spnpol"
        ):
            read(tmp_path / "run", make_env=make_chain)
    # A checkpoint of a version that did not keep the settings is read as it was.
    older, _ = complete_checkpoints(tmp_path / "run" / "checkpoints")
    state = load_checkpoint(older)
    del state["config"], state["recorder"]["records_sha256"]
    save_checkpoint(tmp_path / "run" / "checkpoints", state)
    assert load_run(tmp_path / "run", make_env=make_chain).config.train == config.train
    assert resume(tmp_path / "run", make_env=make_chain).is_finished


class Slow(ChainEnv):
    """Asks for the end of the run in the middle of its second evaluation."""

    steps = 0

    def step(self, actions):
        if self.num_envs == SHORT.evaluation_episodes:
            Slow.steps += 1
            if Slow.steps == 3:
                os.kill(os.getpid(), signal.SIGTERM)
        return super().step(actions)


def test_a_signal_during_an_evaluation_ends_it_and_the_resumed_run_evaluates_again(tmp_path):
    config, _ = config_of("iql", "chain with random masks")
    train(config, tmp_path / "unbroken", make_env=make_chain)
    result = train(config, tmp_path / "broken", make_env=lambda name, **options: Slow(**options))
    assert (result.step, result.is_finished) == (96, False)
    assert [r["step"] for r in metrics_without_time(tmp_path / "broken") if r["kind"] == "evaluation"] == [0]
    assert resume(tmp_path / "broken", make_env=make_chain).is_finished
    assert_same_run(tmp_path / "unbroken", tmp_path / "broken")


class Forgetful(ChainEnv):
    is_restorable = False

    def state_dict(self):
        return {"restorable": False}

    def load_state_dict(self, state):
        return self.reset(seed=1)


def test_an_environment_without_a_state_begins_new_episodes_and_says_so(tmp_path, caplog):
    config, _ = config_of("vdn", "chain with random masks")

    def make(name, **options):
        return Forgetful(**options)

    # In the middle of the episodes, which take two steps.
    train(config, tmp_path / "run", make_env=make, on_progress=ending(88, KeyboardInterrupt()))
    with caplog.at_level(logging.WARNING):
        assert resume(tmp_path / "run", make_env=make).is_finished
    # No episode is stitched together from before and after.
    rows = (tmp_path / "run" / "episodes.csv").read_text().splitlines()[1:]
    assert {row.split(",")[4] for row in rows} == {"2"}
    assert "chain cannot save its state: every environment began a new episode" in caplog.text
    first, second = read_facts(tmp_path / "run")["attempts"]
    assert first["notes"] == []
    assert "began a new episode" in second["notes"][0]


def test_another_machine_is_named_and_refused_if_strict(tmp_path, caplog):
    config, make = config_of("vdn", "coverage")
    train(config, tmp_path / "run", make_env=make, on_progress=ending(80, KeyboardInterrupt()))
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    facts["attempts"][-1]["versions"]["torch"] = "1.0"
    facts["attempts"][-1]["threads"] = 64
    (tmp_path / "run" / "run.json").write_text(json.dumps(facts))
    with pytest.raises(ConfigError, match=r"other bits: versions.torch was 1.0, is .*; threads was 64, is 1"):
        resume(tmp_path / "run", strict=True)
    with caplog.at_level(logging.WARNING):
        assert resume(tmp_path / "run").is_finished
    assert "versions.torch was 1.0" in caplog.text
    assert "threads was 64, is 1" in caplog.text


def test_another_number_of_processes_is_refused(tmp_path):
    config, make = config_of("vdn", "coverage")
    train(config, tmp_path / "run", make_env=make, on_progress=ending(80, KeyboardInterrupt()))
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    facts["attempts"][-1]["processes"] = 2
    (tmp_path / "run" / "run.json").write_text(json.dumps(facts))
    with pytest.raises(ConfigError, match="processes was 2, is 1; start it with as many processes"):
        resume(tmp_path / "run")


def test_a_finished_run_is_left_alone(tmp_path):
    config, make = config_of("vdn", "coverage")
    result = train(config, tmp_path / "run", make_env=make)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    again = resume(tmp_path / "run")
    assert again == result._replace(evaluation=again.evaluation)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_two_processes_cannot_work_in_one_folder(tmp_path):
    config, make = config_of("vdn", "coverage")
    train(config, tmp_path / "run", make_env=make, on_progress=ending(80, KeyboardInterrupt()))
    with (tmp_path / "run" / "config.json").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another process is at work"):
            resume(tmp_path / "run")


def test_what_is_no_run_or_belongs_to_another_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"config.json is missing"):
        resume(tmp_path / "nothing")
    config, make = config_of("vdn", "coverage")
    train(config, tmp_path / "run", make_env=make, on_progress=ending(80, KeyboardInterrupt()))
    path = tmp_path / "run" / "config.json"
    content = json.loads(path.read_text())
    content["algorithm_options"]["network"]["hidden"] = [9]
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"json was changed: algorithm_options.network.hidden was \[8\], is"):
        resume(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"run.json is damaged"):
        resume(tmp_path / "run")


def test_evaluation_moves_no_random_stream(tmp_path):
    # Twice as many evaluations, and still the same learning.
    config, make = config_of("spn_ac", "coverage")
    train(config, tmp_path / "few", make_env=make)
    train(replace(config, train=replace(SHORT, evaluate_every=48)), tmp_path / "many", make_env=make)
    few, many = ([r for r in metrics_without_time(tmp_path / name) if r["kind"] == "train"] for name in ("few", "many"))
    assert few == many


def test_counts_in_the_metrics_never_go_back(tmp_path):
    config, make = config_of("iql", "matrix game")
    broken_run(tmp_path / "run", config, make, [(72, Crash), (200, Crash)])
    records = metrics_without_time(tmp_path / "run")
    assert all(first["step"] <= second["step"] for first, second in pairwise(records))
    assert all(first["updates"] <= second["updates"] for first, second in pairwise(records))


def test_replay_and_optimisers_are_part_of_the_checkpoint(tmp_path):
    config, make = config_of("spn_ac", "coverage")
    train(config, tmp_path / "run", make_env=make)
    from run_cases import saved_state

    names = saved_state(tmp_path / "run")
    assert names["/replay/columns/observation"][1] == (120, 2, 12)
    assert any(name.startswith("/algorithm/actor_optimizer/state") for name in names)
    assert any(name.startswith("/algorithm/target_critic") for name in names)
    assert {"/streams/torch/replay", "/streams/torch/exploration", "/environment/env/env/steps"} <= names.keys()


def test_a_lost_environment_is_an_error_of_the_environment(tmp_path):
    class Dead(ChainEnv):
        def step(self, actions):
            raise EnvError("dead: nothing answers")

    config, _ = config_of("vdn", "chain with random masks")
    with pytest.raises(EnvError, match="nothing answers"):
        train(config, tmp_path / "run", make_env=lambda name, **options: Dead(**options))
    assert torch.get_num_threads() == 1
