"""Every algorithm on the small games, the assignment game, coverage and foraging: tables, curves, steps per second.

    python benchmarks/baselines.py --out benchmarks/results/baselines     # all that take minutes, in their order
    python benchmarks/baselines.py --suites games assignment --seeds 10 --scale 4

All algorithms get the same networks (widths, features), the same step size of what they play by (the policies of policy
gradients, the action values of all others; what is learned beside has its default), the same tasks, the same number of
env steps and about as many gradient updates. Learners from replay step 16 to 64 environments at a time and then do one
gradient update on 256 transitions. On-policy learners do one for as many env steps, all of them new: they step fewer
environments, so that a rollout is that large and has several steps where episodes have; PPO goes through its rollouts
five times, which are as many times longer. REINFORCE learns from whole episodes only: where these are long, its
rollouts are as long, in 4 environments, and its updates fewer. Everything else is each algorithm's default, but for
rbm, which has one hidden layer and draws with 10 sweeps instead of 100, and what is named below a table. Nobody was
tuned, so a low number says that an algorithm did not get there in these few steps with its defaults, not that it
cannot.

Gradient updates are steps of the optimiser of what is played by: the actor, or the critic where there is no actor.
Samples per env step say how often an env step was learned from on average; for coma they are those of its critic, which
makes ten steps to each of the actors'. Speeds include evaluations and suffer from whatever else the machine did. Runs
are kept in runs/baselines; the same command goes on where it stopped. A score is the interquartile mean over runs with
its 95 % bootstrap interval of the final evaluation: greedy play, return as a share of the best possible one where that
is known, the team's return otherwise. The row "random play" is what uniform actions earn in 2,000 episodes.
"""

import argparse
import platform
import shutil
import statistics
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spnpolicy import TrainConfig, evaluate, make_env, read_metrics
from spnpolicy.algorithms import ALGORITHMS, config_class
from spnpolicy.envs import Step
from spnpolicy.experiments.reports import Report, make_report, read_run, write_report_folder
from spnpolicy.experiments.statistics import Interval, interval_over_runs, interval_text
from spnpolicy.experiments.sweeps import (
    Environment,
    Plan,
    cross,
    is_finished,
    make_engine,
    open_folder,
    run_trials,
    trial_folder,
)

HIDDEN = {"rbm": [64]}
"""Hidden layers where they are not 64 and 64: one is all that a Boltzmann machine has."""
OWN: dict[str, dict[str, Any]] = {"rbm": {"sweeps": 10}}
"""Settings of single algorithms on top: fewer samples."""
FEW_CANDIDATES: dict[str, dict[str, Any]] = {"aql": {"num_proposed": 16, "num_uniform": 16}}
"""What amortized Q-learning gets where its default of 500 candidates is too slow, or more than there are actions."""
WHOLE_EPISODES = {"reinforce": 4}
"""Who learns from whole episodes only, and in how many environments where these are long."""

RANDOM_EPISODES = 2_000
"""Episodes of random play."""


