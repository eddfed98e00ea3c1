"""`spnpolicy train`: one run of one algorithm."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from spnpolicy.algorithms import ALGORITHMS, algorithm_class, config_class
from spnpolicy.cli.folders import first_free
from spnpolicy.cli.options import CommandLine, known_name, parse_value
from spnpolicy.cli.progress import TrainingProgress, duration
from spnpolicy.envs import ENVIRONMENTS
from spnpolicy.training.config import RunConfig, TrainConfig
from spnpolicy.training.decoding import decode
from spnpolicy.training.loop import TrainResult, train

INTERRUPTED = 130


def run(line: CommandLine) -> int:
    """Train, showing progress, and say where everything is."""
    options = line.options
    config = run_config(line)
    torch.set_num_threads(options.threads)
    name = f"{config.algorithm}-{config.env}-seed{config.train.seed}"
    folder: Path = options.out or first_free(Path("runs") / name)
    with TrainingProgress(f"{config.algorithm} on {config.env}") as progress:
        result = train(config, folder, on_progress=progress)
    _say(folder, config, result)
    return 0 if result.is_finished else INTERRUPTED


def run_config(line: CommandLine) -> RunConfig:
    """Return the configuration that a command line asks for.

    Raises:
        UsageError: unknown algorithm or environment; the message names the nearest one.
        ConfigError: a setting has the wrong name, type or range.
    """
    options = line.options
    known_name("algorithm", options.algorithm, list(ALGORITHMS))
    known_name("environment", options.env, list(ENVIRONMENTS))
    given = {field.name: getattr(options, field.name) for field in fields(TrainConfig)}
    train_settings = {name: parse_value(text) for name, text in given.items() if text is not None}
    settings = decode(TrainConfig, train_settings, path="train")
    config = RunConfig(options.algorithm, options.env, line.settings["algorithm"], line.settings["env"], settings)
    # Decoded here as well, so that a message says where on the command line the mistake is.
    decode(config_class(options.algorithm), config.algorithm_options, path="--algorithm")
    return config


def _say(folder: Path, config: RunConfig, result: TrainResult) -> None:
    verb = "finished" if result.is_finished else "interrupted"
    print(f"{verb} after {result.step:,} env steps in {duration(result.seconds)}; {describe(result.evaluation)}")
    print(f"run folder: {folder}")
    print(f"next: spnpolicy evaluate {folder}")
    if hasattr(algorithm_class(config.algorithm), "policy_at"):
        print(f"      spnpolicy query {folder}")


def describe(evaluation: dict[str, Any]) -> str:
    """Return the means of an evaluation as one line."""
    parts = [
        f"success {evaluation['success']:.3f}",
        f"{evaluation['length']:.2f} steps",
        f"discounted return {evaluation['discounted_return']:.4f}",
    ]
    if "fraction_of_optimum" in evaluation:
        parts.append(f"{evaluation['fraction_of_optimum']:.4f} of the optimum")
    return ", ".join(parts)
