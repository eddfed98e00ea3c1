"""Facts about a run that its numbers do not show: what they count, and on what they were made."""

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spnpolicy.base.decoding import flat
from spnpolicy.base.distributed import world
from spnpolicy.data.env import EnvSpec
from spnpolicy.data.protocol import Needs
from spnpolicy.training.config import RunConfig


def run_facts(config: RunConfig, spec: EnvSpec, needs: Needs) -> dict[str, Any]:
    """Return what stays the same over all attempts at a run.

    Args:
        config: the run.
        spec: what its environment declares.
        needs: the data that its algorithm learns from.
    """
    of_replay = f"one batch of train.batch_size ({config.train.batch_size}) transitions of replay"
    of_rollout = f"the newest {needs.rollout} steps of all {config.train.num_envs} environments"
    times = f", gone through {needs.passes} times" if needs.passes > 1 else ""
    return {
        "algorithm": config.algorithm,
        "env": config.env,
        "num_agents": spec.num_agents,
        "num_actions": list(spec.cardinalities),
        "return_scale": "rewards of an episode summed, mean over the agents; discounted_return weights them by "
        "discount^t",
        "env_step": "one step of one environment: a batch of n environments counts n steps at a time",
        "update": f"one call of the algorithm's update on {of_replay if needs.rollout is None else of_rollout}{times}",
        "gradient_update": "one step of the optimiser of what is played by: the actor's, or the critic's without one",
        "sample": "one transition in one gradient step; a transition counts for every step that it takes part in",
    }


def attempt_facts(step: int, device: str) -> dict[str, Any]:
    """Return when, where and with what an attempt at a run begins.

    Args:
        step: env steps that were done before.
        device: where the networks are.
    """
    return {
        "from_step": step,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "commit": source_commit(),
        "machine": {
            "system": f"{platform.system()} {platform.release()}",
            "processor": _processor(),
            "cores": os.cpu_count(),
        },
        "device": device if device == "cpu" else f"{device} ({torch.cuda.get_device_name(device)})",
        "threads": torch.get_num_threads(),
        "processes": world().size,
    }


def versions() -> dict[str, str]:
    """Return the versions of what computes the numbers."""
    return {
        "spnpolicy": version("spnpolicy"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return in words what differs between two attempts and can change bits."""
    old, new = flat(before), flat(now)
    names = ("versions.spnpolicy", "versions.python", "versions.torch", "versions.numpy", "commit")
    names += ("machine.processor", "device", "threads", "processes")
    return [f"{name} was {old.get(name)}, is {new.get(name)}" for name in names if old.get(name) != new.get(name)]


@cache
def source_commit() -> str | None:
    """Return the commit of the source that runs, with "+changes" if it was edited; None if it is no git checkout."""
    git = shutil.which("git")
    root = Path(__file__).resolve().parents[2]
    if git is None or not (root / ".git").exists():
        return None
    try:
        commit = _output([git, "-C", str(root), "rev-parse", "HEAD"])
        edited = _output([git, "-C", str(root), "status", "--porcelain", "--untracked-files=no"])
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+changes" if edited else commit


def _output(command: list[str]) -> str:
    # The program is git, found on the path; its arguments are ours.
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603
    return done.stdout.strip()


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
