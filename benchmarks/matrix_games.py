"""What value-based algorithms make of matrix games: the learned table, the greedy joint action and what it pays.

    python benchmarks/matrix_games.py --out benchmarks/results/matrix_games

Every algorithm learns from uniform data: all joint actions of the game once in every batch, so that nothing is due to
luck or exploration. Beside ours stand the tables of Albrecht, Christianos and Schaefer, Multi-Agent Reinforcement
Learning: Foundations and Modern Approaches (2024), for VDN and QMIX, and the exact best fit where one is known: the
additive projection for VDN, and the least mean squared error that any monotonic mix can reach.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from torch import Tensor

from spnpolicy import Streams, make_algorithm, make_env
from spnpolicy.data import Batch

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend comes first

GAMES = ("linear", "monotonic", "climbing", "penalty", "bad_basin", "qtran")
OPTIONS: dict[str, Any] = {
    "network": {"hidden": [64], "features": {"frequencies": 0}},
    "critic": {"learning_rate": 3e-3},
}
LECTURE: dict[tuple[str, str], list[list[float]]] = {
    ("linear", "vdn"): [[1.00, 5.00], [5.00, 9.00]],
    ("linear", "qmix"): [[1.00, 5.00], [5.00, 9.00]],
    ("monotonic", "vdn"): [[-2.43, 2.51], [2.60, 7.53]],
    ("monotonic", "qmix"): [[0.00, 0.00], [0.00, 10.00]],
    ("climbing", "vdn"): [[-8.84, -8.43, -1.00], [-10.66, -10.25, -2.82], [0.75, 1.16, 8.59]],
    ("climbing", "qmix"): [[-11.16, -11.16, -11.16], [-11.15, 2.34, -1.37], [-4.95, 8.72, 5.01]],
}
LEAST_MONOTONIC_ERROR = {"linear": 0.0, "monotonic": 0.0, "climbing": 110.82, "bad_basin": 4.17, "qtran": 32.0}
"""Smallest mean squared error of any monotonic table, under uniform data."""


def _critic(algorithm: Any, batch: Batch) -> Tensor:
    critic = algorithm.critic.joint
    return critic(critic.codes(batch), batch.actions, batch.state)


def _mixed(algorithm: Any, batch: Batch) -> Tensor:
    return algorithm.joint_value(batch.observation, batch.state, batch.actions)


def _elboed(algorithm: Any, batch: Batch) -> Tensor:
    (q,) = algorithm.critic(batch.observation)
    return q(batch.actions)


def _payoffs(algorithm: Any, batch: Batch) -> Tensor:
    return algorithm.critic(algorithm.critic.encoder.now(batch))(batch.actions)


TABLES: dict[str, Callable[[Any, Batch], Tensor]] = {
    "vdn": lambda algorithm, batch: algorithm.joint_value(batch.observation, batch.actions),
    "qmix": _mixed,
    "qtran": _critic,
    "coordinated": lambda algorithm, batch: algorithm.joint_factors(batch.observation)(batch.actions),
    "dcg": _payoffs,
    "central_q": lambda algorithm, batch: algorithm.joint_values(batch.state)[:, : len(batch.actions)].diagonal(),
    "spn_ac": _elboed,
}
"""How the joint value of every joint action is read from each algorithm."""


def uniform_batch(payoff: np.ndarray) -> Batch:
    """Return every joint action once."""
    count, actions = payoff.size, payoff.shape[0]
    index = torch.tensor(list(np.ndindex(payoff.shape)))
    reward = torch.tensor(payoff.reshape(-1, 1), dtype=torch.float32).expand(count, 2)
    seen, state = torch.ones(count, 2, 1), torch.ones(count, 1)
    mask = torch.ones(count, 2, actions, dtype=torch.bool)
    return Batch(seen, state, index, reward, torch.ones(count, dtype=torch.bool), mask, seen, state, mask)


def learn(name: str, game: str, seed: int, updates: int) -> dict[str, Any]:
    """Train one algorithm on one game and return what it has learned."""
    env: Any = make_env("matrix_game", game=game)
    payoff = np.asarray(env.payoff, float)
    batch = uniform_batch(payoff)
    algorithm: Any = make_algorithm(name, env.spec, Streams(seed), discount=0.0, **OPTIONS)
    for update in range(updates):
        algorithm.update(batch, progress=update / updates)
    with torch.no_grad():
        table = TABLES[name](algorithm, batch).reshape(payoff.shape).numpy()
    action = algorithm.act(env.reset(seed=0), explore=False)[0]
    error = float(np.square(table - payoff).mean())
    return {"table": table.tolist(), "action": action.tolist(), "payoff": float(payoff[tuple(action)]), "error": error}


def words(name: str, game: str, runs: list[dict[str, Any]]) -> list[str]:
    """Return a section on one algorithm in one game."""
    first = runs[0]
    payoffs = ", ".join(f"{run['payoff']:g}" for run in runs)
    errors = [run["error"] for run in runs]
    lines = [f"{name}: greedy {_letters(first['action'])}; pays {payoffs}; mean squared error {min(errors):.4g}"]
    if len(runs) > 1:
        lines[0] += f" to {max(errors):.4g}"
    lines += [f"    {row}" for row in _rows(first["table"])]
    if (game, name) in LECTURE:
        lines += ["  lecture:", *(f"    {row}" for row in _rows(LECTURE[game, name]))]
    payoff = np.asarray(_payoff(game), float)
    if name == "vdn":
        best = payoff.mean(1, keepdims=True) + payoff.mean(0, keepdims=True) - payoff.mean()
        lines += ["  additive projection:", *(f"    {row}" for row in _rows(best.tolist()))]
    if name == "qmix" and game in LEAST_MONOTONIC_ERROR:
        lines.append(f"  least error of any monotonic table: {LEAST_MONOTONIC_ERROR[game]:g}")
    return lines


def draw(results: dict[str, dict[str, list[dict[str, Any]]]], path: Path) -> None:
    """Draw the tables of pay-offs and of what was learned side by side, the greedy joint action framed."""
    names = ["pay-offs", *TABLES]
    size = (1.75 * len(names), 1.8 * len(results))
    figure, grid = plt.subplots(len(results), len(names), figsize=size, squeeze=False)
    for row, (game, found) in enumerate(results.items()):
        payoff = np.asarray(_payoff(game), float)
        for column, name in enumerate(names):
            axes = grid[row][column]
            table = payoff if not column else np.asarray(found[name][0]["table"])
            axes.imshow(table, cmap="RdBu", vmin=-np.abs(payoff).max(), vmax=np.abs(payoff).max())
            for place in np.ndindex(table.shape):
                is_dark = abs(table[place]) > 0.6 * np.abs(payoff).max()
                color = "white" if is_dark else "black"
                axes.text(
                    place[1],
                    place[0],
                    f"{round(float(table[place]), 2) + 0.0:g}",
                    ha="center",
                    va="center",
                    fontsize=7,
                    color=color,
                )
            if column:
                best = found[name][0]["action"]
                frame = plt.Rectangle((best[1] - 0.5, best[0] - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=2)
                axes.add_patch(frame)
                axes.set_xlabel(f"pays {found[name][0]['payoff']:g}", fontsize=7)
            axes.set_xticks([])
            axes.set_yticks([])
            if not row:
                axes.set_title(name, fontsize=9)
            if not column:
                axes.set_ylabel(game, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _payoff(game: str) -> Any:
    env: Any = make_env("matrix_game", game=game)
    return env.payoff


def _rows(table: list[list[float]]) -> list[str]:
    return ["  ".join(f"{value:8.2f}" for value in row) for row in table]


def _letters(action: list[int]) -> str:
    return "(" + ", ".join("ABCDEFGH"[index] for index in action) + ")"


def main() -> None:
    """Learn all tables and write them as text, JSON and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", nargs="+", choices=GAMES, default=list(GAMES), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each (default: 3); tables are of the first")
    parser.add_argument("--updates", type=int, default=4_000, help="gradient steps (default: 4000)")
    parser.add_argument("--out", type=Path, default=Path("runs/matrix-games"), help="folder for the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    command = " ".join(["python benchmarks/matrix_games.py", *sys.argv[1:]])
    text = [command, f"{options.updates} gradient steps, {options.seeds} seeds, uniform data; {versions}"]
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for game in options.games:
        results[game] = {}
        text += ["", f"== {game} ==", *(f"    {row}" for row in _rows(np.asarray(_payoff(game)).tolist())), ""]
        for name in TABLES:
            runs = [learn(name, game, seed, options.updates) for seed in range(options.seeds)]
            results[game][name] = runs
            text += words(name, game, runs)
            print("\n".join(words(name, game, runs)), flush=True)
        (options.out / "tables.txt").write_text("\n".join(text) + "\n", encoding="utf-8")
    (options.out / "tables.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draw(results, options.out / "tables.png")


if __name__ == "__main__":
    main()
