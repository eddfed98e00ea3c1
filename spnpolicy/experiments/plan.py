"""A plan: every run of a comparison spelled out, and the folder that belongs to it."""

import fcntl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spnpolicy.algorithms import config_class
from spnpolicy.envs import make_env
from spnpolicy.errors import ConfigError
from spnpolicy.experiments.presets import Preset
from spnpolicy.training.config import RunConfig
from spnpolicy.training.decoding import decode, encode
from spnpolicy.training.seeding import derive_seed
from spnpolicy.training.strict_json import parse_json, write_json

PLAN_FILE = "plan.json"


@dataclass(frozen=True)
class Plan:
    """What is run and how it is judged; two plans are the same if all of this is equal."""

    name: str
    """Benchmark and preset, such as "coverage-quick"."""
    trials: tuple[RunConfig, ...]
    """One run each, complete with defaults: new defaults change no old plan."""
    evaluation_episodes: int
    """Episodes of the final evaluation of each run."""
    evaluation_seed: int
    """Seed of their layouts, the same for all runs."""

    @property
    def algorithms(self) -> list[str]:
        """Names of the algorithms in the order of the plan."""
        return list(dict.fromkeys(trial.algorithm for trial in self.trials))


def make_plan(
    name: str,
    preset: Preset,
    *,
    algorithms: Sequence[str] | None = None,
    env_options: Mapping[str, Any] | None = None,
    algorithm_options: Mapping[str, Any] | None = None,
) -> Plan:
    """Spell a preset out, checking every setting.

    Args:
        name: what to call it.
        preset: task, budget and number of seeds.
        algorithms: who is compared; None for those of the preset.
        env_options: options of the environment that differ from the preset's.
        algorithm_options: settings of all algorithms that differ from the preset's; nested ones as mappings.

    Raises:
        ConfigError: a setting has the wrong name, type or range, or an algorithm is named twice.
    """
    names = list(algorithms or preset.algorithms)
    if len(set(names)) < len(names):
        raise ConfigError(f"algorithms are {', '.join(names)}, but each may be named once.")
    env_settings = {**preset.env_options, **(env_options or {})}
    make_env(preset.env, num_envs=max(preset.train.num_envs, preset.evaluation_episodes), **env_settings)
    trials: list[RunConfig] = []
    # Seeds outside, algorithms inside: whatever is finished after a crash is a fair comparison so far.
    for number in range(preset.seeds):
        train = replace(preset.train, seed=preset.train.seed + number)
        for algorithm in names:
            own = preset.own_options.get(algorithm, {})
            options = merged(merged(preset.algorithm_options, own), algorithm_options or {})
            trials.append(_complete(RunConfig(algorithm, preset.env, options, dict(env_settings), train)))
    seed = derive_seed(preset.train.seed, "benchmark layouts", bits=31)
    return Plan(name, tuple(trials), preset.evaluation_episodes, seed)


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings with those of the second on top."""
    result = dict(first)
    for key, value in second.items():
        inner = result.get(key)
        result[key] = merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return result


def trial_name(config: RunConfig) -> str:
    """Return the name of a trial, which is also that of its folder."""
    return f"{config.algorithm}-seed{config.train.seed}"


def trial_folder(folder: Path, config: RunConfig) -> Path:
    """Return the folder of a trial within that of its plan."""
    return folder / "trials" / trial_name(config)


@contextmanager
def open_folder(folder: Path, plan: Plan) -> Iterator[None]:
    """Make the folder of a new plan, or go on in that of the same plan; nobody else may work in it meanwhile.

    Raises:
        ConfigError: the folder holds something else, or another process is at work in it; nothing is changed.
    """
    if folder.exists():
        _check_same_plan(folder, plan)
    else:
        folder.mkdir(parents=True)
        write_json(folder / PLAN_FILE, encode(plan))
    with (folder / PLAN_FILE).open("rb") as file:
        try:
            # The system drops this lock when the process ends, however it ends.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another process is at work in {folder}; wait for it or choose another --out.") from None
        yield


def _check_same_plan(folder: Path, plan: Plan) -> None:
    path = folder / PLAN_FILE
    if folder.is_dir() and not any(folder.iterdir()):
        write_json(path, encode(plan))
    if not path.is_file():
        raise ConfigError(f"{folder} exists and is not the folder of a benchmark: choose another --out.")
    saved = parse_json(path.read_bytes(), source=str(path), error=ConfigError)
    if saved != encode(plan):
        raise ConfigError(
            f"{folder} belongs to another benchmark: {_difference(saved, encode(plan))}. "
            "Choose another --out, or give the same flags as then to continue it."
        )


def _difference(saved: Any, wanted: Any, path: str = "plan") -> str:
    """Return the first place where two plans differ."""
    if isinstance(saved, dict) and isinstance(wanted, dict):
        for key in [*wanted, *(key for key in saved if key not in wanted)]:
            if saved.get(key) != wanted.get(key):
                return _difference(saved.get(key), wanted.get(key), f"{path}.{key}")
    if isinstance(saved, list) and isinstance(wanted, list):
        if len(saved) != len(wanted):
            return f"{path} has {len(saved)} entries there and {len(wanted)} here"
        for index, (old, new) in enumerate(zip(saved, wanted, strict=True)):
            if old != new:
                return _difference(old, new, f"{path}[{index}]")
    return f"{path} is {saved!r} there and {wanted!r} here"


def _complete(config: RunConfig) -> RunConfig:
    discount = {"discount": config.train.discount}
    options = decode(config_class(config.algorithm), config.algorithm_options | discount, path=config.algorithm)
    complete: dict[str, Any] = encode(options)
    del complete["discount"]
    return replace(config, algorithm_options=complete)
