"""The folder of a run: what lies where, how it is begun, and how a finished one is opened again.

config.json      the RunConfig, complete with defaults: with the code it determines every number below
metrics.jsonl    one record per log interval and per evaluation
episodes.csv     one row per training and evaluation episode
checkpoints/     see `spnpolicy.training.checkpoints`
result.json      written last, only by a run that reached its end
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spnpolicy.algorithms import make_algorithm
from spnpolicy.algorithms.protocol import Algorithm
from spnpolicy.envs import make_env
from spnpolicy.envs.protocol import BatchedEnv, EnvSpec
from spnpolicy.errors import CheckpointError, ConfigError
from spnpolicy.training.checkpoints import load_checkpoint
from spnpolicy.training.config import RunConfig
from spnpolicy.training.decoding import decode, encode
from spnpolicy.training.seeding import Streams
from spnpolicy.training.strict_json import parse_json, write_json

EnvFactory = Callable[..., BatchedEnv]
"""Called as `factory(name, num_envs=..., **options)`, like `spnpolicy.envs.make_env`, the usual one."""


def create_run_folder(folder: Path, config: RunConfig) -> None:
    """Make the folder of a new run and put config.json into it.

    Raises:
        ConfigError: something is there already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is not empty: choose another --out or remove it.")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", encode(config))


def read_run_config(folder: Path) -> RunConfig:
    """Read the config of a run.

    Raises:
        ConfigError: there is none, or it is malformed; the message names the setting.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ConfigError(f"{folder} is not a run: config.json is missing.")
    return decode(RunConfig, parse_json(path.read_bytes(), source=str(path), error=ConfigError), path=str(path))


def build_algorithm(config: RunConfig, spec: EnvSpec, streams: Streams) -> Algorithm:
    """Make the algorithm of a run; its discount is the one of `config.train`."""
    options = {**config.algorithm_options, "discount": config.train.discount}
    return make_algorithm(config.algorithm, spec, streams, **options)


def with_all_options(config: RunConfig, algorithm: Algorithm) -> RunConfig:
    """Return the config with every option of the algorithm spelled out: new defaults change no old run."""
    options = encode(algorithm.config)
    del options["discount"]
    return replace(config, algorithm_options=options)


@dataclass(frozen=True)
class LoadedRun:
    """A run as its latest checkpoint left it, ready to act."""

    config: RunConfig
    env: BatchedEnv
    """A new environment of the run's kind, not yet reset."""
    algorithm: Algorithm
    step: int
    """Env steps of training that the checkpoint has seen."""


def load_run(folder: Path, *, num_envs: int | None = None, make_env: EnvFactory = make_env) -> LoadedRun:
    """Rebuild environment and algorithm of a run, for evaluation and queries.

    Args:
        folder: the folder of the run.
        num_envs: size of the new batch of environments; None for the one of training.
        make_env: maker of environments, for those outside the registry.

    Raises:
        ConfigError: the folder is no run, or its config does not fit this version.
        CheckpointError: there is no checkpoint, or it is damaged or belongs to another configuration.
    """
    config = read_run_config(folder)
    env = make_env(config.env, num_envs=num_envs or config.train.num_envs, **config.env_options)
    algorithm = build_algorithm(config, env.spec, Streams(config.train.seed))
    state = load_checkpoint(folder / "checkpoints")
    try:
        algorithm.load_state_dict(state["algorithm"])
        step: Any = state["progress"]["step"]
    except (KeyError, RuntimeError, ValueError) as problem:
        raise CheckpointError(f"the checkpoint in {folder} does not fit its config.json: {problem}") from problem
    return LoadedRun(config, env, algorithm, step)
