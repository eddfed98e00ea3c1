"""A trained coverage policy on other boards and in other teams, without further training.

    python benchmarks/transfer.py benchmarks/results/coverage_paper/run --out benchmarks/results/transfer

No weight of an exchangeable network knows the size of the board or the number of agents. Boards change with the team
of training, teams with its board; there are as many goals as agents. Where all pairs of agents are more than the
setting `num_pairs` of the run, the critic takes so many at random. Greedy play and play drawn from the policy meet the
same fresh episodes; intervals are 95 % bootstrap intervals over these, and say nothing about other seeds of training.
`--beside` names runs that were trained on one of those sizes; each plays its own, in the same episodes.
"""

import argparse
import csv
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch

from spnpolicy import evaluate, load_run
from spnpolicy.experiments.media import draw_intervals
from spnpolicy.experiments.statistics import interval_of_mean

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend comes first

BOARDS = (5, 10, 15, 20, 25, 30, 40, 50)
TEAMS = (2, 3, 4, 5, 6, 7, 8, 10, 14, 20, 30)
DRAWN = "sampled"


def main(options: argparse.Namespace) -> None:
    """Play everywhere, and write tables and a picture."""
    torch.set_num_threads(1)
    size, agents = trained_on(options.run)
    options.out.mkdir(parents=True, exist_ok=True)
    tables = {
        "size": [played(options.run, options, board, agents) for board in options.boards],
        "agents": [played(options.run, options, size, team) for team in options.teams],
    }
    if options.beside:
        tables["trained_there"] = [played(run, options, *trained_on(run)) for run in options.beside]
    for name, rows in tables.items():
        with (options.out / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    draw_picture(tables, {"size": size, "agents": agents}, options.out / "transfer.png")


def trained_on(run: Path) -> tuple[int, int]:
    """Return the cells per side and the number of agents of a run's training."""
    spec = load_run(run, num_envs=1).env.spec
    return round(spec.entities.cells) + 1, spec.num_agents


def played(run: Path, options: argparse.Namespace, size: int, agents: int) -> dict[str, Any]:
    """Return success and fraction of the optimum on boards of one size with teams of one size, and print them."""
    changes = {"size": size, "agents": agents, "goals": agents}
    loaded = load_run(run, num_envs=options.episodes, env_changes=changes)
    discount = loaded.config.train.discount
    row: dict[str, Any] = {"size": size, "agents": agents}
    result = evaluate(loaded.algorithm, loaded.env, options.episodes, discount, options.seed, plays=(DRAWN,))
    for play, found in {"greedy": result, "drawn": result.drawn[DRAWN]}.items():
        measures = {"success": found.episodes.successes, "fraction of optimum": found.fraction_of_optimum}
        for what, values in measures.items():
            row |= interval_of_mean(np.asarray(values, dtype=float)).columns(f"{play}: {what}")
    print("  ".join(f"{name} {value:.4g}" for name, value in row.items() if " low" not in name and " high" not in name))
    return row


def draw_picture(tables: dict[str, list[dict[str, Any]]], trained: dict[str, int], path: Path) -> None:
    """Write what is earned by the size of the board and by the number of agents."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained", sharey=True)
    for axis, (name, label) in zip(axes, {"size": "cells per side", "agents": "agents"}.items(), strict=True):
        rows = tables[name]
        for play in ("greedy", "drawn"):
            draw_intervals(axis, [row[name] for row in rows], rows, f"{play}: fraction of optimum", play)
        other = "agents" if name == "size" else "size"
        beside = [row for row in tables.get("trained_there", ()) if row[other] == trained[other]]
        if beside:
            found = [row["greedy: fraction of optimum"] for row in beside]
            axis.plot([row[name] for row in beside], found, "kD", label="trained there, greedy")
        axis.axvline(trained[name], color="grey", linestyle=":", label="in training")
        axis.set(xlabel=label, ylim=(0, 1.02))
        axis.legend(fontsize=8)
    axes[0].set_ylabel("return / exact optimum")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def run_folder(text: str) -> Path:
    """Return the folder of a run, or refuse one that is none before anything is played."""
    if not (Path(text) / "config.json").is_file():
        raise argparse.ArgumentTypeError(f"{text} is not the folder of a run")
    return Path(text)


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=run_folder, help="folder of a trained run of coverage")
    parser.add_argument(
        "--beside", type=run_folder, nargs="+", default=(), metavar="RUN", help="runs trained elsewhere"
    )
    parser.add_argument("--boards", type=int, nargs="+", default=BOARDS, metavar="N", help="cells per side")
    parser.add_argument("--teams", type=int, nargs="+", default=TEAMS, metavar="N", help="agents and goals")
    parser.add_argument("--episodes", type=int, default=500, help="episodes of every board and team")
    parser.add_argument("--seed", type=int, default=40_000, help="seed of layouts and draws")
    parser.add_argument("--out", type=Path, default=Path("runs/transfer"), help="folder for tables and a picture")
    return parser.parse_args()


if __name__ == "__main__":
    main(read_options())
