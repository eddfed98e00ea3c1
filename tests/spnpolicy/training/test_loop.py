import csv
import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
from run_cases import fitting

from spnpolicy.base.errors import CheckpointError, ConfigError, NonFiniteError
from spnpolicy.envs import make_env
from spnpolicy.training.config import RunConfig, TrainConfig
from spnpolicy.training.evaluation import evaluate
from spnpolicy.training.loop import resume, train
from spnpolicy.training.metrics import TIME_FIELDS, read_metrics
from spnpolicy.training.runs import load_run, read_run_config
from tests.spnpolicy.chain_env import make_chain

SHORT = TrainConfig(
    steps=400,
    num_envs=8,
    batch_size=16,
    replay_capacity=100,
    warmup_steps=40,
    updates=1,
    log_every=80,
    evaluate_every=160,
    evaluation_episodes=4,
    checkpoint_every=160,
    seed=3,
)


REPLAY = {"batch_size": 16, "replay_capacity": 100, "warmup_steps": 40, "train_every": 2, "updates": 1}


def run(folder, algorithm="vdn", settings=SHORT, **options):
    callback = options.pop("on_progress", None)
    config = RunConfig(algorithm, "chain", {"network": {"hidden": [8]}}, options, settings)
    return train(config, folder, make_env=make_chain, on_progress=callback)


def without_time(folder):
    records = read_metrics(folder / "metrics.jsonl").records
    return [{key: value for key, value in record.items() if key not in TIME_FIELDS} for record in records]


def test_folder_of_a_run(tmp_path):
    seen = []
    result = run(tmp_path / "deep" / "run", on_progress=seen.append)
    folder = tmp_path / "deep" / "run"
    assert result.is_finished
    assert result.step == 400
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoints", "config.json", "episodes.csv", "metrics.jsonl", "result.json", "run.json"
    ]  # fmt: skip
    assert [entry.step for entry in seen] == list(range(8, 401, 8))
    assert seen[-1].seconds_left == 0.0
    records = without_time(folder)
    assert [r["step"] for r in records if r["kind"] == "train"] == [80, 160, 240, 320, 400]
    assert [r["step"] for r in records if r["kind"] == "evaluation"] == [0, 160, 320, 400]
    # Warm-up: the first gradient step comes with env step 40. Counts are from the start of the run.
    assert [r["updates"] for r in records if r["kind"] == "train"] == [6, 16, 26, 36, 46]
    assert [r["updates"] for r in records if r["kind"] == "evaluation"] == [0, 16, 36, 46]
    assert [r["skipped_updates"] for r in records if r["kind"] == "train"] == [0] * 5
    assert json.loads((folder / "result.json").read_text())["updates"] == 46
    facts = json.loads((folder / "run.json").read_text())
    assert (facts["num_agents"], facts["num_actions"], len(facts["attempts"])) == (2, [2, 3], 1)
    assert facts["attempts"][0]["versions"]["torch"] == torch.__version__
    with (folder / "episodes.csv").open() as file:
        rows = list(csv.DictReader(file))
    train_rows = [row for row in rows if row["kind"] == "train"]
    assert len(train_rows) == 8 * 25
    assert len(rows) - len(train_rows) == 4 * 4
    assert {row["length"] for row in rows} == {"2"}
    assert {row["discounted_return"] for row in rows} == {"0.95"}
    assert {row["success"] for row in rows} == {"1"}


@pytest.mark.parametrize("algorithm", ["iql", "vdn"])
def test_same_seed_gives_the_same_metrics_and_checkpoint(tmp_path, algorithm):
    for name in ("first", "second"):
        run(tmp_path / name, algorithm, has_action_masks=True)
    assert without_time(tmp_path / "first") == without_time(tmp_path / "second")
    for part in ("algorithm.safetensors", "state.json", "streams.safetensors"):
        newest = [max((tmp_path / name / "checkpoints").glob("checkpoint-*")) / part for name in ("first", "second")]
        assert newest[0].read_bytes() == newest[1].read_bytes()
    other = TrainConfig(**{**vars(SHORT), "seed": 4})
    run(tmp_path / "third", algorithm, other, has_action_masks=True)
    assert without_time(tmp_path / "third") != without_time(tmp_path / "first")


