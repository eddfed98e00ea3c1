"""Coverage by crowds: one policy, trained with six agents, plays in teams of up to a thousand without further training.

    python benchmarks/crowds.py --out benchmarks/results/crowds

Boards grow with the team, so that it is as crowded as in training (20x20 for six agents). Every agent sees the nearest
goals only, by number, and factors are of single agents, who hear of each other at the goals that several of them see:
nothing grows faster than the team. All goals must be covered within 200 steps, which gets harder with their number:
beside success and return, as a share of the exact optimum, stands the share of goals that were covered in the end. An
update is one gradient step on 32 states. Times are medians on one thread, each size in a process of its own, which
tells its peak of memory, boards included; intervals are 95 % bootstrap intervals over episodes.
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
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch

import spnpolicy
from spnpolicy.experiments.media import draw_intervals
from spnpolicy.experiments.statistics import interval_of_mean
from spnpolicy.experiments.sweeps import COVERAGE, make_plan

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend comes first

SIZES = (6, 12, 25, 50, 100, 200, 400, 1024)
STATES = 32
MEASURES = ("success", "return / optimum", "goals covered")


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
            train(run, options)
        rows = [in_own_process(run, agents, options) for agents in options.sizes]
    with (options.out / "crowds.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    large = [row for row in rows if row["agents"] >= 16]
    for what in ("acting (ms)", "update (s)"):
        if len(large) > 1:
            slope = np.polyfit([math.log(r["agents"]) for r in large], [math.log(r[what]) for r in large], 1)[0]
            print(f"exponent of {what}: {slope:.2f}")
    draw_picture(rows, options.out / "crowds.png")


def train(run: Path, options: argparse.Namespace) -> None:
    """Train spn_ac as the preset "paper" does, with factors of single agents who see the nearest goals."""
    preset = COVERAGE["paper"]
    preset = replace(preset, env_options={**preset.env_options, "shown": options.shown})
    if options.steps is not None:
        preset = replace(preset, train=replace(preset.train, steps=options.steps))
    plan = make_plan("crowds", preset, algorithms=["spn_ac"], algorithm_options={"num_pairs": 0})
    trial, began = plan.trials[0], time.perf_counter()
    settings = {part.name: getattr(trial, part.name) for part in fields(spnpolicy.RunConfig)}
    spnpolicy.train(spnpolicy.RunConfig(**settings), run)
    print(f"trained in {time.perf_counter() - began:.0f} s", flush=True)


def in_own_process(run: Path, agents: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one size where nothing else holds memory, and print it."""
    command = [sys.executable, __file__, "--run", str(run), "--measure", str(agents)]
    passed = [f"--{name}={getattr(options, name)}" for name in ("games", "repeats")]
    done = subprocess.run([*command, *passed], check=True, stdout=subprocess.PIPE, text=True)
    row = json.loads(done.stdout)
    print("  ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)
    return row


def measured(run: Path, agents: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return what a team of so many earns, times and memory."""
    known = spnpolicy.load_run(run, num_envs=1)
    per_agent = (known.env.spec.entities.cells + 1) ** 2 / known.env.spec.num_agents
    changes = {"agents": agents, "goals": agents, "size": round(math.sqrt(per_agent * agents))}
    loaded = spnpolicy.load_run(run, num_envs=1, env_changes=changes)
    learner, env, discount = loaded.algorithm, loaded.env, loaded.config.train.discount
    earned: dict[str, list[float]] = {name: [] for name in MEASURES}
    acting = []
    step = env.reset(seed=50_000)
    for _ in range(options.games):
        best, steps, is_over = float(env.optimal_return(discount)[0]), 0, False
        while not is_over:
            began = time.perf_counter()
            actions = learner.act(step, explore=False)
            acting.append(time.perf_counter() - began)
            step, steps = env.step(actions), steps + 1
            is_over = bool((step.terminated | step.truncated)[0])
        is_done = bool(step.terminated[0])
        values = float(is_done), is_done * discount ** (steps - 1) / best, env.board(final=True).goal_flags.mean()
        for name, value in zip(MEASURES, values, strict=True):
            earned[name].append(float(value))
    row: dict[str, Any] = {"agents": agents, "cells per side": changes["size"]}
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
    learner, env = loaded.algorithm, loaded.env
    store = spnpolicy.data.store_for(
        needs, env.spec, capacity=STATES, num_envs=envs, generator=torch.Generator().manual_seed(0)
    )
    step = env.reset(seed=0)
    store.prepare(step)
    for _ in range(needs.rollout):
        actions = learner.act(step, explore=True)
        after = env.step(actions)
        store.add(step, actions, after)
        step = after
    drawn = store.draw(STATES)
    began = time.perf_counter()
    learner.update(drawn, progress=1.0)
    return (time.perf_counter() - began) / learner.config.passes


def peak() -> float:
    """Return the most memory that this process has held so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def draw_picture(rows: list[dict[str, Any]], path: Path) -> None:
    """Write what teams of every size earn, and what they cost."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    agents = [row["agents"] for row in rows]
    for name in MEASURES:
        draw_intervals(left, agents, rows, name, name)
    left.set(xscale="log", xlabel="agents", ylim=(0, 1.02))
    left.legend(fontsize=8)
    for what, factor in (("acting (ms)", 1e-3), ("update (s)", 1.0)):
        right.plot(agents, [row[what] * factor for row in rows], marker="o", label=what.partition(" (")[0])
    right.set(xscale="log", yscale="log", xlabel="agents", ylabel="seconds")
    right.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="folder of a trained run, instead of training one")
    parser.add_argument("--shown", type=int, default=8, help="goals that an agent sees: the nearest")
    parser.add_argument("--steps", type=int, help="env steps in training (default: the preset's)")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="N", help="agents in play")
    parser.add_argument("--games", type=int, default=20, help="episodes of every size")
    parser.add_argument("--repeats", type=int, default=3, help="updates that are timed")
    parser.add_argument("--out", type=Path, default=Path("runs/crowds"), help="folder for table and picture")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main(read_options())
