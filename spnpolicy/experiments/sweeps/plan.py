"""A plan: every run of a comparison spelled out, and the folder that belongs to it.

plan.json    the Plan
trials/      a run folder per trial, see `spnpolicy.training.runs`, with the final evaluation in it
leases/      who is at work on which trial, see `spnpolicy.experiments.sweeps.lease`
attempts/    per trial what became of every try, one JSON line each, and the warnings while it ran
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from spnpolicy.algorithms import ALGORITHMS, config_class
from spnpolicy.base.decoding import decode, encode, unknown_name
from spnpolicy.base.errors import ConfigError
from spnpolicy.base.files import locked, write_json
from spnpolicy.base.seeding import Streams, derive_seed
from spnpolicy.base.strict_json import read_json
from spnpolicy.envs import make_env
from spnpolicy.experiments.presets import Preset
from spnpolicy.training.config import Curriculum, RunConfig, TrainConfig
from spnpolicy.training.player import needs_of
from spnpolicy.training.retarget import check_stages
from spnpolicy.training.runs import build_algorithm

PLAN_FILE = "plan.json"
_TRIAL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,119}")


@dataclass(frozen=True)
class Trial(RunConfig):
    """One run of a plan: its configuration, and what it is called there."""

    name: str = ""
    """Unique in the plan, and name of its folder; "ALGORITHM-seedN" when empty."""
    environment: str = ""
    """What the plan calls the environment with its options; the environment's own name when empty."""

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "name", self.name or f"{self.algorithm}-seed{self.train.seed}")
        object.__setattr__(self, "environment", self.environment or self.env)


@dataclass(frozen=True)
class Plan:
    """What is run and how it is judged; two plans are the same if all of this is equal."""

    name: str
    """What it is called, such as "coverage-quick"."""
    trials: tuple[Trial, ...]
    """One run each, complete with defaults: new defaults change no old plan."""
    evaluation_episodes: int
    """Episodes of the final evaluation of each run."""
    evaluation_seed: int
    """Seed of their layouts, the same for all runs."""

    @property
    def algorithms(self) -> list[str]:
        """Names of the algorithms in the order of the plan."""
        return list(dict.fromkeys(trial.algorithm for trial in self.trials))

    @property
    def environments(self) -> list[str]:
        """What the plan calls its environments, in its order."""
        return list(dict.fromkeys(trial.environment for trial in self.trials))


class Environment(NamedTuple):
    """An environment with its options."""

    env: str
    """Name in the registry of environments."""
    options: Mapping[str, Any]
    """Without the number of copies."""
    curriculum: Curriculum = Curriculum()
    """Easier stages that come before."""


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
    options: dict[str, dict[str, Any]] = {}
    for algorithm in names:
        own = preset.own_options.get(algorithm, {})
        options[algorithm] = merged(merged(_shared(algorithm, preset), own), algorithm_options or {})
    environment = Environment(preset.env, {**preset.env_options, **(env_options or {})}, preset.curriculum)
    return cross(
        name,
        options,
        {preset.env: environment},
        preset.train,
        seeds=preset.seeds,
        evaluation_episodes=preset.evaluation_episodes,
    )


def _shared(algorithm: str, preset: Preset) -> dict[str, Any]:
    """Return those of a preset's settings for all that an algorithm has."""
    known = {known.name for known in fields(config_class(algorithm))}
    size = {"learning_rate": preset.step_sizes[algorithm]} if algorithm in preset.step_sizes else {}
    descent = {part: preset.descent | size for part in ("actor", "critic") if part in known}
    return descent | {name: value for name, value in preset.algorithm_options.items() if name in known}


