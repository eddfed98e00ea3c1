"""The programs about breakdowns, other teams and large ones: oracle, statistics, and each as a whole on a small run."""

import csv
import importlib.util
from argparse import ArgumentTypeError, Namespace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from spnpolicy import RunConfig, TrainConfig, evaluate, make_env, train
from tests.test_house import ROOT


def program(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_program", ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_the_oracle_plays_as_well_as_can_be_where_nothing_breaks_and_always_succeeds() -> None:
    oracle = program("breakdowns").Oracle
    for options, least in (({"size": 8, "agents": 4}, 0.985), ({"size": 8, "agents": 5, "goals": 3, "broken": 2}, 0.9)):
        env = make_env("coverage", num_envs=300, **options)
        result = evaluate(oracle(env), env, 300, 0.95, 0, plays=())
        assert result.fraction_of_optimum is not None
        assert result.episodes.successes.all()
        assert least < result.fraction_of_optimum.mean() <= 1.0


def test_broken_agents_are_counted_and_the_blind_ones_stay() -> None:
    module = program("breakdowns")
    env = make_env("coverage", num_envs=400, size=6, agents=4, goals=2, broken=2)
    step = env.reset(seed=1)
    share = np.bincount(module.broken_in(env), minlength=3) / 400
    # Four standard errors of a share of a third are 0.094.
    assert np.allclose(share, 1 / 3, atol=0.094)

    class Restless:
        config = None

        def act(self, step, *, explore, progress):
            assert step.available_actions.all()
            return np.ones((len(step.observation), 4), int)

    for _ in range(8):
        actions = module.Blind(Restless()).act(step, explore=False)
        assert np.array_equal(actions == 0, ~step.available_actions[..., 1])
        step = env.step(actions)


def test_a_table_says_how_much_of_the_oracles_lead_is_recovered() -> None:
    earned = {
        ("oracle", 1): [np.array([1.0, 0.8])], ("vdn", 1): [np.array([0.5]), np.array([0.7])],
        ("qmix", 1): [np.array([0.4])], ("spn_ac", 1): [np.array([0.75, 0.75])],
    }  # fmt: skip
    rows = {row["who"]: row for row in program("breakdowns").table(earned, earned)}
    assert rows["spn_ac"]["recovered"] == pytest.approx((0.75 - 0.6) / (0.9 - 0.6))
    assert rows["vdn"]["recovered"] == pytest.approx(0.0)
    assert rows["oracle"]["recovered"] == pytest.approx(1.0)


@pytest.mark.full
def test_breakdowns_are_played_with_every_run_of_a_folder(tmp_path: Path) -> None:
    task = {"size": 4, "agents": 3, "goals": 1, "broken": 1, "episode_limit": 20}
    settings = TrainConfig(steps=320, num_envs=16, batch_size=16, warmup_steps=32, evaluation_episodes=4)
    for name in ("spn_ac", "vdn"):
        config = RunConfig(name, "coverage", {"network": {"hidden": (8,)}}, task, settings)
        train(config, tmp_path / "runs" / name / "seed0")
    options = Namespace(runs=tmp_path / "runs", episodes=40, seed=0, threads=1, out=tmp_path / "out")
    program("breakdowns").main(options)
    rows = rows_of(tmp_path / "out" / "breakdowns.csv")
    assert {row["who"] for row in rows} == {"spn_ac", "spn_ac, not conditioned", "vdn", "oracle"}
    assert {row["broken"] for row in rows} == {"0", "1"}
    assert (tmp_path / "out" / "breakdowns.png").stat().st_size > 5_000


@pytest.mark.full
def test_a_policy_is_measured_with_more_agents_than_it_was_trained_with(tmp_path: Path) -> None:
    module = program("scale")
    settings = TrainConfig(steps=640, num_envs=16, evaluation_episodes=4)
    task = {"agents": 3, "shown": 4}
    train(RunConfig("mean_field", "assignment_game", module.ALGORITHM, task, settings), tmp_path / "run")
    options = Namespace(
        measure=None,
        run=tmp_path / "run",
        out=tmp_path / "out",
        sizes=[3, 6],
        games=4,
        repeats=1,
        task="assignment_game",
    )
    module.main(options)
    rows = rows_of(tmp_path / "out" / "scale.csv")
    assert [row["agents"] for row in rows] == ["3", "6"]
    assert all(0.0 < float(row["random"]) < 1.0 and float(row["policy"]) <= 1.0 for row in rows)
    assert all(float(row["acting (ms)"]) > 0.0 and float(row["update (s)"]) > 0.0 for row in rows)
    assert (tmp_path / "out" / "scale.png").stat().st_size > 5_000


@pytest.mark.full
def test_crowds_play_on_boards_that_grow_with_them(tmp_path: Path) -> None:
    module = program("scale")
    options = Namespace(
        measure=None, run=None, out=tmp_path, sizes=[6, 10], games=1, repeats=1, shown=2, steps=2_048, task="coverage"
    )
    module.main(options)
    rows = rows_of(tmp_path / "scale.csv")
    assert [row["agents"] for row in rows] == ["6", "10"]
    env = make_env("coverage", size=20, agents=6)
    assert module.crowd(env, 10) == {"agents": 10, "goals": 10, "size": 26}
    assert all(0.0 <= float(row["goals covered"]) <= 1.0 for row in rows)
    assert all(float(row["acting (ms)"]) > 0.0 and float(row["update (s)"]) > 0.0 for row in rows)
    assert (tmp_path / "scale.png").stat().st_size > 5_000


@pytest.mark.full
def test_a_policy_plays_on_other_boards_and_in_other_teams(tmp_path: Path) -> None:
    settings = TrainConfig(steps=320, num_envs=16, batch_size=16, warmup_steps=32, evaluation_episodes=4)
    network = {"network": {"kind": "exchangeable", "hidden": [8]}, "solver": "exact"}
    task = {"size": 4, "agents": 2, "goals": 2, "episode_limit": 20}
    for name, changes in {"run": {}, "three": {"agents": 3, "goals": 3}}.items():
        train(RunConfig("spn_ac", "coverage", network, task | changes, settings), tmp_path / name)
    options = Namespace(
        run=tmp_path / "run", beside=[tmp_path / "three"], boards=[4, 6], teams=[2, 3], episodes=6, seed=0,
        out=tmp_path / "out",
    )  # fmt: skip
    program("transfer").main(options)
    boards, teams, beside = (rows_of(tmp_path / "out" / f"{name}.csv") for name in ("size", "agents", "trained_there"))
    assert [(row["size"], row["agents"]) for row in boards] == [("4", "2"), ("6", "2")]
    assert [(row["size"], row["agents"]) for row in teams] == [("4", "2"), ("4", "3")]
    # The same board, team and layouts in both tables.
    assert {**boards[0]} == {**teams[0]}
    assert [(row["size"], row["agents"]) for row in beside] == [("4", "3")]
    assert all(0.0 <= float(row["drawn: fraction of optimum"]) <= 1.0 for row in boards + teams + beside)
    assert (tmp_path / "out" / "transfer.png").stat().st_size > 5_000
    with pytest.raises(ArgumentTypeError, match="nowhere is not the folder of a run"):
        program("transfer").run_folder(str(tmp_path / "nowhere"))


@pytest.mark.full
def test_parts_of_spn_ac_are_changed_one_at_a_time_and_their_runs_end_in_one_table(tmp_path: Path) -> None:
    module = program("ablations")
    names = list(module.CHANGES)
    options = Namespace(
        preset="quick", only=["as it is", "no pairs"], seeds=2, steps=2_048, episodes=20, workers=2,
        runs=tmp_path / "runs", out=tmp_path / "out",
    )  # fmt: skip
    settings = {
        name: {trial.algorithm: trial.algorithm_options for trial in module.plan_of(name, options).trials}
        for name in names
    }
    assert len({str(each) for each in settings.values()}) == len(names) - 1  # all but the curriculum
    assert settings["no pairs"]["spn_ac"]["num_pairs"] == 0
    assert not module.plan_of("no curriculum", options).trials[0].curriculum.stages
    module.main(options)
    rows = rows_of(tmp_path / "out" / "ablations.csv")
    assert [(row["change"], row["runs"]) for row in rows] == [("as it is", "2"), ("no pairs", "2")]
    assert all("[" in row["return / optimum"] for row in rows)


@pytest.mark.full
def test_correlation_is_measured_at_every_checkpoint_as_the_definition_says(tmp_path: Path) -> None:
    module = program("correlation")
    settings = {"algorithms": ["spn_ac"], "preset": "quick", "steps": 4_096, "checkpoints": 2, "episodes": 4, "seed": 1}
    options = Namespace(**settings, runs=tmp_path / "runs", out=tmp_path / "out")
    module.main(options)
    rows = rows_of(tmp_path / "out" / "correlation.csv")
    assert [int(row["step"]) for row in rows] == [2_048, 4_096]
    for row in rows:
        total, entropy, pair = (float(row[what]) for what in module.MEASURES)
        assert 0.0 < entropy < 3 * np.log(6)
        assert 0.0 <= pair <= total <= 3 * np.log(6) - entropy + 1e-5
    with pytest.raises(SystemExit, match="--runs"):
        module.main(options)
