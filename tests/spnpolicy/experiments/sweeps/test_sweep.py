"""Sweeps as people write them down: what is planned, what is refused, and what the command shows."""

import json

import pytest

from spnpolicy.base.decoding import decode, encode
from spnpolicy.base.errors import ConfigError
from spnpolicy.cli import main
from spnpolicy.experiments.sweeps.plan import Plan, read_plan, run_config
from spnpolicy.experiments.sweeps.sweep import Sweep, read_sweep, sweep_plan
from spnpolicy.training.config import Curriculum

FIRST = {
    "name": "first",
    "algorithms": {"spn_ac": {"labels": 16}, "vdn": {}},
    "environments": {
        "small": {"env": "coverage", "size": 3, "agents": 2},
        "matrix_game": {"game": "climbing"},
    },
    "seeds": 5,
    "train": {"steps": 20000},
    "evaluation_episodes": 100,
}


def written(tmp_path, **changes):
    path = tmp_path / "first.json"
    path.write_text(json.dumps({**FIRST, **changes}))
    return path


def test_every_algorithm_meets_every_environment_with_every_seed(tmp_path):
    plan = sweep_plan(read_sweep(written(tmp_path)))
    assert len(plan.trials) == 2 * 2 * 5
    assert [trial.name for trial in plan.trials[:5]] == [
        "spn_ac-small-seed0", "vdn-small-seed0", "spn_ac-matrix_game-seed0", "vdn-matrix_game-seed0",
        "spn_ac-small-seed1",
    ]  # fmt: skip
    assert len({trial.name for trial in plan.trials}) == len(plan.trials)
    assert plan.environments == ["small", "matrix_game"]
    first = plan.trials[0]
    assert (first.env, first.env_options) == ("coverage", {"size": 3, "agents": 2})
    assert first.algorithm_options["labels"] == 16
    assert {trial.train.steps for trial in plan.trials} == {20000}
    assert decode(Plan, encode(plan), path="plan") == plan


def test_an_environment_may_have_a_curriculum(tmp_path):
    small = {**FIRST["environments"]["small"], "curriculum": {"stages": [{"size": 2}], "episodes": 50}}
    changes = {"algorithms": {"vdn": {}}, "environments": {"small": small}}
    (trial, *_) = sweep_plan(read_sweep(written(tmp_path, **changes))).trials
    assert trial.env_options == {"size": 3, "agents": 2}
    assert trial.curriculum == run_config(trial).curriculum == Curriculum(({"size": 2},), episodes=50)
    small["curriculum"]["stages"].append({"agents": 1})
    with pytest.raises(ConfigError, match=r"environments.small: stage 2 of the curriculum \({'agents': 1}\): cardinal"):
        sweep_plan(read_sweep(written(tmp_path, **changes)), source="first.json.")
    small["curriculum"] = 3
    with pytest.raises(ConfigError, match=r"first.json.environments.small.curriculum is 3, but must be an object"):
        sweep_plan(read_sweep(written(tmp_path, **changes)), source="first.json.")


def test_one_environment_is_not_in_the_names(tmp_path):
    plan = sweep_plan(read_sweep(written(tmp_path, environments={"small": {"env": "coverage", "size": 3}}, seeds=1)))
    assert [trial.name for trial in plan.trials] == ["spn_ac-seed0", "vdn-seed0"]
    assert {trial.environment for trial in plan.trials} == {"small"}


def test_settings_of_replay_reach_only_who_learns_from_it(tmp_path):
    algorithms = {"vdn": {}, "ippo": {}, "iql": {"rollout": 5}}
    plan = sweep_plan(read_sweep(written(tmp_path, algorithms=algorithms, train={"steps": 500, "batch_size": 99})))
    assert {(trial.algorithm, trial.train.batch_size) for trial in plan.trials} == {
        ("vdn", 99), ("ippo", 256), ("iql", 256),
    }  # fmt: skip
    assert {trial.train.steps for trial in plan.trials} == {500}


