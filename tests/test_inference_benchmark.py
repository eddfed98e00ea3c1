"""The program that asks a learned policy while it plays: its statistics, and the whole of it on a small run."""

import csv
import importlib.util
from argparse import Namespace
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from circuits import CircuitDistribution, structures
from spnpolicy import RunConfig, TrainConfig, load_run, train
from tests.test_house import ROOT


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("inference_program", ROOT / "benchmarks" / "inference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("inference") / "run"
    options = {"network": {"hidden": (16,)}, "temperature": {"fixed": 0.05}}
    task = {"size": 3, "agents": 2, "goals": 1, "episode_limit": 12}
    settings = TrainConfig(steps=640, num_envs=16, batch_size=32, warmup_steps=32, evaluation_episodes=4)
    train(RunConfig("spn_ac", "coverage", options, task, settings), folder)
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def options_of(run, tmp_path, episodes=40):
    return Namespace(run=run, episodes=episodes, seed=7, threads=1, out=tmp_path, agents=None, tasks=None)


def test_area_under_the_curve_counts_pairs(program: ModuleType) -> None:
    generator = np.random.default_rng(0)
    healthy, ill = generator.integers(0, 6, 30) * 1.0, generator.integers(2, 8, 20) * 1.0
    pairs = [(a < b) + 0.5 * (a == b) for a, b in product(healthy, ill)]
    found = program.auroc(healthy, ill, 0)
    assert found.estimate == pytest.approx(np.mean(pairs))
    assert found.low < found.estimate < found.high


def test_independent_draws_have_the_marginals_and_nothing_in_common(program: ModuleType) -> None:
    circuit = structures.keep_set([2, 2], labels=4)
    best = torch.tensor([[0, 0], [1, 1]])
    pi = CircuitDistribution(circuit, torch.zeros(circuit.num_parameters))
    logits = torch.linspace(-1, 1, circuit.num_parameters) + 2.0 * pi.log_prob(best).sum()
    pi = CircuitDistribution(circuit, logits.expand(20_000, -1))
    drawn = program.independent(pi, torch.Generator().manual_seed(0)).float()
    # Four standard errors of a share are 0.014: a false alarm in 1 of 5,000 seeds.
    torch.testing.assert_close(drawn.mean(0), pi.marginals()[0, :, 1], rtol=0, atol=0.0145)
    assert abs(float(torch.corrcoef(drawn.t())[0, 1])) < 4 / 20_000**0.5


def test_healthy_teams_surprise_as_much_as_they_should_and_stuck_ones_more(program, run, tmp_path) -> None:
    loaded = load_run(run, num_envs=400)
    options = options_of(run, tmp_path, 400)
    culprit = torch.zeros(400, dtype=torch.long)
    generator = torch.Generator().manual_seed(3)
    healthy = program.watch(loaded, options, culprit, lambda pi, u: u, generator)
    # Standardised sums of martingale differences: mean 0, and four standard errors of 400 means are 0.2.
    assert abs(healthy.joint[:, -1].mean()) < 0.2
    assert 0.7 < healthy.joint[:, -1].std() < 1.3
    rare = program.watch(loaded, options, culprit, lambda pi, u: pi.marginals().argmin(-1), generator)
    assert rare.joint[:, -1].mean() > healthy.joint[:, -1].mean() + 1.0
    assert (rare.by_agent.argmax(1) == 0).mean() > (healthy.by_agent.argmax(1) == 0).mean()


def test_the_program_writes_its_tables_and_its_picture(program, run, tmp_path, capsys) -> None:
    program.main(options_of(run, tmp_path))
    printed = capsys.readouterr().out
    for name in ("communication", "anomalies", "constraints", "correlation"):
        assert rows_of(tmp_path / f"{name}.csv")
        assert name in printed
    links = rows_of(tmp_path / "communication.csv")
    shared = {row["fraction of optimum"] for row in links if row["way"] == "stay" and row["lost agents"] == "2"}
    assert shared == {"0.0"}, "a team that stays where it is reaches nothing"
    ways = {(row["may move"], row["way"]) for row in rows_of(tmp_path / "constraints.csv")}
    assert len(ways) == 2 * 3
    assert (tmp_path / "inference.png").stat().st_size > 5_000


def test_a_rule_is_kept_in_every_joint_action(program, run, tmp_path, monkeypatch) -> None:
    loaded, most = load_run(run, num_envs=40), []
    step = loaded.env.step

    def watched(actions):
        most.append(int(program.is_move(torch.as_tensor(actions), program.task_of(loaded.env)).sum(-1).max()))
        return step(actions)

    monkeypatch.setattr(loaded.env, "step", watched)
    rows = program.constraints(loaded, 0.95, options_of(run, tmp_path))
    limits = [row["may move"] for row in rows]
    assert limits == [1, 1, 1, 2, 2, 2]
    # Episodes are at most 12 steps long; the first three ways let one agent move.
    assert max(most) == 2
    assert max(most[: most.index(2)]) == 1
    assert most.index(2) >= 3


@pytest.mark.full
def test_in_the_assignment_game_a_team_that_knows_who_is_broken_takes_over(program, tmp_path) -> None:
    descent = {"learning_rate": 1e-2, "method": "muon"}
    options = {
        "network": {"kind": "exchangeable", "hidden": [16], "features": {"frequencies": 0}}, "rollout": 1,
        "num_pairs": 0, "rivalry": 4, "solver": "coordinate_ascent", "critic": descent, "actor": descent,
        "temperature": {"fixed": 0.01},
    }  # fmt: skip
    task = {"agents": 6, "tasks": 4, "shown": 3, "idle": True}
    settings = TrainConfig(steps=12_800, num_envs=64, evaluation_episodes=4)
    train(RunConfig("mean_field", "assignment_game", options, task, settings), tmp_path / "run")
    asked = options_of(tmp_path / "run", tmp_path / "out", 60)
    asked.agents, asked.tasks = 8, 5
    program.main(asked)
    rows = rows_of(tmp_path / "out" / "broken.csv")
    earned = {(row["broken agents"], row["way"]): float(row["fraction of optimum"]) for row in rows}
    assert earned["0", "best of those left"] == pytest.approx(1.0)
    for count in map(str, range(8)):
        most = earned[count, "best of those left"] + 1e-6
        assert all(value <= most for (broken, _), value in earned.items() if broken == count)
    assert earned["4", "given it"] > earned["4", "not told"]
    anomalies = {row["anomaly"]: float(row["joint: AUROC"]) for row in rows_of(tmp_path / "out" / "anomalies.csv")}
    assert anomalies["adversarial"] > 0.9
