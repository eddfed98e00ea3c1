"""Environment steps per CPU second of training on simple_spread, as EPyMARL's were measured.

    python benchmarks/spread_throughput.py --out benchmarks/results/spread_throughput

Equal on purpose: mpe2's simple_spread_v3 with 3 agents and episodes of 25 steps, through the PettingZoo adapter; one
process and one thread; feed-forward networks with two hidden layers of 64, shared by the agents; mixing network with 32
units and hypernetworks of 64; Adam; one gradient step per episode played (25 env steps), on 800 transitions, in 32
windows of 25 steps; replay of 5,000 episodes; a target copied every 200 gradient steps; double Q-learning;
epsilon-greedy actions. What is counted is everything that training does in its process: acting, stepping, storing,
learning. Evaluations, logs and checkpoints are left out on both sides.

Different: several environments are stepped side by side (--num-envs, 1 as well), with as many gradient steps per 25
iterations as there are environments, so that the ratio of data to learning stays the same; a window may begin anywhere
in an episode and is cut where that ends; the state is the observations side by side (own_state false), which is what
mpe2's `state()` would work out again.

"published" is what EPyMARL made on another, shared machine (noise about a third), where mpe2 alone made 5,082 steps per
CPU second: QMIX 755, VDN 559 and IQL 423 env steps per CPU second. With --epymarl it is measured on this machine too,
each repeat in turn with ours, by `epymarl_rate.py`, whose help says how to set it up. EPyMARL's IQL is run as it is
set there, with a GRU of 128 units; its QMIX and VDN have the networks above.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spnpolicy import Learning, RunConfig, TrainConfig, make_env

EPISODE, TRANSITIONS = 25, 800
PUBLISHED = {"qmix": 755.0, "vdn": 559.0, "iql": 423.0}
ENV: dict[str, Any] = {"N": 3, "max_cycles": EPISODE, "agents_stay": True, "own_state": False, "workers": 0}


def config_of(algorithm: str, num_envs: int) -> RunConfig:
    """Return the run that is timed."""
    options: dict[str, Any] = {
        "network": {"hidden": [64, 64], "features": {"frequencies": 0}}, "target": {"rate": 1.0, "every": 200},
        "exploration": {"start": 0.1, "end": 0.1}, "windows": True, "sequence_length": EPISODE,
    }  # fmt: skip
    train = TrainConfig(
        steps=10**7, discount=0.99, num_envs=num_envs, batch_size=TRANSITIONS, replay_capacity=125_000,
        warmup_steps=TRANSITIONS, train_every=EPISODE, updates=num_envs, evaluation_episodes=1,
    )  # fmt: skip
    return RunConfig(algorithm, "pettingzoo:mpe2.simple_spread_v3", options, ENV, train)


def training_rate(algorithm: str, num_envs: int, seconds: float) -> tuple[float, float]:
    """Return env steps per CPU second and per second of wall time, once there is something to replay."""
    config = config_of(algorithm, num_envs)
    learning = Learning(config, make_env, device="cpu", dumps=Path("."), on_fault=print)
    learning.begin()
    while learning.updates < 2 * num_envs:
        learning.iterate()
        learning.learn_if_due()
    before, cpu, wall = learning.step_count, time.process_time(), time.perf_counter()
    # Whole learning phases only, so that the ratio of steps to updates is exact.
    while time.process_time() - cpu < seconds:
        for _ in range(EPISODE):
            learning.iterate()
            learning.learn_if_due()
    done = learning.step_count - before
    rates = done / (time.process_time() - cpu), done / (time.perf_counter() - wall)
    learning.close()
    return rates


def env_rate(num_envs: int, seconds: float) -> float:
    """Return env steps per CPU second of random play through the adapter."""
    env: Any = make_env("pettingzoo:mpe2.simple_spread_v3", num_envs=num_envs, **ENV)
    env.reset(seed=0)
    generator, steps, start = np.random.default_rng(0), 0, time.process_time()
    while time.process_time() - start < seconds:
        env.step(generator.integers(0, 5, (num_envs, 3)))
        steps += num_envs
    return steps / (time.process_time() - start)


def package_rate(seconds: float) -> float:
    """Return env steps per CPU second of random play with mpe2's own parallel environment, without our code."""
    from mpe2 import simple_spread_v3

    env = simple_spread_v3.parallel_env(N=3, max_cycles=EPISODE)
    env.reset(seed=0)
    generator, steps, start = np.random.default_rng(0), 0, time.process_time()
    while time.process_time() - start < seconds:
        if not env.agents:
            env.reset()
        env.step(dict(zip(env.agents, generator.integers(0, 5, 3).tolist(), strict=True)))
        steps += 1
    return steps / (time.process_time() - start)


