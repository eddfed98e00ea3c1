"""Teams that grow: one policy, trained with few agents, plays in teams of up to a thousand without further training.

    python benchmarks/scale.py --out benchmarks/results/scale
    python benchmarks/scale.py --task coverage --out benchmarks/results/scale_coverage

No weight of the networks knows how many agents there are, and every agent sees some of all things only, by number:
nothing grows faster than the team. Acting is one decision of one team, an update is one gradient step on 32 states;
both are medians, on one thread, each size in a process of its own, which tells its peak of memory, environments
included. Intervals are 95 % bootstrap intervals over episodes. The exponent is the slope of log time over log agents,
from 16 agents on.

assignment_game  mean_field with rivalry divides tasks, of which every agent sees and chooses among its best. Return is
                 the share of the exact optimum over all tasks (Hungarian method); beside it stand random play, agents
                 who each take their own best task, and the same networks untrained: where the best tasks of all agents
                 are nearly as good, it is enough that no two choose the same one, which the solver sees to.
coverage         spn_ac as in the preset "paper", six agents, with factors of single agents, who hear of each other at
                 the goals that several of them see, the nearest ones. Boards grow with the team, so that it is as
                 crowded as in training. All goals must be covered within 200 steps, which gets harder with their
                 number: beside success and return stands the share of goals that were covered in the end.
"""

import argparse
import csv
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch

import spnpolicy
from spnpolicy import Streams, make_algorithm
from spnpolicy.experiments.media import draw_intervals
from spnpolicy.experiments.statistics import interval_of_mean
from spnpolicy.experiments.sweeps import COVERAGE, make_plan

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend comes first

DESCENT = {"learning_rate": 3e-3, "method": "muon", "final": 0.02, "falls_after": 0.1}
ALGORITHM: dict[str, Any] = {
    "network": {"kind": "exchangeable", "hidden": [16], "features": {"frequencies": 0}},
    "rollout": 1, "num_pairs": 0, "rivalry": 8, "solver": "coordinate_ascent", "sweeps": 20, "value_bounds": False,
    "critic": DESCENT, "actor": DESCENT, "max_gradient_norm": 1.0,
    "temperature": {"initial": 0.5, "start": 0.9, "end": 0.9},
}  # fmt: skip
"""Of the assignment game."""
UNTRAINED = 5
"""Networks with other first weights, which take turns at the games."""
STATES = 32
TIMES = {"acting (ms)": 1e-3, "update (s)": 1.0}
"""What is timed, and its unit in seconds."""
Played = tuple[dict[str, list[float]], list[float]]
"""What was earned in every episode, by what it is called, and the seconds of every decision."""


class Task(NamedTuple):
    """What is learned and played."""

    config: Callable[[argparse.Namespace], spnpolicy.RunConfig]
    """The run of training."""
    of: Callable[[Any, int], dict[str, Any]]
    """From the environment of training and a number of agents to options of the environment."""
    play: Callable[[Any, argparse.Namespace], Played]
    """Plays episodes with a loaded run."""
    earns: str
    """What is on the axis of what teams earn."""
    sizes: tuple[int, ...]
    games: int
    shown: int