def test_a_sweep_survives_its_file():
    sweep = decode(Sweep, FIRST, path="first.json")
    assert decode(Sweep, encode(sweep), path="again") == sweep


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algorithm": {}}, r"first\.json: unknown setting 'algorithm'. Did you mean 'algorithms'"),
        ({"seeds": 2.5}, r"first\.json\.seeds is 2\.5, but must be of type int"),
        ({"seeds": 0}, r"first\.json: seeds is 0, but must be at least 1"),
        ({"seeds": True}, r"first\.json\.seeds is True"),
        ({"train": {"step": 3}}, r"first\.json\.train: unknown setting 'step'. Did you mean 'steps'"),
        ({"train": {"steps": 0}}, r"first\.json\.train\.steps is 0, but must be at least 1"),
        ({"algorithms": {}}, r"algorithms is \{\}, but must be at least one"),
        ({"algorithms": {"vdm": {}}}, r"first\.json\.algorithms: unknown algorithm 'vdm'. Did you mean 'vdn'"),
        (
            {"algorithms": {"vdn": {"network": {"hiden": [8]}}}},
            r"first\.json\.algorithms\.vdn\.network: unknown setting 'hiden'.*'hidden'",
        ),
        ({"algorithms": {"vdn": {"network": {"hidden": 8}}}}, r"first\.json\.algorithms\.vdn\.network\.hidden is 8"),
        ({"environments": {"coverag": {}}}, r"first\.json\.environments\.coverag: .*'coverag'.*'coverage'"),
        ({"environments": {"a": {"env": 3}}}, r"first\.json\.environments\.a\.env is 3"),
        ({"environments": {"a": {"env": "coverage", "sise": 3}}}, r"first\.json\.environments\.a: .*'sise'.*'size'"),
        ({"environments": {"a": {"env": "coverage", "size": "x"}}}, r"first\.json\.environments\.a: .*size='x'"),
        ({"environments": {"../a": {"env": "coverage"}, "b": {"env": "coverage"}}}, "cannot name a folder"),
        ({"environments": {"A": {"env": "coverage"}, "a": {"env": "coverage"}}}, "would share the folder"),
        ({"environments": {"coverage": {"num_envs": 3}}}, r"environments\.coverage: num_envs is a setting of train"),
        ({"name": "../up"}, r"name is '\.\./up', but must be"),
    ],
)
def test_mistakes_are_named_with_their_place(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        sweep_plan(read_sweep(written(tmp_path, **change)), source="first.json.")


@pytest.mark.parametrize("text", ['{"seeds": NaN}', '{"seeds": 1, "seeds": 2}', "{", '{"seeds": 1e999}'])
def test_files_that_are_not_strict_json_are_refused(tmp_path, text, capsys):
    path = tmp_path / "first.json"
    path.write_text(text)
    assert main(["sweep", str(path), "--out", str(tmp_path / "out")]) == 2
    assert str(path) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_flags_say_the_same_as_a_file(tmp_path, capsys):
    flags = ["--algorithms", "spn_ac", "vdn", "--envs", "coverage", "matrix_game", "--seeds", "2", "--steps", "500"]
    assert main(["sweep", *flags, "--algorithm.network.hidden", "8,", "--dry-run"]) == 0
    by_flags = capsys.readouterr().out
    path = written(
        tmp_path,
        algorithms={name: {"network": {"hidden": [8]}} for name in ("spn_ac", "vdn")},
        environments={"coverage": {}, "matrix_game": {}},
        seeds=2,
        train={"steps": 500},
    )
    assert main(["sweep", str(path), "--dry-run"]) == 0
    assert capsys.readouterr().out == by_flags
    assert "spn_ac-matrix_game-seed1" in by_flags
    assert "8 runs; nothing was written" in by_flags
    assert [found.name for found in tmp_path.iterdir()] == ["first.json"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name a file, or --algorithms and --envs"),
        (["--algorithms", "vdn"], "name a file, or --algorithms and --envs"),
        (["--algorithms", "vdm", "--envs", "coverage"], "Did you mean 'vdn'"),
        (["--algorithms", "vdn", "--envs", "coverag"], "Did you mean 'coverage'"),
        (["--algorithms", "vdn", "--envs", "coverage", "matrix_game", "--env.size", "3"], "needs a single environment"),
        (["--algorithms", "vdn", "--envs", "coverage", "--engine", "rai"], "Did you mean 'ray'"),
        (["--algorithms", "vdn", "--envs", "coverage", "--address", "x:1"], "only the engine 'ray' has one"),
        (["FILE", "--seeds", "3"], "--seeds does not go with a file"),
        (["FILE", "--algorithm.labels", "3"], "--algorithm.labels does not go with a file"),
        (["missing.json"], "missing.json"),
    ],
)
def test_wrong_flags_are_refused_and_nothing_is_written(tmp_path, words, message, capsys):
    words = [str(written(tmp_path)) if word == "FILE" else word for word in words]
    assert main(["sweep", *words, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) <= 6
    assert not (tmp_path / "out").exists()


def test_the_command_runs_everything_and_ends_with_a_table(tmp_path, capsys):
    path = written(
        tmp_path,
        algorithms={"vdn": {"network": {"hidden": [8]}}},
        environments={"climbing": {"env": "matrix_game"}, "penalty": {"env": "matrix_game", "game": "penalty"}},
        seeds=1,
        train={"steps": 160, "num_envs": 8, "warmup_steps": 40, "batch_size": 16, "evaluation_episodes": 4},
    )
    out = tmp_path / "out"
    assert main(["sweep", str(path), "--out", str(out), "--workers", "1"]) == 0
    shown = capsys.readouterr().out
    assert f"next: spnpolicy report {out}" in shown
    header, row = (line.split() for line in shown.splitlines() if line.startswith(("algorithm ", "vdn ")))
    assert header == ["algorithm", "climbing", "penalty"]
    for label, mean in zip(header[1:], row[1:], strict=True):
        lines = (out / "trials" / f"vdn-{label}-seed0" / "evaluation.csv").read_text().splitlines()[1:]
        returns = [float(line.split(",")[1]) for line in lines]
        assert float(mean) == pytest.approx(sum(returns) / 100)
    assert len(read_plan(out).trials) == 2
    assert {found.name for found in out.iterdir()} == {"plan.json", "trials", "attempts"}
    # Again: nothing is left to do.
    before = {found: found.stat().st_mtime_ns for found in out.rglob("*")}
    assert main(["sweep", str(path), "--out", str(out)]) == 0
    assert {found: found.stat().st_mtime_ns for found in out.rglob("*")} == before
