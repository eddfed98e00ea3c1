"""The folder of a run: what lies where, how it is begun, and how a finished one is opened again.

config.json      the RunConfig, complete with defaults: with the code it determines every number below
run.json         what the numbers count, and for each attempt: versions, commit, machine, threads, device
metrics.jsonl    one record per log interval and per evaluation; `step` and `updates` count from the start of the run
episodes.csv     one row per training and evaluation episode
faults.jsonl     one record per failure that was survived; missing if there was none
nonfinite/       batches of updates that were skipped because a loss or gradient was not finite
checkpoints/     see `training.storage.checkpoints`; of several processes each further one has checkpoints-rankN/
result.json      written last, only by a run that reached its end; `training.agreement` says what it must agree with
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from circuits import CircuitDistribution
from spnpolicy.algorithms import ALGORITHMS, make_algorithm
from spnpolicy.base.decoding import decode, encode
from spnpolicy.base.distributed import world
from spnpolicy.base.errors import CheckpointError, ConfigError
from spnpolicy.base.files import checked_path, locked, make_new_folder, write_json
from spnpolicy.base.seeding import Streams
from spnpolicy.base.strict_json import read_json
from spnpolicy.data.env import BatchedEnv, EnvSpec, Step
from spnpolicy.data.protocol import Algorithm
from spnpolicy.envs import make_env
from spnpolicy.envs.checks.guard import guarded
from spnpolicy.training.agreement import check_facts, check_result, check_settings, saved_records
from spnpolicy.training.config import RunConfig
from spnpolicy.training.metrics import read_metrics
from spnpolicy.training.storage.checkpoints import load_checkpoint

EnvFactory = Callable[..., BatchedEnv]
"""Called as `factory(name, num_envs=..., **options)`, like `spnpolicy.envs.make_env`, the usual one."""


def create_run_folder(folder: Path, config: RunConfig) -> None:
    """Make the folder of a new run and put config.json into it.

    Raises:
        ConfigError: something is there already.
    """
    make_new_folder(folder)
    write_json(folder / "config.json", encode(config))


def read_run_config(folder: Path) -> RunConfig:
    """Read the config of a run.

    Raises:
        ConfigError: there is none, or it is malformed; the message names the setting.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ConfigError(f"{folder} is not a run: config.json is missing.")
    return decode(RunConfig, read_json(path), path=str(path))


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Read the whole lines of metrics.jsonl; none if there is no such file."""
    path = folder / "metrics.jsonl"
    return read_metrics(path).records if path.is_file() else []


def read_facts(folder: Path) -> dict[str, Any] | None:
    """Read run.json; None if the run was ended before it was written."""
    return _read_object(folder / "run.json", {"attempts": list})


def read_finished(folder: Path, config: RunConfig) -> dict[str, Any] | None:
    """Read result.json; None if the run has not reached its end.

    Raises:
        CheckpointError: config.json, metrics.jsonl or run.json is not that of the run when it ended.
    """
    fields = {"step": int, "evaluation": dict, "seconds": float, "faults": int}
    result = _read_object(folder / "result.json", fields)
    check_facts(folder, config, read_facts(folder) or {})
    if result is not None:
        check_result(folder, config, read_records(folder), result)
    return result


def check_unfinished(folder: Path, config: RunConfig) -> None:
    """Refuse a run that is not at its end and whose config.json or metrics.jsonl is not that of its checkpoint.

    Raises:
        CheckpointError: it is not. A checkpoint that is not there or cannot be read has nothing to say.
    """
    try:
        saved = load_checkpoint(folder / "checkpoints", parts=("config", "recorder"))
    except CheckpointError:
        return
    if "config" in saved:
        check_settings(folder, config, saved["config"])
    saved_records(folder, saved["recorder"])


def misfit(folder: Path, problem: Exception) -> CheckpointError:
    """Return the error for a checkpoint that the algorithm or environment of a run does not take."""
    what = f"it has no {problem}" if isinstance(problem, KeyError) else str(problem)
    return CheckpointError(
        f"the checkpoint in {folder} does not fit its config.json: {what}. Both say the same settings, so spnpolicy or "
        "the environment is another than that it was trained with."
    )


def remove_unsaved(folder: Path) -> None:
    """Remove what a run wrote that was ended before its first checkpoint, so that it can begin again.

    Raises:
        CheckpointError: there are records of it, so a checkpoint was written and is lost.
    """
    metrics = folder / "metrics.jsonl"
    if metrics.is_file() and b"\n" in metrics.read_bytes():
        raise CheckpointError(
            f"{folder / 'checkpoints'} has no checkpoint, but {metrics.name} has records: put the checkpoints back, or "
            f"begin a new run with --config. To begin this one again from nothing, remove {metrics}."
        )
    for name in ("run.json", "metrics.jsonl", "episodes.csv", "faults.jsonl"):
        (folder / name).unlink(missing_ok=True)


@contextmanager
def locked_run(folder: Path) -> Iterator[None]:
    """Keep a run to this process, or these processes of torchrun, for the block.

    Raises:
        ConfigError: another process is at work in the folder.
    """
    if world().rank:
        yield
        return
    with locked(folder / "config.json", way_out="stop it"):
        yield


def _read_object(path: Path, fields: dict[str, type]) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    content = read_json(path)
    if not isinstance(content, dict) or not all(type(content.get(name)) is kind for name, kind in fields.items()):
        raise ConfigError(f"{path} is damaged: it must be an object with {', '.join(fields)}.")
    return content


def build_algorithm(config: RunConfig, spec: EnvSpec, streams: Streams) -> Algorithm:
    """Make the algorithm of a run; its discount is the one of `config.train`."""
    options = {**config.algorithm_options, "discount": config.train.discount}
    spec = spec._replace(reward="common") if config.train.team_reward else spec
    return make_algorithm(config.algorithm, spec, streams, **options)


def with_all_options(config: RunConfig, algorithm: Algorithm) -> RunConfig:
    """Return the config with every option of the algorithm spelled out: new defaults change no old run.

    Of a trial of a sweep only the run is left, without what the sweep calls it.
    """
    options = encode(algorithm.config)
    del options["discount"]
    return RunConfig(config.algorithm, config.env, options, config.env_options, config.train, config.curriculum)


def close_env(env: Any) -> None:
    """End the processes of an environment, if it has any."""
    close = getattr(env, "close", None)
    if close is not None:
        close()


@dataclass(frozen=True)
class LoadedRun:
    """A run as its latest checkpoint left it, ready to act."""

    config: RunConfig
    env: BatchedEnv
    """A new environment of the run's kind, not yet reset, whose every step is checked."""
    algorithm: Algorithm
    step: int
    """Env steps of training that the checkpoint has seen."""


