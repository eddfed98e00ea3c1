"""A training run in a process of its own, to be killed, stopped or starved by the tests beside it.

    python run_child.py FOLDER [--resume] [--file-limit BYTES] [--slow SECONDS] [--algorithm NAME]

Prints a line `step N` whenever another N env steps are done. Exit codes as those of the command line.
"""

import argparse
import resource
import sys
import time
from pathlib import Path

import torch

from spnpolicy.base.errors import SpnPolicyError
from spnpolicy.cli.failures import exit_code
from spnpolicy.training.config import RunConfig, TrainConfig
from spnpolicy.training.loop import resume, train
from spnpolicy.training.storage import saver

SETTINGS = TrainConfig(
    steps=2_400, num_envs=8, batch_size=16, replay_capacity=2_000, warmup_steps=40, updates=1, log_every=160,
    evaluate_every=400, evaluation_episodes=4, checkpoint_every=240, seed=11,
)  # fmt: skip


def config_of(algorithm: str) -> RunConfig:
    """Return the run that every child trains."""
    return RunConfig(
        algorithm, "coverage", {"network": {"hidden": [8]}}, {"agents": 2, "size": 3, "episode_limit": 9}, SETTINGS
    )


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--file-limit", type=int)
    parser.add_argument("--slow", type=float, default=0.0)
    parser.add_argument("--algorithm", default="vdn")
    options = parser.parse_args()
    torch.set_num_threads(1)
    # The waiting times are tested with a clock of their own; here they would only cost time.
    saver.RETRY_AFTER = (0.0, 0.01, 0.02)
    if options.file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (options.file_limit, options.file_limit))

    def tell(progress):
        print(f"step {progress.step}", flush=True)
        time.sleep(options.slow)

    try:
        if options.resume and (options.folder / "config.json").exists():
            result = resume(options.folder, on_progress=tell)
        else:
            result = train(config_of(options.algorithm), options.folder, on_progress=tell)
    except SpnPolicyError as problem:
        print(problem, file=sys.stderr)
        return exit_code(problem)
    return 0 if result.is_finished else 130


if __name__ == "__main__":
    sys.exit(main())
