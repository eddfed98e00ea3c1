"""`spnpolicy train`: one run of one algorithm, from its start or from where it was interrupted."""

import os
import re
import typing
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from spnpolicy.algorithms import ALGORITHMS, config_class
from spnpolicy.base.decoding import decode, encode
from spnpolicy.base.errors import ConfigError
from spnpolicy.base.strict_json import read_json
from spnpolicy.cli.checks import checked_device, first_free
from spnpolicy.cli.command import FILE, FOLDER, SETTINGS, Command, field_docs, offer
from spnpolicy.cli.failures import INTERRUPTED
from spnpolicy.cli.options import (
    CommandLine,
    Parser,
    UsageError,
    known_algorithm,
    known_environment,
    parse_value,
    whole_number,
)
from spnpolicy.envs import ENVIRONMENTS
from spnpolicy.training.config import Curriculum, RunConfig, TrainConfig
from spnpolicy.training.sinks import SafeSinks, Sink, tensorboard_sink, wandb_sink

MOST_CONFIG_BYTES = 1 << 20


def _add_arguments(parser: Parser) -> None:
    algorithm, env = "one of `spnpolicy list`", "one of `spnpolicy list`, or pettingzoo:MODULE, such as mpe2.simple_v3"
    offer(parser.add_argument("algorithm", metavar="ALGORITHM", nargs="?", help=algorithm), ALGORITHMS)
    offer(parser.add_argument("env", metavar="ENV", nargs="?", help=env), ENVIRONMENTS)
    docs = field_docs(TrainConfig)
    for field in fields(TrainConfig):
        choices = typing.get_args(field.type) if typing.get_origin(field.type) is typing.Literal else ()
        metavar = "|".join(choices) if choices else "N"
        help_text = f"{docs[field.name]} Default: {field.default}"
        offer(parser.add_argument(_flag(field.name), metavar=metavar, help=help_text), choices)
    words = "options of the environment in easier stages to begin with, one value for each stage, or one for all; or a"
    words += " list of stages as JSON, or none. Each lasts until it is mastered; the task of the run comes last."
    parser.add_argument("--curriculum", nargs="+", metavar="KEY=V,V", help=words)
    for name, text in list(field_docs(Curriculum).items())[1:]:
        help_text = f"{text} Default: {getattr(Curriculum, name)}"
        parser.add_argument(_flag(f"curriculum_{name}"), metavar="N", help=help_text)
    out = "new folder of the run (default: the first free runs/ALGORITHM-ENV-seedN)"
    offer(parser.add_argument("--out", type=Path, metavar="DIR", help=out), FOLDER)
    config = "take algorithm, environment and settings from a config.json; flags change single ones"
    offer(parser.add_argument("--config", type=Path, metavar="FILE", help=config), FILE)
    resume = "go on with a run that was interrupted or killed, from its latest checkpoint"
    offer(parser.add_argument("--resume", type=Path, metavar="RUN", help=resume), FOLDER)
    strict = "with --resume: refuse if machine, versions or threads are not those the run began with"
    parser.add_argument("--strict", action="store_true", help=strict)
    device = "cpu, cuda, cuda:N, or auto for a GPU where there is one (default: cpu; resumed: that of the run)"
    offer(parser.add_argument("--device", metavar="NAME", help=device), ["cpu", "cuda", "auto"])
    parser.add_argument("--tensorboard", action="store_true", help="also write events to RUN/tensorboard")
    parser.add_argument("--wandb", metavar="PROJECT", help="also log to this project of Weights & Biases")
    threads = "threads (default: 1; resumed: those of the run)"
    parser.add_argument("--threads", type=whole_number(1, 1_024), metavar="N", help=threads)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def run(line: CommandLine) -> int:
    """Train, showing progress, and say where everything is."""
    return _resume(line) if line.options.resume is not None else _start(line)


def _start(line: CommandLine) -> int:
    import torch

    from spnpolicy.training.loop import train

    options = line.options
    if options.strict:
        raise UsageError("--strict compares with an earlier run: it goes with --resume RUN only.")
    config = run_config(line)
    if options.out is None and os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError("--out is missing: processes started by torchrun must all be told the same folder.")
    folder: Path = options.out or first_free(Path("runs") / _run_name(config))
    device = checked_device("cpu" if options.device is None else options.device)
    torch.set_num_threads(options.threads or 1)
    return _show(config, folder, partial(train, config, folder), options, device)


def _resume(line: CommandLine) -> int:
    import torch

    from spnpolicy.training.loop import resume
    from spnpolicy.training.runs import read_facts, read_run_config

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


def _show(config: RunConfig, folder: Path, work: Callable[..., Any], options: Any, device: str) -> int:
    """Do the work with progress and sinks, and say how it ended; of several processes only the first speaks."""
    if os.environ.get("RANK", "0") != "0":
        return 0 if work(device=device).is_finished else INTERRUPTED
    from spnpolicy.cli.progress import TrainingProgress, result_text

    sinks = SafeSinks(_sinks(options, folder, config))
    try:
        with TrainingProgress(f"{config.algorithm} on {config.env}") as progress:
            result = work(device=device, sinks=[sinks], on_progress=progress)
    finally:
        sinks.close()
    print(result_text(folder, config, result))
    return 0 if result.is_finished else INTERRUPTED


def _run_name(config: RunConfig) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{config.algorithm}-{config.env}-seed{config.train.seed}")