@dataclass(frozen=True)
class Suite:
    """Tasks that share a budget."""

    title: str
    environments: dict[str, Environment]
    train: TrainConfig
    seeds: int
    frequencies: int = 4
    """Waves per number of an observation, see `FourierFeatures`; the same for all."""
    measure: str = "fraction_of_optimum"
    """What of the final evaluation is shown: a name of `spnpolicy.experiments.reports.MEASURES`."""
    unit: str = "return / best possible return"
    """The same in words."""
    factor: float = 1.0
    """What it is multiplied by."""
    without: tuple[str, ...] = ()
    """Algorithms that cannot take part: too many joint actions."""
    own: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Settings of single algorithms in this suite, on top of `OWN`."""
    note: str = ""
    """What to say about them."""
    episodes: int = 500
    """Episodes of the final evaluation of each run."""
    rollout: int = 1
    """Steps of an on-policy rollout that is gone through once; its environments are fewer by this factor."""
    longest_episode: int = 1
    """Steps of the longest episode."""
    is_long: bool = False
    """Takes the better part of an hour, and is run only where --suites names it."""


def _game(game: str, **options: Any) -> Environment:
    return Environment("matrix_game", {"game": game, **options})


def _train(steps: int, **options: Any) -> TrainConfig:
    budget = {
        "steps": steps, "num_envs": 16, "batch_size": 256, "updates": 1, "replay_capacity": 50_000,
        "warmup_steps": 500, "log_every": steps // 10, "evaluate_every": steps // 20, "evaluation_episodes": 16,
        "checkpoint_every": steps,
    }  # fmt: skip
    return TrainConfig(**(budget | options))


SUITES: dict[str, Suite] = {
    "games": Suite(
        "one-step games and the two-step game",
        {
            **{name: _game(name) for name in ("climbing", "penalty", "qtran")},
            "two_step": Environment("two_step", {}),
        },
        _train(16_000),
        seeds=2,
        frequencies=0,
        measure="return",
        unit="pay-off of the greedy joint action",
        episodes=16,
        rollout=2,
        longest_episode=2,
        own=FEW_CANDIDATES,
        note="aql has 32 candidates instead of its default of 500: there are at most 9 joint actions.",
    ),
    "assignment": Suite(
        "assignment game, 4 agents and 4 tasks, fresh pay-offs in every episode",
        {"assignment_4": Environment("assignment_game", {"agents": 4, "tasks": 4})},
        _train(32_000, num_envs=32, evaluation_episodes=128),
        seeds=2,
        frequencies=0,
    ),
    "assignment_large": Suite(
        "assignment game, 30 agents and 30 tasks",
        {"assignment_30": Environment("assignment_game", {"agents": 30, "tasks": 30})},
        _train(9_600, num_envs=32, evaluation_episodes=64),
        seeds=1,
        frequencies=0,
        without=("central_q", "central_a2c", "pareto_ac"),
        own={"dcg": {"graph": "ring"}} | FEW_CANDIDATES,
        note="dcg plays on a ring: on a complete graph, 435 pairs of 900 pay-offs each, 960 env steps took 11 minutes. "
        "aql has 32 candidates instead of its default of 500: with these a run took three minutes already.",
        episodes=200,
    ),
    "coverage_quick": Suite(
        "coverage, 5x5, 3 agents",
        {"coverage_quick": Environment("coverage", {"size": 5, "agents": 3, "variant": "latch"})},
        _train(64_000, num_envs=64, replay_capacity=100_000, evaluation_episodes=64),
        seeds=2,
        rollout=4,
        longest_episode=200,
    ),
    "coverage_standard": Suite(
        "coverage, 10x10, 4 agents",
        {"coverage_standard": Environment("coverage", {"size": 10, "agents": 4, "variant": "latch"})},
        replace(_train(400_000, num_envs=64, replay_capacity=200_000, evaluation_episodes=64), discount=0.99),
        seeds=2,
        frequencies=8,
        rollout=4,
        longest_episode=200,
        is_long=True,
        own=FEW_CANDIDATES,
        note="The discount is 0.99: of the teams that walk at random one in seven succeeds within 200 steps, which is "
        "worth 0.042 then, but 0.002 at 0.95, the preset's. The preset takes 2,000,000 env steps and "
        "begins on smaller boards. "
        "aql has 32 candidates instead of its default of 500.",
    ),
    "foraging": Suite(
        "foraging 8x8-2p-3f-coop",
        {"foraging": Environment("foraging_arrays", {"task": "Foraging-8x8-2p-3f-coop-v3"})},
        replace(_train(128_000, num_envs=64, replay_capacity=200_000, evaluation_episodes=64), discount=0.99),
        seeds=2,
        measure="return",
        unit="team return, at most 1",
        factor=2.0,
        rollout=4,
        longest_episode=50,
        own=FEW_CANDIDATES,
        note="aql has 32 candidates instead of its default of 500: there are at most 36 joint actions.",
    ),
}


def step_size(algorithm: str) -> dict[str, Any]:
    """Return the setting of what an algorithm plays by: policies of policy gradients, action values of all others."""
    plays_by = "actor" if ALGORITHMS[algorithm].family.startswith("policy gradient") else "critic"
    return {plays_by: {"learning_rate": 1e-3}}


def data_of(algorithm: str, suite: Suite) -> tuple[dict[str, Any], int]:
    """Return the rollout that an algorithm gets, if it learns from rollouts, and its number of environments."""
    defaults, envs = config_class(algorithm)(), suite.train.num_envs
    if getattr(defaults, "rollout", None) is None:
        return {}, envs
    if algorithm in WHOLE_EPISODES and suite.longest_episode > suite.rollout:
        return {"rollout": suite.longest_episode}, WHOLE_EPISODES[algorithm]
    return {"rollout": suite.rollout * getattr(defaults, "epochs", 1)}, envs // suite.rollout


def plan_of(name: str, suite: Suite, algorithms: list[str]) -> Plan:
    """Spell a suite out for these algorithms."""
    chosen = [algorithm for algorithm in algorithms if algorithm not in suite.without]
    options = {
        name: {
            "network": {"hidden": HIDDEN.get(name, [64, 64]), "features": {"frequencies": suite.frequencies}},
        }
        | step_size(name)
        | data_of(name, suite)[0]
        | OWN.get(name, {})
        | suite.own.get(name, {})
        for name in chosen
    }
    plan = cross(
        f"baselines-{name}", options, suite.environments, suite.train,
        seeds=suite.seeds, evaluation_episodes=suite.episodes,
    )  # fmt: skip
    trials = [
        replace(trial, train=replace(trial.train, num_envs=data_of(trial.algorithm, suite)[1])) for trial in plan.trials
    ]
    return replace(plan, trials=tuple(trials))


def run_all(plan: Plan, folder: Path, workers: int) -> None:
    """Run what is missing of a plan in processes that take one trial after the other; a trial that fails is named."""
    with open_folder(folder, plan):
        ended = run_trials(plan, folder, make_engine("local", workers=workers))
    for trial in ended:
        if trial.state == "failed":
            print(f"{plan.name}: {trial.name} failed: {trial.problem}", file=sys.stderr, flush=True)
    if not all(trial.is_over for trial in ended) or any(trial.state == "stopped" for trial in ended):
        raise SystemExit("interrupted; the same command goes on where this one stopped")


def speeds(plan: Plan, folder: Path) -> dict[str, float]:
    """Return the median over runs of env steps per second of wall time, evaluations included, of each algorithm."""
    rates: dict[str, list[float]] = {}
    for trial in plan.trials:
        if is_finished(trial, folder):
            last = read_metrics(trial_folder(folder, trial) / "metrics.jsonl").records[-1]
            rates.setdefault(trial.algorithm, []).append(last["step"] / last["seconds"])
    return {algorithm: statistics.median(values) for algorithm, values in rates.items()}


def efforts(plan: Plan, folder: Path) -> dict[str, tuple[float, float]]:
    """Return the medians over runs of gradient updates and of samples per env step of each algorithm."""
    found: dict[str, list[tuple[float, float]]] = {}
    for trial in plan.trials:
        if is_finished(trial, folder):
            run = read_run(trial_folder(folder, trial))
            found.setdefault(trial.algorithm, []).append((run.gradient_updates or 0, run.samples_per_env_step or 0.0))
    return {
        algorithm: (statistics.median(updates), statistics.median(samples))
        for algorithm, (updates, samples) in ((name, zip(*counts, strict=True)) for name, counts in found.items())
    }


def write_suite(report: Report, rates: dict[str, float], out: Path) -> None:
    """Write the table, the runs, the curves and the speeds of a suite; what stood there is replaced."""
    shutil.rmtree(out, ignore_errors=True)
    for path in write_report_folder(report, out):
        # Of 21 algorithms the other pictures show less than the table.
        if not (path.name in ("report.txt", "table.csv", "runs.csv") or path.name.startswith("curves")):
            path.unlink()
    lines = ["algorithm,env_steps_per_second", *(f"{name},{rate:.1f}" for name, rate in rates.items())]
    (out / "speed.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def scores(plan: Plan, folder: Path, suite: Suite) -> dict[tuple[str, str], Interval]:
    """Return the score of each algorithm in each task."""
    values: dict[tuple[str, str], list[float]] = {}
    for trial in plan.trials:
        if is_finished(trial, folder):
            run = read_run(trial_folder(folder, trial))
            # The undiscounted return is known of the evaluations during training, the last of which is at the end.
            score = run.final.get(suite.measure, run.histories[suite.measure].values[-1]) * suite.factor
            values.setdefault((trial.algorithm, trial.environment), []).append(float(score))
    return {key: interval_over_runs(each) for key, each in values.items()}


class RandomPlay:
    """Uniform actions, for comparison."""

    def __init__(self) -> None:
        self._generator = np.random.default_rng(0)

    def act(self, step: Step, *, explore: bool, progress: float = 1.0) -> np.ndarray:
        """Draw an available action for each agent, also when asked not to explore."""
        return np.where(step.available_actions, self._generator.random(step.available_actions.shape), -1.0).argmax(2)


def random_scores(plan: Plan, suite: Suite) -> dict[str, float]:
    """Return what uniform random play earns in each task."""
    found: dict[str, float] = {}
    for task, environment in suite.environments.items():
        batch = make_env(environment.env, num_envs=RANDOM_EPISODES, **environment.options)
        player: Any = RandomPlay()
        result = evaluate(player, batch, RANDOM_EPISODES, suite.train.discount, plan.evaluation_seed)
        found[task] = result.summary()[suite.measure] * suite.factor
    return found


def section(name: str, suite: Suite, plan: Plan, folder: Path) -> list[str]:
    """Return a table of algorithms x tasks in Markdown."""
    found, rates, counts = scores(plan, folder, suite), speeds(plan, folder), efforts(plan, folder)
    seeds = f"{suite.seeds} seeds" if suite.seeds > 1 else "1 seed, so no interval"
    budget = f"{suite.train.steps:,} env steps, one gradient update for {suite.train.num_envs} of them, {seeds}"
    tasks = list(suite.environments)
    columns = ["algorithm", *tasks, "gradient updates", "samples per env step", "env steps/s"]
    lines = [f"## {suite.title}", "", f"{budget}; score: {suite.unit}.", ""]
    lines += ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for algorithm, rate in rates.items():
        keys = [(algorithm, task) for task in tasks]
        cells = [interval_text(found[key], 3) if key in found else "-" for key in keys]
        updates, samples = counts[algorithm]
        cells += [f"{updates:,.0f}", f"{samples:.1f}", f"{rate:,.0f}"]
        lines.append(f"| {algorithm} | " + " | ".join(cells) + " |")
    at_random = [f"{value:.3f}" for value in random_scores(plan, suite).values()]
    lines.append("| random play | " + " | ".join(at_random) + " | | | |")
    if suite.note:
        lines += ["", suite.note]
    if suite.without:
        lines += ["", f"Not here, because of too many joint actions: {', '.join(suite.without)}."]
    failed = [trial.name for trial in plan.trials if not is_finished(trial, folder)]
    if failed:
        lines += ["", f"Failed: {', '.join(failed)}."]
    made_with = f"torch {torch.__version__}, Python {platform.python_version()}, one thread for each run"
    return [*lines, "", f"Curves and runs: [{name}]({name}); {made_with}.", ""]


def write_readme(out: Path) -> None:
    """Put the sections that are there one below the other; those of suites that were not run now stay as they are."""
    head = ["# Every algorithm on the same tasks", "", __doc__.partition("\n\n")[2]]
    sections = [out / name / "table.txt" for name in SUITES]
    parts = [path.read_text(encoding="utf-8") for path in sections if path.is_file()]
    (out / "README.md").write_text("\n".join([*head, *parts]), encoding="utf-8")


def main() -> None:
    """Run the suites and write their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = [name for name, suite in SUITES.items() if not suite.is_long]
    known = f"which ones of {', '.join(SUITES)} (default: all but {', '.join(set(SUITES) - set(usual))})"
    parser.add_argument("--suites", nargs="+", choices=SUITES, default=usual, metavar="NAME", help=known)
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS), metavar="NAME")
    parser.add_argument("--seeds", type=int, help="runs of each algorithm and task instead of the suite's number")
    parser.add_argument("--scale", type=float, default=1.0, help="multiply the env steps (default: 1)")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time (default: 2)")
    parser.add_argument("--out", type=Path, default=Path("runs/baselines-results"), help="folder for the results")
    parser.add_argument("--runs", type=Path, default=Path("runs/baselines"), help="folder for the runs")
    options = parser.parse_args()
    for name in options.suites:
        suite = SUITES[name]
        steps = int(suite.train.steps * options.scale)
        train = replace(suite.train, steps=steps, evaluate_every=max(1, steps // 20), log_every=max(1, steps // 10))
        suite = replace(suite, seeds=options.seeds or suite.seeds, train=replace(train, checkpoint_every=steps))
        plan, folder = plan_of(name, suite, options.algorithms), options.runs / name
        run_all(plan, folder, options.workers)
        write_suite(make_report([folder]), speeds(plan, folder), options.out / name)
        lines = section(name, suite, plan, folder)
        (options.out / name / "table.txt").write_text("\n".join(lines), encoding="utf-8")
        write_readme(options.out)
        print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
