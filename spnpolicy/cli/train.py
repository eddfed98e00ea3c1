"""`spnpolicy train`: one run of one algorithm, from its start or from where it was interrupted."""

import os
import re
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from spnpolicy.algorithms import ALGORITHMS, config_class
from spnpolicy.base.decoding import decode, encode
from spnpolicy.base.errors import ConfigError
from spnpolicy.base.strict_json import parse_json
from spnpolicy.cli.devices import checked_device
from spnpolicy.cli.extras import require_extra
from spnpolicy.cli.folders import first_free
from spnpolicy.cli.options import CommandLine, UsageError, known_name, parse_value
from spnpolicy.cli.progress import TrainingProgress, duration
from spnpolicy.envs import ENVIRONMENTS
from spnpolicy.training.config import RunConfig, TrainConfig
from spnpolicy.training.loop import TrainResult, resume, train
from spnpolicy.training.runs import read_facts, read_run_config
from spnpolicy.training.sinks import SafeSinks, Sink, tensorboard_sink, wandb_sink

INTERRUPTED = 130
MOST_CONFIG_BYTES = 1 << 20


def run(line: CommandLine) -> int:
    """Train, showing progress, and say where everything is."""
    return _resume(line) if line.options.resume is not None else _start(line)


def _start(line: CommandLine) -> int:
    options = line.options
    if options.strict:
        raise UsageError("--strict compares with an earlier run: it goes with --resume RUN only.")
    config = run_config(line)
    if options.out is None and not _is_alone():
        raise UsageError("--out is missing: processes started by torchrun must all be told the same folder.")
    folder: Path = options.out or first_free(Path("runs") / _run_name(config))
    device = checked_device("cpu" if options.device is None else options.device)
    torch.set_num_threads(options.threads or 1)
    return _show(config, folder, partial(train, config, folder), options, device)


def _resume(line: CommandLine) -> int:
    options = line.options
    _refuse_settings(line)
    folder: Path = options.resume
    config = read_run_config(folder)
    earlier = ((read_facts(folder) or {}).get("attempts") or [{}])[-1]
    # Written as "cuda (name of the GPU)".
    before = earlier.get("device", "cpu").partition(" ")[0]
    device = checked_device(before if options.device is None else options.device)
    torch.set_num_threads(options.threads or earlier.get("threads", 1))
    return _show(config, folder, partial(resume, folder, strict=options.strict), options, device)


def _show(config: RunConfig, folder: Path, work: Callable[..., TrainResult], options: Any, device: str) -> int:
    """Do the work with progress and sinks, and say how it ended; of several processes only the first speaks."""
    if os.environ.get("RANK", "0") != "0":
        return 0 if work(device=device).is_finished else INTERRUPTED
    sinks = SafeSinks(_sinks(options, folder, config))
    try:
        with TrainingProgress(f"{config.algorithm} on {config.env}") as progress:
            result = work(device=device, sinks=[sinks], on_progress=progress)
    finally:
        sinks.close()
    _say(folder, config, result)
    return 0 if result.is_finished else INTERRUPTED


def _is_alone() -> bool:
    return os.environ.get("WORLD_SIZE", "1") == "1"


def _run_name(config: RunConfig) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{config.algorithm}-{config.env}-seed{config.train.seed}")


def _refuse_settings(line: CommandLine) -> None:
    """Refuse everything that a run has fixed when it began."""
    options = line.options
    words = [repr(word) for word in (options.algorithm, options.env) if word is not None]
    names = [field.name for field in fields(TrainConfig)]
    words += [f"--{name.replace('_', '-')}" for name in [*names, "out", "config"] if getattr(options, name) is not None]
    words += [f"--{group}.{key}" for group, tree in line.settings.items() for key in tree]
    if words:
        raise UsageError(
            f"--resume goes on with the settings that {options.resume} began with: remove {', '.join(words)}, "
            "or begin a new run with --config."
        )


