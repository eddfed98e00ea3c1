"""Agents break down: who takes over? Trained policies beside an oracle that assigns goals anew in every step.

    spnpolicy benchmark coverage --preset breakdowns --env.announced false --out runs/unannounced
    python benchmarks/breakdowns.py runs/unannounced --out benchmarks/results/breakdowns/unannounced

There are more agents than goals, and in each episode none to three of them stop for good at a random time; all runs
were trained so. Everybody sees who is broken, or with `--env.announced false` nobody does: a team can only be told by
condition then: a policy over joint actions is conditioned on u_i = stay. "Not conditioned" plays as if all could
move, and the broken ones stay nevertheless. The oracle knows positions and who is broken, not what will break: it
gives free goals to working agents so that the longest way is shortest, in every step anew. Fractions are of the exact
optimum, which knows the breakdowns beforehand; intervals are 95 % bootstrap intervals over all episodes of all seeds.
Recovered is what a policy earns above the best factored one, as a share of what the oracle does.
"""

import argparse
import csv
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from spnpolicy import evaluate, load_run
from spnpolicy.experiments.media import draw_intervals
from spnpolicy.experiments.statistics import interval_of_mean

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend comes first

STAY, UP, DOWN, LEFT, RIGHT = range(5)
FACTORED = ("iql", "vdn", "qmix", "ippo", "mappo")
ORACLE, BLIND = "oracle", "not conditioned"


class Player:
    """Plays and learns nothing."""

    config: Any = None

    def update(self, batch: Any, *, progress: float) -> dict[str, float]:
        """Learn nothing."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back nothing."""


class Oracle(Player):
    """Sends working agents to free goals by an assignment whose longest way is shortest, made anew in every step."""

    def __init__(self, env: Any) -> None:
        self._cells, self._goals = env.spec.entities.cells, env.spec.entities.sets[0].count

    def act(self, step: Any, *, explore: bool, progress: float = 1.0) -> np.ndarray:
        """Return the joint actions of all games."""
        seen = step.observation
        own, goals = seen[:, :, :3], seen[:, 0, 3 : 3 + 3 * self._goals].reshape(len(seen), -1, 3)
        place = np.rint(own[:, :, :2] * self._cells).astype(int)
        target = np.rint((goals[:, :, :2] + own[:, :1, :2]) * self._cells).astype(int)
        is_out = (own[:, :, 2] > 0) | ~step.available_actions[:, :, UP:].any(-1)
        return np.stack([self._moves(*game) for game in zip(place, is_out, target, goals[:, :, 2] > 0, strict=True)])

    def _moves(self, place: np.ndarray, is_out: np.ndarray, goals: np.ndarray, is_taken: np.ndarray) -> np.ndarray:
        working, free = np.flatnonzero(~is_out), np.flatnonzero(~is_taken)
        actions = np.full(len(place), STAY)
        distance = np.abs(place[working, None] - goals[None, free]).sum(-1)
        # Each cell counts more than all shorter ways together: the longest way first, then the next.
        agents, chosen = linear_sum_assignment(len(place) ** (distance - distance.max(initial=0)).astype(float))
        others = {tuple(goal) for goal in goals[free].tolist()}
        for agent, goal in zip(working[agents], free[chosen], strict=True):
            actions[agent] = self._step(place[agent], goals[goal], others - {tuple(goals[goal].tolist())})
        return actions

    @staticmethod
    def _step(place: np.ndarray, goal: np.ndarray, others: set[tuple[int, ...]]) -> int:
        """Return a move towards the goal, around the other free goals if one of two ways is."""
        rows, columns = goal - place
        ways = []
        if rows:
            ways.append((abs(rows), UP if rows < 0 else DOWN, (place[0] + np.sign(rows), place[1])))
        if columns:
            ways.append((abs(columns), LEFT if columns < 0 else RIGHT, (place[0], place[1] + np.sign(columns))))
        clear = [way for way in ways if tuple(map(int, way[2])) not in others]
        return max(clear or ways, default=(0, STAY, ()))[1]