def cross(
    name: str,
    algorithms: Mapping[str, Mapping[str, Any]],
    environments: Mapping[str, Environment],
    train: TrainConfig,
    *,
    seeds: int,
    evaluation_episodes: int,
    source: str = "",
) -> Plan:
    """Plan every algorithm in every environment with every seed, checking every setting.

    Args:
        name: what to call the plan.
        algorithms: options of each algorithm.
        environments: the environments, by what the plan calls them.
        train: settings of all runs; the seed is counted up from the one here.
        seeds: runs of each pair.
        evaluation_episodes: episodes of the final evaluation of each run.
        source: where the settings come from, for messages, such as "plan.json."; empty for the command line.

    Raises:
        ConfigError: a setting has the wrong name, type or range.
    """
    configs: list[Trial] = []
    for label, (env, env_options, curriculum) in environments.items():
        trials = [
            _complete(
                Trial(algorithm, env, dict(options), dict(env_options), train, curriculum, environment=label), source
            )
            for algorithm, options in algorithms.items()
        ]
        configs += _checked(trials, f"{source}environments.{label}: " if source else "")
    # Seeds outside, algorithms inside: whatever is finished after a crash is a fair comparison so far.
    numbers = range(train.seed, train.seed + seeds)
    trials = [_with_seed(config, seed, len(environments) > 1) for seed in numbers for config in configs]
    _check_names(trials)
    seed = derive_seed(train.seed, "benchmark layouts", bits=31)
    return Plan(name, tuple(trials), evaluation_episodes, seed)


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings with those of the second on top."""
    result = dict(first)
    for key, value in second.items():
        inner = result.get(key)
        result[key] = merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return result


def run_config(trial: Trial) -> RunConfig:
    """Return the run of a trial alone, as it is stored in its folder."""
    return RunConfig(
        trial.algorithm, trial.env, trial.algorithm_options, trial.env_options, trial.train, trial.curriculum
    )


def trial_folder(folder: Path, trial: Trial) -> Path:
    """Return the folder of a trial within that of its plan."""
    return folder / "trials" / trial.name


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
    with locked(folder / PLAN_FILE, way_out="choose another --out"):
        yield


def read_plan(folder: Path) -> Plan:
    """Read the plan of a folder.

    Raises:
        ConfigError: it has none, or a damaged one.
    """
    path = folder / PLAN_FILE
    if not path.is_file():
        raise ConfigError(f"{folder} is not the folder of a sweep or benchmark: {PLAN_FILE} is missing.")
    return decode(Plan, read_json(path), path=str(path))


def _check_same_plan(folder: Path, plan: Plan) -> None:
    path = folder / PLAN_FILE
    if folder.is_dir() and not any(folder.iterdir()):
        write_json(path, encode(plan))
    if not path.is_file():
        raise ConfigError(f"{folder} exists and is not the folder of a sweep or benchmark: choose another --out.")
    wanted = encode(plan)
    saved = read_json(path)
    # Decoded, an older file also has the defaults of settings that are newer than it.
    if saved != wanted and (saved := encode(read_plan(folder))) != wanted:
        raise ConfigError(
            f"{folder} belongs to another sweep or benchmark: {_difference(saved, wanted)}. "
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


def _checked(configs: Sequence[Trial], path: str) -> list[Trial]:
    """Build the environment that some trials share, and each of their algorithms for it.

    Those for a common reward learn from the team's where agents are paid one by one, so that all can be compared there.
    """
    checked: list[Trial] = []
    try:
        env: Any = make_env(configs[0].env, num_envs=1, **configs[0].env_options)
        for config in configs:
            needs_team = env.spec.reward == "individual" and ALGORITHMS[config.algorithm].reward == "common"
            train = replace(config.train, team_reward=config.train.team_reward or needs_team)
            config = replace(config, train=train)
            learner = build_algorithm(config, env.spec, Streams(train.seed))
            check_stages(config, learner, env.spec, make_env, num_envs=1)
            # All of a plan share their settings; those of replay are not for who learns from rollouts.
            on_policy = needs_of(learner).rollout is not None
            checked.append(replace(config, train=train.without_replay()) if on_policy else config)
    except ConfigError as problem:
        raise ConfigError(f"{path}{problem}") from problem
    if hasattr(env, "close"):
        env.close()
    return checked


def _complete(config: Trial, source: str) -> Trial:
    path = f"{source}algorithms.{config.algorithm}" if source else config.algorithm
    if config.algorithm not in ALGORITHMS:
        where = f"{source}algorithms: " if source else ""
        raise ConfigError(where + unknown_name("algorithm", config.algorithm, ALGORITHMS))
    options = decode(
        config_class(config.algorithm), config.algorithm_options | {"discount": config.train.discount}, path=path
    )
    complete: dict[str, Any] = encode(options)
    del complete["discount"]
    return replace(config, algorithm_options=complete)


def _with_seed(config: Trial, seed: int, has_many_environments: bool) -> Trial:
    where = f"-{config.environment}" if has_many_environments else ""
    name = f"{config.algorithm}{where}-seed{seed}"
    return replace(config, train=replace(config.train, seed=seed), name=name)


def _check_names(trials: Sequence[Trial]) -> None:
    # Some file systems take names for equal that differ in capitals only.
    seen: dict[str, str] = {}
    for trial in trials:
        if not _TRIAL_NAME.fullmatch(trial.name):
            raise ConfigError(f"{trial.name[:80]!r} cannot name a folder: use at most 120 of A-Z a-z 0-9 . _ - only.")
        if other := seen.get(trial.name.lower()):
            raise ConfigError(f"two trials would share the folder {other}: give the environments clearer names.")
        seen[trial.name.lower()] = trial.name