def _sinks(options: Any, folder: Path, config: RunConfig) -> list[Sink]:
    sinks: list[Sink] = []
    if options.tensorboard:
        require_extra("--tensorboard", "tensorboard")
        sinks.append(tensorboard_sink(folder / "tensorboard"))
    if options.wandb is not None:
        require_extra("--wandb", "wandb")
        sinks.append(wandb_sink(options.wandb, folder.name, encode(config)))
    return sinks


def run_config(line: CommandLine) -> RunConfig:
    """Return the configuration that a command line asks for.

    Raises:
        UsageError: unknown algorithm or environment; the message names the nearest one.
        ConfigError: a setting has the wrong name, type or range.
    """
    base = _named(line) if line.options.config is None else _from_file(line)
    given = {field.name: getattr(line.options, field.name) for field in fields(TrainConfig)}
    train_settings = {name: parse_value(text) for name, text in given.items() if text is not None}
    config = replace(
        base,
        algorithm_options=_merged(base.algorithm_options, line.settings["algorithm"]),
        env_options=_merged(base.env_options, line.settings["env"]),
        train=decode(TrainConfig, {**encode(base.train), **train_settings}, path="train"),
    )
    # Decoded here as well, so that a message says where on the command line the mistake is.
    decode(config_class(config.algorithm), config.algorithm_options, path="--algorithm")
    return config


def _named(line: CommandLine) -> RunConfig:
    options = line.options
    missing = [name for name in ("algorithm", "env") if getattr(options, name) is None]
    if missing:
        names = ", ".join(name.upper() for name in missing)
        raise UsageError(f"what to train is missing: {names}. Give ALGORITHM ENV, --config FILE or --resume RUN.")
    return _known(RunConfig(options.algorithm, options.env))


def _from_file(line: CommandLine) -> RunConfig:
    options = line.options
    for what, word in (("ALGORITHM", options.algorithm), ("ENV", options.env)):
        if word is not None:
            raise UsageError(f"--config {options.config} has its own {what}: remove {word!r}, or change it in a copy.")
    path: Path = options.config
    size = os.stat(path).st_size
    if not path.is_file() or size > MOST_CONFIG_BYTES:
        raise ConfigError(f"--config: {path} is not a regular file of at most {MOST_CONFIG_BYTES:,} bytes.")
    return _known(decode(RunConfig, parse_json(path.read_bytes(), source=str(path), error=ConfigError), path=str(path)))


def _known(config: RunConfig) -> RunConfig:
    known_name("algorithm", config.algorithm, list(ALGORITHMS))
    # Names with a colon, such as pettingzoo:mpe2.simple_v3, say themselves where the environment is.
    if ":" not in config.env:
        known_name("environment", config.env, list(ENVIRONMENTS))
    return config


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with `changes` put over it, record by record."""
    both = {
        key: _merged(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
        for key, value in changes.items()
    }
    return {**base, **both}


def _say(folder: Path, config: RunConfig, result: TrainResult) -> None:
    verb = "finished" if result.is_finished else "interrupted"
    print(f"{verb} after {result.step:,} env steps in {duration(result.seconds)}; {describe(result.evaluation)}")
    if result.faults:
        print(f"faults survived: {result.faults:,}, see {folder / 'faults.jsonl'}")
    print(f"run folder: {folder}")
    if not result.is_finished:
        print(f"continue: spnpolicy train --resume {folder}")
        return
    print(f"next: spnpolicy evaluate {folder}")
    if ALGORITHMS[config.algorithm].has_joint_policy:
        print(f"      spnpolicy query {folder}")


def describe(evaluation: dict[str, Any]) -> str:
    """Return the means of an evaluation as one line; one that does not exist is left out."""
    texts = {
        "success": "success {:.3f}",
        "length": "{:.2f} steps",
        "discounted_return": "discounted return {:.4f}",
        "fraction_of_optimum": "{:.4f} of the optimum",
    }
    return ", ".join(text.format(evaluation[name]) for name, text in texts.items() if name in evaluation)