class Blind(Player):
    """A joint policy that plays as if no agent were broken; those that are stay where they are."""

    def __init__(self, algorithm: Any) -> None:
        self._algorithm = algorithm

    def act(self, step: Any, *, explore: bool, progress: float = 1.0) -> np.ndarray:
        """Return the joint actions of all games."""
        everything = step._replace(available_actions=np.ones_like(step.available_actions))
        actions = self._algorithm.act(everything, explore=explore, progress=progress)
        allowed = np.take_along_axis(step.available_actions, actions[..., None], -1)[..., 0]
        return np.where(allowed, actions, STAY)


def main(options: argparse.Namespace) -> None:
    """Play with every run, and write tables and picture."""
    torch.set_num_threads(options.threads)
    folders = sorted(path.parent for path in options.runs.rglob("run.json"))
    if not folders:
        raise SystemExit(f"{options.runs}: no runs in it; make them with the benchmark preset breakdowns.")
    options.out.mkdir(parents=True, exist_ok=True)
    earned: dict[tuple[str, int], list[np.ndarray]] = defaultdict(list)
    succeeded: dict[tuple[str, int], list[np.ndarray]] = defaultdict(list)
    for index, folder in enumerate(folders):
        loaded = load_run(folder, num_envs=options.episodes)
        env, name, discount = loaded.env, loaded.config.algorithm, loaded.config.train.discount
        players = {name: loaded.algorithm} | ({ORACLE: Oracle(env)} if index == 0 else {})
        if name == "spn_ac":
            players |= {f"{name}, {BLIND}": Blind(loaded.algorithm)}
        for label, player in players.items():
            result = evaluate(player, env, options.episodes, discount, options.seed, plays=())
            env.reset(seed=options.seed)
            broken = broken_in(env)
            assert result.fraction_of_optimum is not None, "coverage knows its optimum"
            for count in np.unique(broken).tolist():
                earned[label, count].append(result.fraction_of_optimum[broken == count])
                succeeded[label, count].append(result.episodes.successes[broken == count].astype(float))
        print(f"{folder} played", flush=True)
    rows = table(earned, succeeded)
    with (options.out / "breakdowns.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print("  ".join(f"{value:.3f}" if isinstance(value, float) else f"{value:24}" for value in row.values()))
    draw_picture(rows, options.out / "breakdowns.png")


def broken_in(env: Any) -> np.ndarray:
    """Return how many agents break in each of the current episodes, should they last."""
    never = np.iinfo(np.int32).max
    return np.array([int((env.board(index).breaks < never).sum()) for index in range(env.num_envs)])


def table(
    earned: dict[tuple[str, int], list[np.ndarray]], succeeded: dict[tuple[str, int], list[np.ndarray]]
) -> list[dict[str, Any]]:
    """Return one row for each way of play and number of broken agents."""
    counts = sorted({count for _, count in earned})
    means = {key: float(np.concatenate(values).mean()) for key, values in earned.items()}
    rows = []
    for label in dict.fromkeys(label for label, _ in earned):
        for count in counts:
            row: dict[str, Any] = {"who": label, "broken": count}
            for what, of in (("success", succeeded), ("fraction of optimum", earned)):
                row |= interval_of_mean(np.concatenate(of[label, count])).columns(what)
            factored = max((means[name, count] for name in FACTORED if (name, count) in means), default=np.nan)
            row["recovered"] = (means[label, count] - factored) / (means[ORACLE, count] - factored)
            rows.append(row)
    return rows


def draw_picture(rows: list[dict[str, Any]], path: Path) -> None:
    """Write what everybody earns by the number of broken agents."""
    figure, axes = plt.subplots(figsize=(6, 3.8), layout="constrained")
    for label in dict.fromkeys(row["who"] for row in rows):
        own = [row for row in rows if row["who"] == label]
        draw_intervals(axes, [row["broken"] for row in own], own, "fraction of optimum", label)
    axes.set(xlabel="agents that break down", ylabel="return / exact optimum")
    axes.set_xticks(sorted({row["broken"] for row in rows}))
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder with trained runs, at any depth")
    parser.add_argument("--episodes", type=int, default=2_000, help="episodes of every run")
    parser.add_argument("--seed", type=int, default=30_000, help="seed of layouts and breakdowns")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--out", type=Path, default=Path("runs/breakdowns-played"), help="folder for table and picture")
    return parser.parse_args()


if __name__ == "__main__":
    main(read_options())
