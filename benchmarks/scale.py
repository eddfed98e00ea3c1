"""Teams that grow: one policy, trained with few agents, divides tasks among many without further training.

    python benchmarks/scale.py --out benchmarks/results/scale

mean_field with rivalry learns the assignment game with a few agents, and then plays it with ever more: no weight of
its networks knows how many agents or tasks there are, and every agent sees and chooses among its best tasks only.
Return is the share of the exact optimum over all tasks (Hungarian method), with 95 % bootstrap intervals over games;
beside it stand random play, agents who each take their own best task, and the same networks untrained: where the best
tasks of all agents are nearly as good, it is enough that no two choose the same one, which the solver sees to. Acting
is one decision of one team, an update is one gradient step on a batch of games; both are medians, on one thread, each
size in a process of its own, which tells its peak of memory, games included. The exponent is the slope of log time over
log agents, from 16 agents on.
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
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch

import spnpolicy
from spnpolicy import Streams, make_algorithm
from spnpolicy.experiments.media import draw_intervals
from spnpolicy.experiments.statistics import interval_of_mean

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend comes first

DESCENT = {"learning_rate": 3e-3, "method": "muon", "final": 0.02, "falls_after": 0.1}
ALGORITHM: dict[str, Any] = {
    "network": {"kind": "exchangeable", "hidden": [16], "features": {"frequencies": 0}},
    "rollout": 1, "num_pairs": 0, "rivalry": 8, "solver": "coordinate_ascent", "sweeps": 20, "value_bounds": False,
    "critic": DESCENT, "actor": DESCENT, "max_gradient_norm": 1.0,
    "temperature": {"initial": 0.5, "start": 0.9, "end": 0.9},
}  # fmt: skip
WAYS = ("policy", "untrained", "own best", "random")
UNTRAINED = 5
"""Networks with other first weights, which take turns at the games."""
SIZES = (4, 8, 16, 30, 60, 100, 200, 400, 1024)


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
            train = spnpolicy.TrainConfig(steps=options.steps, num_envs=64, evaluation_episodes=64)
            task = {"agents": options.agents, "shown": options.shown}
            config = spnpolicy.RunConfig("mean_field", "assignment_game", ALGORITHM, task, train)
            began = time.perf_counter()
            spnpolicy.train(config, run)
            print(f"trained with {options.agents} agents in {time.perf_counter() - began:.0f} s", flush=True)
        rows = [in_own_process(run, agents, options) for agents in options.sizes]
    with (options.out / "scale.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    large = [row for row in rows if row["agents"] >= 16]
    for what in ("acting (ms)", "update (s)"):
        if len(large) > 1:
            slope = np.polyfit([math.log(r["agents"]) for r in large], [math.log(r[what]) for r in large], 1)[0]
            print(f"exponent of {what}: {slope:.2f}")
    draw_picture(rows, options.agents, options.out / "scale.png")


def in_own_process(run: Path, agents: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one size where nothing else holds memory, and print it."""
    command = [sys.executable, __file__, "--run", str(run), "--measure", str(agents)]
    passed = [f"--{name}={getattr(options, name)}" for name in ("shown", "games", "batch", "repeats")]
    done = subprocess.run([*command, *passed], check=True, stdout=subprocess.PIPE, text=True)
    row = json.loads(done.stdout)
    print("  ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)
    return row


def measured(run: Path, agents: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return return, times and memory of one number of agents."""
    learner: Any = spnpolicy.load_run(run, num_envs=1).algorithm
    env = spnpolicy.make_env("assignment_game", agents=agents, shown=options.shown, num_envs=1)
    whole = spnpolicy.make_env("assignment_game", agents=agents, num_envs=1)  # the same games, every task in sight
    learner.retarget(env.spec)
    fresh = [make_algorithm("mean_field", env.spec, Streams(seed), **ALGORITHM) for seed in range(UNTRAINED)]
    shares: dict[str, list[float]] = {name: [] for name in WAYS}
    random, acting = np.random.default_rng(0), []
    step, seen = env.reset(seed=20_000), whole.reset(seed=20_000)
    for game in range(options.games):
        worth, best = seen.observation[0], float(whole.optimal_return(1.0)[0])
        began = time.perf_counter()
        chosen = learner.act(step, explore=False)[0]
        acting.append(time.perf_counter() - began)
        untrained = fresh[game % UNTRAINED].act(step, explore=False)[0]
        number, everyone = step.observation[0].reshape(agents, -1, 2)[..., 1].astype(int), np.arange(agents)
        drawn = random.integers(agents, size=agents)
        ways = number[everyone, chosen], number[everyone, untrained], worth.argmax(-1), drawn
        step = env.step(chosen[None])
        for name, tasks in zip(WAYS, ways, strict=True):
            paid = np.zeros(agents)
            np.maximum.at(paid, tasks, worth[everyone, tasks])
            shares[name].append(float(paid.sum()) / agents / best)
        seen = whole.step(np.zeros((1, agents), int))
    row: dict[str, Any] = {"agents": agents}
    for name, values in shares.items():
        row |= interval_of_mean(values).columns(name)
    row["acting (ms)"] = 1e3 * float(np.median(acting))
    row["acting, peak (GiB)"] = peak()
    row["update (s)"] = float(np.median([updated(learner, agents, options) for _ in range(options.repeats)]))
    row["update, peak (GiB)"] = peak()
    return row


def updated(learner: Any, agents: int, options: argparse.Namespace) -> float:
    """Return the seconds of an update on games that were just played."""
    batch = options.batch
    env = spnpolicy.make_env("assignment_game", agents=agents, shown=options.shown, num_envs=batch)
    store = spnpolicy.data.store_for(
        learner.needs, env.spec, capacity=batch, num_envs=batch, generator=torch.Generator().manual_seed(0)
    )
    before = env.reset(seed=0)
    store.prepare(before)
    actions = np.zeros((batch, agents), int)
    store.add(before, actions, env.step(actions))
    drawn = store.draw(batch)
    began = time.perf_counter()
    learner.update(drawn, progress=1.0)
    return time.perf_counter() - began


def peak() -> float:
    """Return the most memory that this process has held so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def draw_picture(rows: list[dict[str, Any]], trained: int, path: Path) -> None:
    """Write what teams of every size earn, and what they cost."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    agents = [row["agents"] for row in rows]
    for name in WAYS:
        draw_intervals(left, agents, rows, name, name)
    left.axvline(trained, color="grey", linestyle=":", label="agents in training")
    left.set(xscale="log", xlabel="agents", ylabel="return / exact optimum", ylim=(0, 1.02))
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
    parser.add_argument("--agents", type=int, default=30, help="agents in training")
    parser.add_argument("--shown", type=int, default=16, help="tasks that an agent sees: its best")
    parser.add_argument("--steps", type=int, default=60_000, help="games in training")
    parser.add_argument("--run", type=Path, help="folder of a trained run, instead of training one")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="N", help="agents in play")
    parser.add_argument("--games", type=int, default=50, help="games of every size")
    parser.add_argument("--batch", type=int, default=32, help="games of an update")
    parser.add_argument("--repeats", type=int, default=3, help="updates that are timed")
    parser.add_argument("--out", type=Path, default=Path("runs/scale"), help="folder for table and picture")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main(read_options())
