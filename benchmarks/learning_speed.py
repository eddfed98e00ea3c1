"""How many env steps per second spn_ac learns from: 10x10 coverage with 4 agents, and 30 agents that divide 30 tasks.

    python benchmarks/learning_speed.py

All ways have the same networks, hidden layers of 64 and 64 on flat observations, and gradient steps on 256 rows. The
first three learn from replay, one gradient step after every step of all environments: "learned" follows the gradient
of the exact ELBO with networks of its own; "shared" adds a correction to the critic's tables, from the critic's codes;
"exact" plays by the optimum for these tables. In the last two the slow copies play, so that targets need no second
critic. "fresh" is "exact" as the presets learn, from the newest 16 steps, each of them in two gradient steps. Seconds
are of CPU time, on one thread; the median of three windows.

The same file measures an older checkout, whose spn_ac may only know the first way:

    PYTHONPATH=/path/to/older python benchmarks/learning_speed.py --ways learned
"""

import argparse
import time
from statistics import median
from typing import Any

import torch

from spnpolicy import Streams, make_algorithm, make_env
from spnpolicy.data import store_for

WAYS: dict[str, dict[str, Any]] = {
    "learned": {},
    "shared": {"potentials": "residual", "shares_encoder": True, "plays_by": "target"},
    "exact": {"solver": "exact", "plays_by": "target"},
    "fresh": {
        "solver": "exact", "plays_by": "target", "trace": 0.6, "rollout": 16, "passes": 2, "minibatch": 256,
    },
}  # fmt: skip
TASKS: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "10x10, 4 agents": ("coverage", {"size": 10, "agents": 4, "num_envs": 64}, 8, 64),
    "30 agents": ("assignment_game", {"agents": 30, "num_envs": 32}, 0, 16),
}
"""Environment, options, waves of the features and iterations per window."""
WINDOWS, BATCH, WARM = 3, 256, 16


def main(options: argparse.Namespace) -> None:
    """Print one line per task and way."""
    torch.set_num_threads(1)
    for task, (name, settings, frequencies, iterations) in TASKS.items():
        for way in options.ways:
            env = make_env(name, **settings)
            print(f"{task:16} {way:8} {speed(env, way, frequencies, iterations):8,.0f} env steps/s", flush=True)


def speed(env: Any, way: str, frequencies: int, iterations: int) -> float:
    """Return env steps per second of play and learning."""
    network = {"hidden": [64, 64], "features": {"frequencies": frequencies}}
    learner: Any = make_algorithm(
        "spn_ac", env.spec, Streams(0), network=network, critic={"learning_rate": 1e-3}, **WAYS[way]
    )
    store = store_for(
        learner.needs, env.spec, capacity=50_000, num_envs=env.num_envs, generator=torch.Generator().manual_seed(0)
    )
    step = env.reset(seed=0)
    store.prepare(step)
    seconds = []
    for number in range(WARM + WINDOWS * iterations):
        began = time.process_time()
        actions = learner.act(step, explore=True)
        after = env.step(actions)
        store.add(step, actions, after)
        step = after
        rollout = learner.needs.rollout
        is_due = len(store) >= BATCH if rollout is None else (number + 1) % rollout == 0
        if is_due:
            learner.update(store.draw(BATCH), progress=0.1)
        if number >= WARM:
            seconds.append(time.process_time() - began)
    windows = [sum(seconds[at : at + iterations]) for at in range(0, len(seconds), iterations)]
    return iterations * env.num_envs / median(windows)


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="which to measure")
    return parser.parse_args()


if __name__ == "__main__":
    main(read_options())
