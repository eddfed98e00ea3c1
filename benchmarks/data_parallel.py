"""One run on two processes beside the same run on one: learning curves and speed.

    python benchmarks/data_parallel.py --seeds 10 --out benchmarks/results/data_parallel

For each seed spn_ac is trained twice on coverage with the same global number of environments, batch and replay: by one
process, and by two that torchrun starts, which share environments, replay and batch and average their gradients. The
gradient of a given batch is the same (tests/spnpolicy/training/test_parallel.py); which environments and transitions a
process sees differs, so single curves differ like those of two seeds, and the question is whether their distributions
agree.

The speed is measured apart, on larger networks and batches, as env steps and updates per second of wall time with one
thread per process, after the start-up.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from spnpolicy import RunConfig, TrainConfig, read_metrics, train
from spnpolicy.experiments.statistics import bootstrap_interval, interquartile_mean

ENV = {"agents": 2, "size": 4, "episode_limit": 50}
CURVE = TrainConfig(
    steps=24_000, num_envs=32, batch_size=128, replay_capacity=20_000, updates=2, log_every=8_000,
    evaluate_every=3_000, evaluation_episodes=200, checkpoint_every=24_000,
)  # fmt: skip
SPEED = TrainConfig(
    steps=3_840, num_envs=64, batch_size=2_048, replay_capacity=50_000, updates=2, log_every=640,
    evaluate_every=3_840, evaluation_episodes=2, checkpoint_every=3_840, warmup_steps=640,
)  # fmt: skip


def config_of(kind: str, seed: int) -> RunConfig:
    """Return the run whose curve or whose speed is looked at."""
    settings, hidden = (CURVE, [32]) if kind == "curve" else (SPEED, [256, 256])
    return RunConfig(
        "spn_ac", "coverage", {"network": {"hidden": hidden}}, ENV, TrainConfig(**{**vars(settings), "seed": seed})
    )


def run_child(folder: Path, kind: str, seed: int, processes: int) -> list[dict]:
    """Train in processes of their own and return the metrics."""
    own = folder / f"{kind}{seed}x{processes}"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    arguments = [str(Path(__file__)), "--child", kind, "--seed", str(seed), "--folder", str(own)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), *arguments],
        check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return read_metrics(own / "metrics.jsonl").records


def curve(records: list[dict]) -> tuple[list[int], list[float]]:
    """Return steps and fractions of the optimum of the evaluations."""
    found = [record for record in records if record["kind"] == "evaluation"]
    return [record["step"] for record in found], [record["fraction_of_optimum"] for record in found]


def steps_per_second(records: list[dict]) -> float:
    """Return the speed between the first and the last training record, start-up left out."""
    first, *_, last = [record for record in records if record["kind"] == "train"]
    return (last["step"] - first["step"]) / (last["seconds"] - first["seconds"])


def report(seeds: int, curves: dict[int, np.ndarray], steps: list[int], speeds: dict[int, list[float]]) -> str:
    """Return the figures as Markdown."""
    lines = [
        "# One run on two processes",
        "",
        f"`python benchmarks/data_parallel.py --seeds {seeds}`; {platform.processor() or platform.machine()}, "
        f"{os.cpu_count()} cores, torch {torch.__version__}, gloo, one thread per process.",
        "",
        "spn_ac on coverage 4x4 with 2 agents, fraction of the optimum in 200 evaluation episodes: interquartile mean",
        f"over {seeds} seeds and its 95 % bootstrap interval, at the same global batch.",
        "",
        "| env steps | one process | two processes | intervals overlap |",
        "|---|---|---|---|",
    ]
    for index, step in enumerate(steps):
        both = [
            bootstrap_interval([curves[n][:, index : index + 1]], generator=np.random.default_rng(0)) for n in (1, 2)
        ]
        texts = [f"{part.estimate:.3f} [{part.low:.3f}, {part.high:.3f}]" for part in both]
        overlap = both[0].low <= both[1].high and both[1].low <= both[0].high
        lines.append(f"| {step:,} | {texts[0]} | {texts[1]} | {'yes' if overlap else '**no**'} |")
    means = {n: float(interquartile_mean(curves[n].mean(axis=1))) for n in (1, 2)}
    rates = {n: float(np.median(speeds[n])) for n in (1, 2)}
    lines += [
        "",
        f"Mean over the curve: {means[1]:.3f} with one process, {means[2]:.3f} with two.",
        "",
        f"Speed with hidden layers 256, 256 and batches of {SPEED.batch_size:,} (median of {len(speeds[1])} runs): "
        f"{rates[1]:.0f} env steps/s with one process, {rates[2]:.0f} with two: {rates[2] / rates[1]:.2f} times.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and write the report; with --child, train one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--speed-runs", type=int, default=3)
    parser.add_argument("--out", type=Path, help="folder for README.md and curves.json")
    parser.add_argument("--child", choices=["curve", "speed"], help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        torch.set_num_threads(1)
        train(config_of(options.child, options.seed), options.folder)
        return
    curves: dict[int, list[list[float]]] = {1: [], 2: []}
    speeds: dict[int, list[float]] = {1: [], 2: []}
    steps: list[int] = []
    with tempfile.TemporaryDirectory() as name:
        for number in range(options.speed_runs):
            for processes in (1, 2):
                speeds[processes].append(steps_per_second(run_child(Path(name), "speed", number, processes)))
                print(f"speed, {processes} process(es): {speeds[processes][-1]:.0f} env steps/s", flush=True)
        for seed in range(options.seeds):
            for processes in (1, 2):
                steps, values = curve(run_child(Path(name), "curve", seed, processes))
                curves[processes].append(values)
                print(f"seed {seed}, {processes} process(es): {values[-1]:.3f}", flush=True)
    text = report(options.seeds, {n: np.array(values) for n, values in curves.items()}, steps, speeds)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "README.md").write_text(text)
        (options.out / "curves.json").write_text(json.dumps({"steps": steps, "curves": curves, "speeds": speeds}))


if __name__ == "__main__":
    main()
