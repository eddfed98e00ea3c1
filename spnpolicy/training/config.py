"""The settings of a run: one frozen record that, with the code, determines every number it produces."""

import json
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from spnpolicy.base.decoding import Checked, encode, require, with_numbers
from spnpolicy.base.errors import ConfigError
from spnpolicy.base.ranges import Amount, Count, Range, Repeats, Share

Copies = Annotated[int, Range(1, 1_000_000)]
"""Environments or rows that are held and worked on at once."""


@dataclass(frozen=True)
class TrainConfig(Checked):
    """How long, on how much data and with which seed to train; an env step is one step of one environment.

    On-policy algorithms (where the setting `rollout` is a number) learn from the newest steps only. They have no use
    for batch_size, replay_capacity, warmup_steps, train_every and updates, and refuse other values than the defaults.
    """

    steps: Count = 200_000
    """Env steps in total, summed over the parallel environments."""
    seed: Amount = 0
    """Seed from which every random stream of the run is derived."""
    discount: Share = 0.95
    """Worth of a reward one step later; the algorithm and the evaluation both use this one."""
    num_envs: Copies = 64
    """Environments stepped together."""
    batch_size: Copies = 256
    """Transitions in one gradient step."""
    replay_capacity: Count = 50_000
    """Transitions kept for replay."""
    warmup_steps: Amount = 1_000
    """Env steps before the first gradient step."""
    train_every: Count = 1
    """Iterations (one step of every environment) between two learning phases."""
    updates: Repeats = 4
    """Gradient steps in one learning phase."""
    log_every: Count = 2_000
    """Env steps between two training records in metrics.jsonl."""
    evaluate_every: Count = 10_000
    """Env steps between two evaluations; there is one at the start and one at the end as well."""
    evaluation_episodes: Copies = 64
    """Episodes of one evaluation, all started from the same seed every time."""
    checkpoint_every: Count = 50_000
    """Env steps between two checkpoints; there is one at the start and one at the end as well."""
    standardise_rewards: bool = False
    """Learn from rewards less their mean so far, in units of their standard deviation; reports keep the rewards."""
    team_reward: bool = False
    """Give every agent the mean of all agents' rewards to learn from; reports keep the rewards. Needed where an
    algorithm for one common reward meets agents that are paid one by one."""
    on_env_fault: Literal["raise", "drop-episode"] = "raise"
    """What to do when an environment shows nan, a wrong shape or a mask that allows nothing: end the run with a
    message, or drop that episode, count the fault and go on."""

    def __post_init__(self):
        super().__post_init__()
        # Who learns from rollouts may have any number of environments, and may not touch the capacity.
        if "replay_capacity" in self.replay_settings():
            rule = f"at least train.num_envs ({self.num_envs})"
            require(self.replay_capacity >= self.num_envs, "train.replay_capacity", self.replay_capacity, rule)

    def replay_settings(self) -> dict[str, int]:
        """Return what differs from the defaults among the settings that concern learning from replay only."""
        values = {name: getattr(self, name) for name in _REPLAY_SETTINGS}
        return {name: value for name, value in values.items() if value != getattr(TrainConfig, name)}

    def without_replay(self) -> "TrainConfig":
        """Return the same with the defaults of what concerns learning from replay only."""
        return replace(self, **{name: getattr(TrainConfig, name) for name in self.replay_settings()})

    def require_use(self, algorithm: str, rollout: int | None) -> None:
        """Refuse settings of replay for an algorithm that learns from rollouts of so many steps; None: from replay.

        Raises:
            ConfigError: one differs from its default; the message names it.
        """
        if rollout is not None and (unused := self.replay_settings()):
            given = ", ".join(f"train.{name} is {value}" for name, value in unused.items())
            raise ConfigError(
                f"{given}, but {algorithm} learns from rollouts of {rollout} steps, each used in one update, and not "
                f"from replay: leave {', '.join(unused)} out. Its setting rollout says how much it learns from at once."
            )

    def require_an_update(self, rollout: int | None) -> None:
        """Refuse a run that is over before anything is learned, from rollouts of so many steps; None: from replay.

        Raises:
            ConfigError: its steps are too few; the message names what they are too few for.
        """
        iterations = -(-self.steps // self.num_envs)
        run = f"a run of train.steps ({self.steps}) in train.num_envs ({self.num_envs})"
        if rollout is not None:
            needed, setting = rollout, f"rollout is {rollout}"
        elif self.train_every > iterations:
            needed, setting = self.train_every, f"train.train_every is {self.train_every}"
        else:
            # The first learning phase after the warm-up.
            needed = -(-self.warmup_steps // (self.num_envs * self.train_every)) * self.train_every
            setting = f"train.warmup_steps is {self.warmup_steps}"
        if needed > iterations:
            raise ConfigError(
                f"{setting}, but {run} environments has {iterations} iterations, and the first update comes after "
                f"{needed}: nothing would be learned. Make it smaller, or train.steps at least "
                f"{needed * self.num_envs}."
            )


_REPLAY_SETTINGS = ("batch_size", "replay_capacity", "warmup_steps", "train_every", "updates")


@dataclass(frozen=True)
class Curriculum(Checked):
    """Easier tasks of the same kind that come before the task of the run, each until it is mastered.

    Training begins in the first stage. Once enough of the latest episodes there have succeeded (success as in
    episodes.csv) the next stage begins, and after the last one the task of the run itself, in which all evaluations
    are. A stage in which too little succeeds is never left, and no success is counted where an environment fails.
    """

    stages: tuple[dict[str, Any], ...] = ()
    """Options of the environment in each stage, on top of those of the run."""
    success: Share = 0.93
    """Share of successes from which on the next stage begins; 0 for stages of a fixed number of episodes."""
    episodes: Annotated[int, Range(1, 1_000_000)] = 300
    """Latest training episodes of a stage of which that share is taken. They count in the order in which they began,
    once all that began before have ended: those that end first are mostly the short ones, which are the successes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "stages", tuple(map(with_numbers, self.stages)))
        for number, stage in enumerate(self.stages, start=1):
            require(bool(stage), f"stage {number} of the curriculum", stage, "at least one option of the environment")
            if "num_envs" in stage:
                raise ConfigError(f"num_envs is a setting of train, not of stage {number} of the curriculum.")
        changed = [name for name in ("success", "episodes") if getattr(self, name) != getattr(Curriculum, name)]
        if changed and not self.stages:
            raise ConfigError(f"curriculum.{changed[0]} is given, but there are no stages: give them, or leave it out.")

    def __str__(self) -> str:
        """Return it in words, such as "size=6,8,11"; "none" without stages."""
        if not self.stages:
            return "none"
        names = list(dict.fromkeys(name for stage in self.stages for name in stage))
        if all(names == list(stage) for stage in self.stages):
            words = " ".join(f"{name}={','.join(_word(stage[name]) for stage in self.stages)}" for name in names)
        else:
            words = " then ".join(" ".join(f"{name}={_word(value)}" for name, value in s.items()) for s in self.stages)
        is_usual = (self.success, self.episodes) == (Curriculum.success, Curriculum.episodes)
        return words if is_usual else f"{words} at {self.success:g} of {self.episodes}"


@dataclass(frozen=True)
class RunConfig:
    """Everything that defines a run; stored as config.json in its folder."""

    algorithm: str
    """Name in the registry of algorithms."""
    env: str
    """Name in the registry of environments."""
    algorithm_options: dict[str, Any] = field(default_factory=dict)
    """Fields of the algorithm's Config that differ from its defaults; the discount is set in `train`."""
    env_options: dict[str, Any] = field(default_factory=dict)
    """Options of the environment, without the number of copies; nan, inf and -inf are numbers."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Length, data, seed and discount."""
    curriculum: Curriculum = field(default_factory=Curriculum)
    """Easier tasks to begin with; none unless stages are given."""

    def __post_init__(self):
        object.__setattr__(self, "env_options", with_numbers(self.env_options))
        if "discount" in self.algorithm_options:
            raise ConfigError("discount is a setting of train, not of the algorithm: set train.discount.")
        if "num_envs" in self.env_options:
            raise ConfigError("num_envs is a setting of train, not of the environment: set train.num_envs.")


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(encode(value))
