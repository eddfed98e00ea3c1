"""Measure how many agent steps per second the coverage gridworld makes on one core.

"step" moves the agents with ready actions and makes the observations. "full" also draws the random actions,
as a program that plays at random would. One agent step is one action of one agent.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import platform
import time
from statistics import median

import numpy as np

from spnpolicy.envs import make_env

WINDOWS = 7


def measure(options: argparse.Namespace, variant: str, batch: int, *, draws_actions: bool) -> float:
    """Return the median speed over windows, in million agent steps per second."""
    env = make_env("coverage", agents=options.agents, size=options.size, variant=variant, num_envs=batch)
    generator = np.random.default_rng(options.seed)
    shape = (batch, options.agents)
    ready = [generator.integers(0, 6, shape) for _ in range(64)]
    env.reset(seed=options.seed)
    # Games that begin together end together; spread their ages, so that every window has its share of restarts.
    state = env.state_dict()
    state["steps"] = generator.integers(env.episode_limit, size=batch)
    env.load_state_dict(state)
    for actions in ready[:8]:
        env.step(actions)
    speeds = []
    for _ in range(WINDOWS):
        start = time.perf_counter()
        count = 0
        while (elapsed := time.perf_counter() - start) < options.seconds / WINDOWS:
            env.step(generator.integers(0, 6, shape) if draws_actions else ready[count % 64])
            count += 1
        speeds.append(count * batch * options.agents / elapsed / 1e6)
    return median(speeds)


def main(options: argparse.Namespace) -> None:
    """Print one line per variant and batch size."""
    print(
        f"coverage {options.size}x{options.size}, {options.agents} agents and goals; "
        f"numpy {np.__version__}, Python {platform.python_version()}, {platform.machine()}, one core"
    )
    print("million agent steps per second, median of 7 windows")
    print(f"{'variant':<14}{'batch':>7}{'step':>9}{'full':>9}")
    for variant in options.variant:
        for batch in options.batch:
            step, full = (measure(options, variant, batch, draws_actions=draws) for draws in (False, True))
            print(f"{variant:<14}{batch:>7}{step:>9.2f}{full:>9.2f}", flush=True)


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64, 1024, 16384], help="games stepped together")
    parser.add_argument("--variant", nargs="+", default=["latch", "simultaneous", "claim"], help="rules of the game")
    parser.add_argument("--agents", type=int, default=6, help="agents, and as many goals")
    parser.add_argument("--size", type=int, default=20, help="rows and columns of the grid")
    parser.add_argument(
        "--seconds", type=float, default=1.0, help=f"per figure, divided into {WINDOWS} windows; the median is shown"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of layouts and actions")
    return parser.parse_args()


if __name__ == "__main__":
    main(read_options())
