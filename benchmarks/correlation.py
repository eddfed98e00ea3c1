"""How much agents' actions have to do with each other while a joint policy learns: exactly, at every checkpoint.

    python benchmarks/correlation.py --algorithms spn_ac reinforce_vi --out benchmarks/results/correlation

Runs as in a coverage preset, seed 0. At every checkpoint the policy plays fresh episodes of the task of the preset,
by drawing; in every state on the way stand the exact total correlation sum_i H(u_i | s) - H(u | s), the entropy
H(u | s), and the information I(u_i; u_j | s) in the mean over all pairs. Shown are means over the states.
"""

import argparse
import csv
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch

from spnpolicy import load_run, train
from spnpolicy.algorithms import ALGORITHMS
from spnpolicy.experiments.sweeps import COVERAGE, make_plan

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend comes first

MEASURES = ("total correlation", "entropy", "information of a pair")
"""All in nats."""


def main(options: argparse.Namespace) -> None:
    """Train, measure on the way, and write table and picture."""
    for folder in (options.runs / name for name in options.algorithms):
        if folder.exists():
            raise SystemExit(f"{folder} exists; choose another folder with --runs.")
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name in options.algorithms:
        rows += followed(name, options)
        with (options.out / "correlation.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    draw_picture(rows, options.out / "correlation.png")


def followed(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for every checkpoint of a run of an algorithm."""
    preset = COVERAGE[options.preset]
    steps = options.steps or preset.train.steps
    settings = replace(preset.train, steps=steps, checkpoint_every=max(1, steps // max(1, options.checkpoints)))
    run = make_plan("correlation", replace(preset, train=settings, seeds=1), algorithms=[name]).trials[0]
    folder, rows = options.runs / name, []

    def measure(step: int) -> None:
        loaded = load_run(folder, num_envs=options.episodes)
        if rows and rows[-1]["step"] == loaded.step:
            return
        rows.append({"algorithm": name, "step": loaded.step, "stage": stage} | measured(loaded, options.seed))
        print(f"{name}: {step:,} steps: " + ", ".join(f"{what} {rows[-1][what]:.3f}" for what in MEASURES), flush=True)

    def on_progress(progress: Any) -> None:
        nonlocal stage, due
        stage = progress.stage
        if progress.step >= due and any((folder / "checkpoints").glob("*")):
            measure(progress.step)
            due += settings.checkpoint_every

    stage, due = 1, settings.checkpoint_every
    train(run, folder, on_progress=on_progress)
    measure(steps)
    return rows


def measured(loaded: Any, seed: int) -> dict[str, float]:
    """Return the means of all measures over the states of fresh episodes."""
    generator = torch.Generator().manual_seed(seed)
    step, agents = loaded.env.reset(seed=seed), loaded.env.spec.num_agents
    running = np.ones(loaded.env.num_envs, bool)
    seen: list[np.ndarray] = []
    while running.any():
        pi = loaded.algorithm.policy_at(step)
        pairs = [pi.mutual_information([i], [j]) for i, j in combinations(range(agents), 2)]
        found = torch.stack([pi.total_correlation(), pi.entropy(), torch.stack(pairs).mean(0)])
        seen.append(found.numpy()[:, running])
        step = loaded.env.step(pi.sample(generator=generator).numpy())
        running &= ~(step.terminated | step.truncated)
    return dict(zip(MEASURES, np.concatenate(seen, 1).mean(1).tolist(), strict=True))


def draw_picture(rows: list[dict[str, Any]], path: Path) -> None:
    """Write one panel for each measure, one line for each algorithm."""
    figure, panels = plt.subplots(1, len(MEASURES), figsize=(10, 3.2), layout="constrained")
    for axes, what in zip(panels, MEASURES, strict=True):
        for name in dict.fromkeys(row["algorithm"] for row in rows):
            own = [row for row in rows if row["algorithm"] == name]
            axes.plot([row["step"] / 1_000 for row in own], [row[what] for row in own], marker=".", label=name)
        axes.set(title=f"{what} (nats)", xlabel="thousand env steps")
        axes.set_ylim(bottom=0.0)
    panels[0].legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=COVERAGE, default="standard", help="of `spnpolicy benchmark coverage`")
    joint = [name for name, entry in ALGORITHMS.items() if entry.has_joint_policy]
    parser.add_argument(
        "--algorithms", nargs="+", choices=joint, default=["spn_ac"], metavar="NAME", help=f"of {', '.join(joint)}"
    )
    parser.add_argument("--steps", type=int, help="env steps per run (default: the preset's)")
    parser.add_argument("--checkpoints", type=int, default=24, help="how often to look")
    parser.add_argument("--episodes", type=int, default=64, help="fresh episodes at every look")
    parser.add_argument("--seed", type=int, default=40_000, help="seed of layouts and draws")
    parser.add_argument("--runs", type=Path, default=Path("runs/correlation"), help="new folder for the runs")
    parser.add_argument("--out", type=Path, default=Path("runs/correlation"), help="folder for table and picture")
    return parser.parse_args()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(read_options())