def load_run(
    folder: Path | str,
    *,
    num_envs: int | None = None,
    make_env: EnvFactory = make_env,
    checkpoint: Literal["latest", "best"] = "latest",
    env_changes: Mapping[str, Any] | None = None,
) -> LoadedRun:
    """Rebuild environment and algorithm of a run, for evaluation and queries.

    Args:
        folder: the folder of the run.
        num_envs: size of the new batch of environments; None for the one of training.
        make_env: maker of environments, for those outside the registry.
        checkpoint: the latest one, or that of the evaluation with the highest discounted return.
        env_changes: options of the environment that differ from those of training.

    Raises:
        ConfigError: the folder is no run, or its config does not fit this version.
        CheckpointError: there is no checkpoint, or it is damaged or of other settings than config.json.
    """
    folder = checked_path("the folder of a run", folder)
    config = read_run_config(folder)
    state = load_checkpoint(folder / "checkpoints", checkpoint)
    if "config" in state:
        check_settings(folder, config, state["config"])
    options = {**config.env_options, **(env_changes or {})}
    env = guarded(
        make_env(config.env, num_envs=num_envs or config.train.num_envs, **options),
        on_fault=config.train.on_env_fault,
    )
    algorithm = build_algorithm(config, env.spec, Streams(config.train.seed))
    try:
        algorithm.load_state_dict(state["algorithm"])
        step: Any = state["progress"]["step_count"]
    except (KeyError, RuntimeError, ValueError) as problem:
        raise misfit(folder, problem) from problem
    return LoadedRun(config, env, algorithm, step)


def all_policies(run: LoadedRun, step: Step) -> CircuitDistribution:
    """Return the joint policy in every state of a step, shape (envs,).

    Raises:
        ConfigError: the algorithm has no joint distribution over actions.
    """
    if not ALGORITHMS[run.config.algorithm].has_joint_policy:
        able = ", ".join(name for name, entry in ALGORITHMS.items() if entry.has_joint_policy)
        raise ConfigError(
            f"{run.config.algorithm} has no joint distribution over actions to ask. Train one that has: {able}."
        )
    algorithm: Any = run.algorithm
    with torch.no_grad():
        return algorithm.policy_at(step)