def test_a_loaded_run_acts_like_the_trained_one(tmp_path):
    result = run(tmp_path / "run")
    loaded = load_run(tmp_path / "run", num_envs=4, make_env=make_chain)
    assert loaded.step == 400
    assert loaded.algorithm.config.discount == loaded.config.train.discount == 0.95
    again = evaluate(loaded.algorithm, loaded.env, 4, 0.95, 0)
    assert again.summary() == result.evaluation
    assert load_run(tmp_path / "run", make_env=make_chain).env.num_envs == 8


def test_coverage_knows_its_optimum(tmp_path):
    config = RunConfig("iql", "coverage", {"network": {"hidden": [8]}}, {"agents": 2, "size": 4}, SHORT)
    result = train(config, tmp_path / "run")
    assert 0.0 <= result.evaluation["fraction_of_optimum"] <= 1.0
    loaded = load_run(tmp_path / "run", num_envs=2)
    assert type(loaded.env.unguarded) is type(make_env("coverage", agents=2, size=4, num_envs=2))


def test_an_existing_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").touch()
    with pytest.raises(ConfigError, match="choose another --out or remove it"):
        run(tmp_path)
    with pytest.raises(ConfigError, match="choose another --out or remove it"):
        run(tmp_path / "file")
    with pytest.raises(ConfigError, match="empty is a file: choose another --out or remove it"):
        run(tmp_path / "empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]


def test_wrong_names_write_nothing(tmp_path):
    config = RunConfig("vdnn", "chain", train=SHORT)
    with pytest.raises(ConfigError, match="Did you mean 'vdn'"):
        train(config, tmp_path / "run", make_env=make_chain)
    assert not (tmp_path / "run").exists()


def test_updates_that_are_not_finite_are_skipped_and_the_third_in_a_row_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("spnpolicy.training.learning.guarded", lambda env, **options: env)
    with pytest.raises(NonFiniteError, match=r"loss is nan in update 3 \(env step 56\), the third in a row"):
        run(tmp_path / "run", bad_reward=True)
    faults = [json.loads(line) for line in (tmp_path / "run" / "faults.jsonl").read_text().splitlines()]
    assert [(fault["kind"], fault["update"], fault["field"]) for fault in faults] == [
        ("update", number, "critic_loss") for number in (1, 2, 3)
    ]
    batch = safetensors.torch.load_file(faults[0]["batch"])
    assert batch["reward"].isnan().any()
    assert batch["actions"].shape == (16, 2)
    # The checkpoint is from before.
    assert load_run(tmp_path / "run", make_env=make_chain).step == 0


def test_ctrl_c_saves_and_leaves(tmp_path):
    before = signal.getsignal(signal.SIGINT)

    def interrupt(progress):
        if progress.step == 80:
            os.kill(os.getpid(), signal.SIGINT)

    result = run(tmp_path / "run", on_progress=interrupt)
    assert not result.is_finished
    # The signal may be handled one iteration later, never in the middle of one.
    assert result.step in (80, 88)
    assert not (tmp_path / "run" / "result.json").exists()
    assert load_run(tmp_path / "run", make_env=make_chain).step == result.step
    assert signal.getsignal(signal.SIGINT) is before


def test_the_second_ctrl_c_insists(tmp_path):
    def insist(progress):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", on_progress=insist)


def test_keyboard_interrupt_from_a_callback_saves_as_well(tmp_path):
    def stop(progress):
        raise KeyboardInterrupt

    result = run(tmp_path / "run", on_progress=stop)
    assert not result.is_finished
    assert load_run(tmp_path / "run", make_env=make_chain).step == 8


def test_loading_what_is_not_a_run(tmp_path):
    with pytest.raises(ConfigError, match="config.json is missing"):
        read_run_config(tmp_path)
    run(tmp_path / "run")
    assert load_run(str(tmp_path / "run"), make_env=make_chain).step == 400
    path = tmp_path / "run" / "config.json"
    good = json.loads(path.read_text())
    path.write_text(json.dumps(good | {"algorithm_options": {"network": {"hidden": [9]}}}))
    with pytest.raises(CheckpointError, match=r"config\.json was changed: algorithm_options.network.hidden was \[8\]"):
        load_run(tmp_path / "run", make_env=make_chain)
    path.write_text(json.dumps(good | {"trian": {}}))
    with pytest.raises(ConfigError, match="Did you mean 'train'"):
        load_run(tmp_path / "run", make_env=make_chain)


@pytest.mark.usefixtures("as_installed")
def test_what_is_no_path_is_refused():
    for door in (load_run, resume, lambda path: train(RunConfig("vdn", "chain"), path)):
        for wrong in (3, None, b"runs/x"):
            with pytest.raises(ConfigError, match=rf"^{wrong!r} is not the folder of a .*run: give its path"):
                door(wrong)


@pytest.mark.parametrize(
    ("algorithm", "words"),
    [
        ("vdn", "one batch of train.batch_size (16) transitions of replay"),
        ("ippo", "the newest 20 steps of all 8 environments, gone through 5 times"),
    ],
)
def test_run_json_says_what_an_update_learns_from(tmp_path, algorithm, words):
    options = {"rollout": 20} if algorithm == "ippo" else {}
    settings = replace(fitting(SHORT, algorithm), steps=160)
    train(RunConfig(algorithm, "chain", options, {}, settings), tmp_path / "run", make_env=make_chain)
    assert words in json.loads((tmp_path / "run" / "run.json").read_text())["update"]


def test_train_every_and_updates(tmp_path):
    settings = TrainConfig(**{**vars(SHORT), "train_every": 5, "updates": 3, "warmup_steps": 0})
    run(tmp_path / "run", settings=settings)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["updates"] == 10 * 3
    assert np.isfinite(without_time(tmp_path / "run")[1]["critic_loss"])


def test_settings_of_replay_are_refused_by_name_where_rollouts_are_learned_from(tmp_path):
    plain = SHORT.without_replay()
    # vdn may do either: one setting of its own decides.
    for algorithm, options in (("ippo", {}), ("vdn", {"rollout": 5})):
        for name, value in REPLAY.items():
            config = RunConfig(algorithm, "chain", options, {}, replace(plain, **{name: value}))
            message = rf"train\.{name} is {value}, but {algorithm} learns .* leave {name} out"
            with pytest.raises(ConfigError, match=message):
                train(config, tmp_path / "refused", make_env=make_chain)
            assert not (tmp_path / "refused").exists()
    with pytest.raises(ConfigError, match="leave batch_size, replay_capacity, warmup_steps, updates out"):
        run(tmp_path / "refused", "ippo", SHORT)


def test_defaults_of_replay_stand_and_runs_that_were_begun_with_other_values_go_on(tmp_path, monkeypatch):
    plain = replace(SHORT.without_replay(), steps=160)
    result = run(tmp_path / "plain", "ippo", plain)
    assert read_run_config(tmp_path / "plain").train == plain
    with monkeypatch.context() as patch:
        patch.setattr(TrainConfig, "require_use", lambda *_: None)
        assert run(tmp_path / "run", "ippo", replace(plain, **REPLAY)).evaluation == result.evaluation
    assert load_run(tmp_path / "run", make_env=make_chain).step == 160
    (tmp_path / "run" / "result.json").unlink()
    assert resume(tmp_path / "run", make_env=make_chain).evaluation == result.evaluation
