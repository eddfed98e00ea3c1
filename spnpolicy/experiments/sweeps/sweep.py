"""A sweep as people write it down: algorithms x environments x seeds, in a small JSON file or on the command line."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spnpolicy.base.decoding import decode, require
from spnpolicy.base.errors import ConfigError
from spnpolicy.base.strict_json import read_json
from spnpolicy.experiments.sweeps.plan import Environment, Plan, cross
from spnpolicy.training.config import Curriculum, TrainConfig


@dataclass(frozen=True)
class Sweep:
    """Every algorithm in every environment with every seed."""

    algorithms: dict[str, dict[str, Any]]
    """Settings that differ from the defaults, by the name of the algorithm."""
    environments: dict[str, dict[str, Any]]
    """Options by a name of your own; "env" in them is the registered name where that is another one, and "curriculum"
    what comes before, as in config.json."""
    name: str = "sweep"
    """What to call it; its folder is runs/NAME unless --out says otherwise."""
    seeds: int = 3
    """Runs of each pair; seeds are counted up from train.seed."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Settings of all runs, as in config.json."""
    evaluation_episodes: int = 100
    """Episodes of the final evaluation of each run, the same for all of them."""

    def __post_init__(self):
        require(bool(self.algorithms), "algorithms", self.algorithms, "at least one")
        require(bool(self.environments), "environments", self.environments, "at least one")
        require(self.seeds >= 1, "seeds", self.seeds, "at least 1")
        require(self.evaluation_episodes >= 1, "evaluation_episodes", self.evaluation_episodes, "at least 1")
        is_name = bool(self.name) and "/" not in self.name and not self.name.startswith(".")
        require(is_name, "name", self.name, "a name without / that does not start with a dot")


def read_sweep(path: Path) -> Sweep:
    """Read the file of a sweep, strictly.

    Raises:
        ConfigError: it is not JSON, or a setting has an unknown name, a wrong type or value; names path and value.
        FileNotFoundError: there is no such file.
    """
    value = read_json(path)
    try:
        return decode(Sweep, value, path=path.name)
    except ConfigError as problem:
        # Rules about values do not know where their setting stands.
        text = str(problem)
        raise ConfigError(text if text.startswith(path.name) else f"{path.name}: {text}") from None


def sweep_plan(sweep: Sweep, *, source: str = "") -> Plan:
    """Spell a sweep out, checking every setting; see `cross`.

    Raises:
        ConfigError: a setting has the wrong name, type or range, or an algorithm does not fit an environment.
    """
    return cross(
        sweep.name,
        sweep.algorithms,
        {label: _environment(label, options, source) for label, options in sweep.environments.items()},
        sweep.train,
        seeds=sweep.seeds,
        evaluation_episodes=sweep.evaluation_episodes,
        source=source,
    )


def _environment(label: str, options: Mapping[str, Any], source: str) -> Environment:
    name = options.get("env", label)
    if not isinstance(name, str):
        raise ConfigError(f"{source}environments.{label}.env is {name!r}, but must be the name of an environment.")
    if "num_envs" in options:
        raise ConfigError(f"{source}environments.{label}: num_envs is a setting of train, not of an environment.")
    path = f"{source}environments.{label}.curriculum"
    curriculum = decode(Curriculum, options.get("curriculum", {}), path=path)
    return Environment(
        name, {key: value for key, value in options.items() if key not in ("env", "curriculum")}, curriculum
    )