def main(options: argparse.Namespace) -> None:
    """Train once, play with every number of agents, and write table and picture."""
    torch.set_num_threads(1)  # small networks: more threads only wait for each other
    if options.measure is not None:
        print(json.dumps(measured(options.run, options.measure, options)))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        run = options.run or Path(folder) / "run"
        if options.run is None:
            config = TASKS[options.task].config(options)
            began = time.perf_counter()
            spnpolicy.train(config, run)
            agents = config.env_options["agents"]
            print(f"trained with {agents} agents in {time.perf_counter() - began:.0f} s", flush=True)
        trained = spnpolicy.load_run(run, num_envs=1).env.spec.num_agents
        rows = [in_own_process(run, agents, options) for agents in options.sizes or TASKS[options.task].sizes]
    with (options.out / "scale.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    large = [row for row in rows if row["agents"] >= 16]
    for what in TIMES:
        if len(large) > 1:
            slope = np.polyfit([math.log(r["agents"]) for r in large], [math.log(r[what]) for r in large], 1)[0]
            print(f"exponent of {what}: {slope:.2f}")
    draw_picture(rows, TASKS[options.task].earns, trained, options.out / "scale.png")


def in_own_process(run: Path, agents: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one size where nothing else holds memory, and print it."""
    command = [sys.executable, __file__, "--run", str(run), "--measure", str(agents)]
    given = {name: getattr(options, name) for name in ("task", "games", "repeats")}
    passed = [f"--{name}={value}" for name, value in given.items() if value is not None]
    done = subprocess.run([*command, *passed], check=True, stdout=subprocess.PIPE, text=True)
    row = json.loads(done.stdout)
    print("  ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)
    return row


def measured(run: Path, agents: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return what a team of so many earns, times and memory."""
    task = TASKS[options.task]
    changes = task.of(spnpolicy.load_run(run, num_envs=1).env, agents)
    earned, acting = task.play(spnpolicy.load_run(run, num_envs=1, env_changes=changes), options)
    row: dict[str, Any] = {"agents": agents}
    for name, values in earned.items():
        row |= interval_of_mean(values).columns(name)
    row["acting (ms)"] = 1e3 * float(np.median(acting))
    row["acting, peak (GiB)"] = peak()
    row["update (s)"] = float(np.median([updated(run, changes) for _ in range(options.repeats)]))
    row["update, peak (GiB)"] = peak()
    return row


def updated(run: Path, changes: dict[str, Any]) -> float:
    """Return the seconds of a gradient step on states that were just played."""
    needs: Any = spnpolicy.load_run(run, num_envs=1, env_changes=changes).algorithm.needs
    envs = max(1, STATES // needs.rollout)
    loaded = spnpolicy.load_run(run, num_envs=envs, env_changes=changes)
    learner: Any = loaded.algorithm
    store = spnpolicy.data.store_for(
        needs, loaded.env.spec, capacity=STATES, num_envs=envs, generator=torch.Generator().manual_seed(0)
    )
    step = loaded.env.reset(seed=0)
    store.prepare(step)
    for _ in range(needs.rollout):
        actions = learner.act(step, explore=True)
        after = loaded.env.step(actions)
        store.add(step, actions, after)
        step = after
    drawn = store.draw(STATES)
    began = time.perf_counter()
    learner.update(drawn, progress=1.0)
    return (time.perf_counter() - began) / learner.config.passes


def peak() -> float:
    """Return the most memory that this process has held so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def assignment_run(options: argparse.Namespace) -> spnpolicy.RunConfig:
    """Return the run that learns to divide tasks."""
    train = spnpolicy.TrainConfig(steps=options.steps or 60_000, num_envs=64, evaluation_episodes=64)
    game = {"agents": options.agents, "shown": options.shown or ASSIGNMENT.shown}
    return spnpolicy.RunConfig("mean_field", "assignment_game", ALGORITHM, game, train)


def play_assignment(loaded: Any, options: argparse.Namespace) -> Played:
    """Play games of one step, the others beside the policy."""
    learner, env, agents = loaded.algorithm, loaded.env, loaded.env.spec.num_agents
    whole = spnpolicy.make_env("assignment_game", agents=agents, num_envs=1)  # the same games, every task in sight
    fresh = [make_algorithm("mean_field", env.spec, Streams(seed), **ALGORITHM) for seed in range(UNTRAINED)]
    shares: dict[str, list[float]] = {name: [] for name in ("policy", "untrained", "own best", "random")}
    random, everyone, acting = np.random.default_rng(0), np.arange(agents), []
    step, seen = env.reset(seed=20_000), whole.reset(seed=20_000)
    for game in range(options.games or ASSIGNMENT.games):
        worth, best = seen.observation[0], float(whole.optimal_return(1.0)[0])
        began = time.perf_counter()
        chosen = learner.act(step, explore=False)[0]
        acting.append(time.perf_counter() - began)
        untrained = fresh[game % UNTRAINED].act(step, explore=False)[0]
        number = step.observation[0].reshape(agents, -1, 2)[..., 1].astype(int)
        drawn = random.integers(agents, size=agents)
        ways = number[everyone, chosen], number[everyone, untrained], worth.argmax(-1), drawn
        step = env.step(chosen[None])
        for values, tasks in zip(shares.values(), ways, strict=True):
            paid = np.zeros(agents)
            np.maximum.at(paid, tasks, worth[everyone, tasks])
            values.append(float(paid.sum()) / agents / best)
        seen = whole.step(np.zeros((1, agents), int))
    return shares, acting


def coverage_run(options: argparse.Namespace) -> spnpolicy.RunConfig:
    """Return the run of the preset "paper", with factors of single agents who see the nearest goals."""
    preset = COVERAGE["paper"]
    preset = replace(preset, env_options={**preset.env_options, "shown": options.shown or CROWDS.shown})
    if options.steps is not None:
        preset = replace(preset, train=replace(preset.train, steps=options.steps))
    plan = make_plan("crowds", preset, algorithms=["spn_ac"], algorithm_options={"num_pairs": 0})
    return plan.trials[0]


def crowd(env: Any, agents: int) -> dict[str, Any]:
    """Return a team of so many, with as many goals, on a board that is as crowded as another."""
    cells = (env.spec.entities.cells + 1) ** 2 / env.spec.num_agents
    return {"agents": agents, "goals": agents, "size": round(math.sqrt(cells * agents))}


def play_coverage(loaded: Any, options: argparse.Namespace) -> Played:
    """Play episodes to their ends."""
    learner, env, discount = loaded.algorithm, loaded.env, loaded.config.train.discount
    earned: dict[str, list[float]] = {name: [] for name in ("success", "return / optimum", "goals covered")}
    acting = []
    step = env.reset(seed=50_000)
    for _ in range(options.games or CROWDS.games):
        best, steps, is_over = float(env.optimal_return(discount)[0]), 0, False
        while not is_over:
            began = time.perf_counter()
            actions = learner.act(step, explore=False)
            acting.append(time.perf_counter() - began)
            step, steps = env.step(actions), steps + 1
            is_over = bool((step.terminated | step.truncated)[0])
        is_done = bool(step.terminated[0])
        found = is_done, is_done * discount ** (steps - 1) / best, env.board(final=True).goal_flags.mean()
        for values, value in zip(earned.values(), found, strict=True):
            values.append(float(value))
    return earned, acting


ASSIGNMENT = Task(
    assignment_run, lambda _, agents: {"agents": agents}, play_assignment, "return / exact optimum",
    sizes=(4, 8, 16, 30, 60, 100, 200, 400, 1024), games=50, shown=16,
)  # fmt: skip
CROWDS = Task(
    coverage_run, crowd, play_coverage, "share of what is possible",
    sizes=(6, 12, 25, 50, 100, 200, 400, 1024), games=20, shown=8,
)  # fmt: skip
TASKS = {"assignment_game": ASSIGNMENT, "coverage": CROWDS}


def draw_picture(rows: list[dict[str, Any]], earns: str, trained: int, path: Path) -> None:
    """Write what teams of every size earn, and what they cost."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    agents = [row["agents"] for row in rows]
    for name in (column.removesuffix(" low") for column in rows[0] if column.endswith(" low")):
        draw_intervals(left, agents, rows, name, name)
    left.axvline(trained, color="grey", linestyle=":", label="agents in training")
    left.set(xscale="log", xlabel="agents", ylabel=earns, ylim=(0, 1.02))
    left.legend(fontsize=8)
    for what, unit in TIMES.items():
        right.plot(agents, [row[what] * unit for row in rows], marker="o", label=what.partition(" (")[0])
    right.set(xscale="log", yscale="log", xlabel="agents", ylabel="seconds")
    right.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, default="assignment_game", help="what is learned and played")
    parser.add_argument("--agents", type=int, default=30, help="agents in training, of the assignment game")
    parser.add_argument("--shown", type=int, help="things that an agent sees: its best tasks (16), nearest goals (8)")
    parser.add_argument("--steps", type=int, help="env steps in training: 60,000 games, or the preset's")
    parser.add_argument("--run", type=Path, help="folder of a trained run, instead of training one")
    parser.add_argument("--sizes", type=int, nargs="+", metavar="N", help="agents in play: up to 1,024")
    parser.add_argument("--games", type=int, help="episodes of every size: 50, or 20 of coverage")
    parser.add_argument("--repeats", type=int, default=3, help="updates that are timed")
    parser.add_argument("--out", type=Path, default=Path("runs/scale"), help="folder for table and picture")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main(read_options())