def epymarl_rate(folder: Path, python: Path, algorithm: str, seconds: float, seed: int) -> float:
    """Return env steps per CPU second of EPyMARL, in a process of its own with one thread."""
    program = Path(__file__).with_name("epymarl_rate.py")
    command = [python, program, folder, algorithm, "--seconds", seconds, "--seed", seed]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"EPyMARL failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])["rate"]


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithms", nargs="+", choices=PUBLISHED, default=list(PUBLISHED))
    parser.add_argument("--num-envs", nargs="+", type=int, default=[1, 8, 32], metavar="N")
    parser.add_argument("--seconds", type=float, default=10.0, help="CPU time of each measurement (default: 10)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements, taken in turn (default: 3)")
    parser.add_argument("--out", type=Path, default=Path("runs/spread-throughput"), help="folder for the results")
    parser.add_argument("--epymarl", type=Path, metavar="FOLDER", help="checkout of EPyMARL to measure beside ours")
    parser.add_argument(
        "--epymarl-python", type=Path, help="Python with its packages (default: FOLDER/.venv/bin/python)"
    )
    options = parser.parse_args()
    python = options.epymarl_python or (options.epymarl and options.epymarl / ".venv/bin/python")
    torch.set_num_threads(1)
    cells = [(name, count) for count in options.num_envs for name in options.algorithms]
    found: dict[tuple[str, int], list[tuple[float, float]]] = {cell: [] for cell in cells}
    theirs: dict[str, list[float]] = {name: [] for name in options.algorithms}
    raw, alone = [], []
    for repeat in range(options.repeats):
        alone.append(package_rate(options.seconds / 3))
        raw.append(env_rate(8, options.seconds / 3))
        for cell in cells:
            found[cell].append(training_rate(*cell, options.seconds))
        for name in options.algorithms if options.epymarl else ():
            theirs[name].append(epymarl_rate(options.epymarl, python, name, options.seconds, seed=repeat + 1))
    command = " ".join(["python benchmarks/spread_throughput.py", *sys.argv[1:]])
    lines = [
        "# Training on simple_spread: env steps per CPU second",
        "",
        f"`{command}`; median of {options.repeats}; torch {torch.__version__}, Python "
        f"{platform.python_version()}, one thread. Random play with mpe2 alone: {np.median(alone):,.0f}; through the "
        f"adapter, 8 environments: {np.median(raw):,.0f}.",
        "",
        "| algorithm | environments | env steps per CPU s | lowest, highest | EPyMARL here | lowest, highest | ratio "
        "| EPyMARL published | ratio |",
        "|" + "---|" * 9,
    ]
    for name, count in cells:
        ours, here = [cpu for cpu, _ in found[name, count]], theirs[name]
        lines.append(
            f"| {name} | {count} | {np.median(ours):,.0f} | {min(ours):,.0f}, {max(ours):,.0f} | "
            + (f"{np.median(here):,.0f} | {min(here):,.0f}, {max(here):,.0f} | " if here else "- | - | ")
            + (f"{np.median(ours) / np.median(here):.2f} | " if here else "- | ")
            + f"{PUBLISHED[name]:,.0f} | {np.median(ours) / PUBLISHED[name]:.2f} |"
        )
    text = "\n".join([*lines, "", (__doc__ or "").partition("\n\n")[2].partition("\n\n")[2]])
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "README.md").write_text(text, encoding="utf-8")
    numbers = [{"algorithm": name, "num_envs": count, "rates": rates} for (name, count), rates in found.items()]
    numbers += [{"algorithm": f"EPyMARL {name}", "num_envs": 1, "rates": rates} for name, rates in theirs.items()]
    (options.out / "rates.json").write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
