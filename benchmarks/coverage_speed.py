"""Measure how many agent steps per second the coverage gridworld makes on one core.

"step" moves the agents with ready actions and makes the observations. "full" also draws the random actions,
as a program that plays at random would. One agent step is one action of one agent.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import platform
import time
from dataclasses import dataclass
from statistics import median

import numpy as np
import tyro

from spnpolicy.envs import make_env

WINDOWS = 7


@dataclass(frozen=True)
class Options:
    """What to measure."""

    batch: tuple[int, ...] = (1, 64, 1024, 16384)
    """Numbers of games stepped together."""
    variant: tuple[str, ...] = ("latch", "simultaneous", "claim")
    """Rules of the game."""
    agents: int = 6
    """Agents, and as many goals."""
    size: int = 20
    """Rows and columns of the grid."""
    seconds: float = 1.0
    """Measuring time per figure, divided into 7 windows; the median is shown."""
    seed: int = 0
    """Seed of layouts and actions."""


def measure(options: Options, variant: str, batch: int, *, draws_actions: bool) -> float:
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


def main(options: Options) -> None:
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


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