def _refuse_settings(line: CommandLine) -> None:
    """Refuse everything that a run has fixed when it began."""
    options = line.options
    words = [repr(word) for word in (options.algorithm, options.env) if word is not None]
    names = [field.name for field in fields(TrainConfig)]
    names += ["curriculum", "curriculum_success", "curriculum_episodes"]
    words += [_flag(name) for name in [*names, "out", "config"] if getattr(options, name) is not None]
    words += [f"--{group}.{key}" for group, tree in line.settings.items() for key in tree]
    if words:
        raise UsageError(
            f"--resume goes on with the settings that {options.resume} began with: remove {', '.join(words)}, "
            "or begin a new run with --config."
        )


def _sinks(options: Any, folder: Path, config: RunConfig) -> list[Sink]:
    sinks: list[Sink] = []
    if options.tensorboard:
        sinks.append(tensorboard_sink(folder / "tensorboard"))
    if options.wandb is not None:
        sinks.append(wandb_sink(options.wandb, folder.name, encode(config)))
    return sinks


def run_config(line: CommandLine) -> RunConfig:
    """Return the configuration that a command line asks for.

    Raises:
        UsageError: unknown algorithm or environment; the message names the nearest one.
        ConfigError: a setting has the wrong name, type or range.
    """
    from spnpolicy.experiments.sweeps.plan import merged

    base = _named(line) if line.options.config is None else _from_file(line)
    given = {field.name: getattr(line.options, field.name) for field in fields(TrainConfig)}
    train_settings = {name: parse_value(text) for name, text in given.items() if text is not None}
    config = replace(
        base,
        algorithm_options=merged(base.algorithm_options, line.settings["algorithm"]),
        env_options=merged(base.env_options, line.settings["env"]),
        train=decode(TrainConfig, {**encode(base.train), **train_settings}, path="train"),
        curriculum=_curriculum(line.options, base.curriculum),
    )
    # Decoded here as well, so that a message says where on the command line the mistake is.
    decode(config_class(config.algorithm), config.algorithm_options, path="--algorithm")
    return config


def _curriculum(options: Any, base: Curriculum) -> Curriculum:
    settings = encode(base)
    for name in ("success", "episodes"):
        if (text := getattr(options, f"curriculum_{name}")) is not None:
            settings[name] = parse_value(text)
    if options.curriculum is not None:
        settings["stages"] = _stages(options.curriculum)
    return decode(Curriculum, settings, path="curriculum")


def _stages(words: list[str]) -> Any:
    """Return the stages that --curriculum names: JSON, none, or values of options such as size=6,8,11."""
    if len(words) == 1 and (words[0] == "none" or words[0].startswith("[")):
        return [] if words[0] == "none" else parse_value(words[0])
    columns: dict[str, list[Any]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not (name and equals and text) or name in columns:
            raise UsageError(f"--curriculum: {word!r:.60} must be an option and its values, such as size=6,8,11.")
        value = parse_value(text)
        columns[name] = value if isinstance(value, list) else [value]
    count = max(map(len, columns.values()))
    if short := [name for name, values in columns.items() if len(values) not in (1, count)]:
        lengths = ", ".join(f"{name} has {len(values)} values" for name, values in columns.items())
        raise UsageError(f"--curriculum: {lengths}; {short[0]} must have one for each of the {count} stages, or one.")
    return [{name: values[stage % len(values)] for name, values in columns.items()} for stage in range(count)]


def _named(line: CommandLine) -> RunConfig:
    options = line.options
    missing = [name for name in ("algorithm", "env") if getattr(options, name) is None]
    if missing:
        names = ", ".join(name.upper() for name in missing)
        raise UsageError(f"what to train is missing: {names}. Give ALGORITHM ENV, --config FILE or --resume RUN.")
    return RunConfig(known_algorithm(options.algorithm), known_environment(options.env))


def _from_file(line: CommandLine) -> RunConfig:
    options = line.options
    for what, word in (("ALGORITHM", options.algorithm), ("ENV", options.env)):
        if word is not None:
            raise UsageError(f"--config {options.config} has its own {what}: remove {word!r}, or change it in a copy.")
    path: Path = options.config
    size = os.stat(path).st_size
    if not path.is_file() or size > MOST_CONFIG_BYTES:
        raise ConfigError(f"--config: {path} is not a regular file of at most {MOST_CONFIG_BYTES:,} bytes.")
    config = decode(RunConfig, read_json(path), path=str(path))
    known_algorithm(config.algorithm)
    known_environment(config.env)
    return config


COMMAND = Command(
    "train",
    "Train one algorithm in one environment, or go on with a run.",
    "train ALGORITHM ENV [--env.KEY VALUE] [--algorithm.KEY VALUE] [flags]\n"
    "       spnpolicy train --config FILE [the same flags]\n"
    "       spnpolicy train --resume RUN [--strict] [--device NAME] [--tensorboard] [--wandb PROJECT] [--threads N]",
    "Everything is written into a new folder; an existing one is never touched, except by --resume.\n"
    "--curriculum begins with easier tasks of the same kind, such as smaller boards; evaluations are in the real one.\n"
    "Ctrl-C saves and ends; --resume then goes on as if nothing had happened, bit for bit on the same machine.\n"
    f"{SETTINGS}",
    (
        "train spn_ac coverage --steps 100000 --seed 3",
        "train vdn coverage --env.size 8 --env.agents 4 --algorithm.network.hidden 64,64 --out runs/vdn8",
        "train spn_ac coverage --algorithm.labels 6 --algorithm.network.features.frequencies 4",
        "train vdn coverage --algorithm.network.kind entities --env.size 20 --curriculum size=6,8,11,15",
        "train vdn pettingzoo:mpe2.simple_spread_v3 --env.N 4 --tensorboard",
        "train --config runs/x/config.json --seed 7",
        "train --resume runs/x",
    ),
    _add_arguments,
    run,
    takes_settings=True,
)
