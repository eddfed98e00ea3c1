"""Level-based foraging 8x8-2p-3f-coop to the end: one value-based and one actor-critic algorithm.

    python benchmarks/foraging.py --out benchmarks/results/foraging

Training plays the rules as array operations ("foraging_arrays"); every trained team is then judged on games of the
package lbforaging itself, through the adapter ("foraging"), greedily, on games that all runs share. The score is the
mean team return, of which 1 means that all food is collected. Runs are kept in runs/foraging; the same command goes on
where it stopped.
"""

import argparse
import platform
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch

from spnpolicy import TrainConfig, evaluate, load_run, make_env, read_metrics
from spnpolicy.algorithms import ALGORITHMS
from spnpolicy.experiments.statistics import interval_over_runs, interval_text
from spnpolicy.experiments.sweeps import Plan, Trial, make_engine, open_folder, run_trials, trial_folder

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend comes first

TASK = "Foraging-8x8-2p-3f-coop-v3"
AGENTS = 2
GOAL = 0.9
COMMON: dict[str, Any] = {
    "num_envs": 128, "evaluate_every": 100_000, "evaluation_episodes": 256, "log_every": 50_000,
    "checkpoint_every": 500_000,
}  # fmt: skip
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "vdn": (
        {"steps": 3_000_000, "discount": 0.9, "updates": 1, "batch_size": 1_000, "replay_capacity": 500_000,
         "warmup_steps": 20_000},
        {"network": {"hidden": [128, 128]}, "trace": 0.8, "sequence_length": 10, "target": {"rate": 1.0, "every": 200},
         "exploration": {"share": 0.3}},
    ),
    "mappo": (
        {"steps": 1_500_000, "discount": 0.97},
        {"network": {"hidden": [128, 128]}, "rollout": 25, "minibatches": 4, "epochs": 4,
         "entropy": {"start": 0.02, "end": 0.002}},
    ),
}  # fmt: skip
"""Training and algorithm settings that differ from the defaults."""


def plan_of(algorithms: list[str], seeds: int) -> Plan:
    """Spell the runs out."""
    trials = []
    for seed in range(seeds):
        for name in algorithms:
            train, options = SETTINGS[name]
            told = {"seed": seed, "team_reward": ALGORITHMS[name].reward == "common"}
            settings = TrainConfig(**(COMMON | train | told))
            trials.append(Trial(name, "foraging_arrays", options, {"task": TASK}, settings))
    return Plan("foraging", tuple(trials), evaluation_episodes=256, evaluation_seed=11)


def team_return(folder: Path, episodes: int) -> float:
    """Return the mean team return of the last checkpoint of a run on games of the package."""
    run = load_run(folder, num_envs=1)
    env = make_env("foraging", task=TASK, num_envs=episodes, workers=0)
    played = evaluate(run.algorithm, env, episodes, run.config.train.discount, seed=7)
    return AGENTS * float(played.episodes.returns.mean())


def curve(folder: Path) -> np.ndarray:
    """Return env steps and greedy team returns during training, shape (2, evaluations)."""
    records = [record for record in read_metrics(folder / "metrics.jsonl").records if record["kind"] == "evaluation"]
    return np.array([[record["step"], AGENTS * record["return"]] for record in records]).T


def draw(curves: dict[str, list[np.ndarray]], path: Path) -> None:
    """Draw every run."""
    figure, axes = plt.subplots(figsize=(7, 4))
    for color, (name, runs) in zip(("#1f5fa8", "#c2571a"), curves.items(), strict=False):
        for index, (steps, returns) in enumerate(runs):
            axes.plot(steps / 1e6, returns, color=color, linewidth=1.4, alpha=0.8, label=None if index else name)
    axes.axhline(GOAL, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xlabel("million env steps")
    axes.set_ylabel("team return, greedy play")
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Train, judge, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithms", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each (default: 3)")
    parser.add_argument("--episodes", type=int, default=500, help="games of the final judgement (default: 500)")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time (default: 2)")
    parser.add_argument("--out", type=Path, default=Path("runs/foraging-results"), help="folder for the results")
    parser.add_argument("--runs", type=Path, default=Path("runs/foraging"), help="folder for the runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    plan = plan_of(options.algorithms, options.seeds)
    with open_folder(options.runs, plan):
        run_trials(plan, options.runs, make_engine("local", workers=options.workers, threads=1))
    command = " ".join(["python benchmarks/foraging.py", *sys.argv[1:]])
    lines = [
        f"# {TASK}",
        "",
        f"`{command}`; torch {torch.__version__}, Python {platform.python_version()}, "
        f"{options.workers} runs at a time, one thread each; final games: {options.episodes} of lbforaging.",
        "",
        "| algorithm | runs | env steps | mean team return at the end | first evaluation of "
        f"{GOAL} or more, million steps | env steps/s |",
        "|---|---|---|---|---|---|",
    ]
    curves: dict[str, list[np.ndarray]] = {}
    for name in options.algorithms:
        folders = [trial_folder(options.runs, trial) for trial in plan.trials if trial.algorithm == name]
        curves[name] = [curve(folder) for folder in folders]
        scores = [team_return(folder, options.episodes) for folder in folders]
        reached = [steps[returns >= GOAL] for steps, returns in curves[name]]
        first = ", ".join(f"{steps[0] / 1e6:.1f}" if len(steps) else "never" for steps in reached)
        last = [read_metrics(folder / "metrics.jsonl").records[-1] for folder in folders]
        speed = np.median([record["step"] / record["seconds"] for record in last])
        each = ", ".join(f"{score:.3f}" for score in scores)
        lines.append(
            f"| {name} | {len(folders)} | {SETTINGS[name][0]['steps']:,} | "
            f"{interval_text(interval_over_runs(scores), 3)} ({each}) | {first} | {speed:,.0f} |"
        )
    text = "\n".join(
        [*lines, "", "![curves](curves.png)", "", (__doc__ or "").partition("\n\n")[2].partition("\n\n")[2]]
    )
    options.out.mkdir(parents=True, exist_ok=True)
    draw(curves, options.out / "curves.png")
    (options.out / "README.md").write_text(text, encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
