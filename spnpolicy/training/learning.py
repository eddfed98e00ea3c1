"""The state of learning: everything that changes while a run goes on, and one iteration of it."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Int
from torch import Tensor

from spnpolicy.base.distributed import mean, own_device, share, world
from spnpolicy.base.errors import ConfigError, NonFiniteError
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec
from spnpolicy.data.protocol import Batch
from spnpolicy.data.rewards import RewardScale
from spnpolicy.data.stores import store_for
from spnpolicy.envs import Step
from spnpolicy.envs.checks.guard import Fault, guarded
from spnpolicy.parts.learner import gradient_steps, set_step_sizes
from spnpolicy.training.config import RunConfig
from spnpolicy.training.course import Course
from spnpolicy.training.episodes import Episodes
from spnpolicy.training.evaluation import EvaluationResult, evaluate
from spnpolicy.training.player import Player, needs_of
from spnpolicy.training.retarget import check_stages, retarget
from spnpolicy.training.runs import EnvFactory, build_algorithm, close_env

MOST_NONFINITE_IN_A_ROW = 3
MOST_DUMPS = 10

_log = logging.getLogger(__name__)


class Learning:
    """Environments, algorithm, replay, random streams and counters of one process of a run.

    Args:
        config: the whole run; in a run of several processes this one takes its share of environments, replay and batch.
        make_env: maker of environments.
        device: where the networks live, such as "cpu" or "cuda:0".
        dumps: folder for batches whose loss or gradient was not finite.
        on_fault: told of every failure that was survived.

    Raises:
        ConfigError: a setting is wrong; nothing has been written then.
    """

    def __init__(
        self,
        config: RunConfig,
        make_env: EnvFactory,
        *,
        device: str,
        dumps: Path,
        on_fault: Callable[[Mapping[str, Any]], None],
    ):
        self.config = config
        settings = config.train
        self._make, self._dumps, self._on_fault = make_env, dumps, on_fault
        self.streams = Streams(settings.seed, replica=world().rank)
        self.course = Course(config.curriculum)
        self.env: Any = None
        self._evaluation_env = self._make_env(settings.evaluation_episodes, "evaluation")
        try:
            self.spec = self._evaluation_env.spec
            self.algorithm = build_algorithm(config, self.spec, self.streams)
            self._num_envs = share("train.num_envs", settings.num_envs)
            check_stages(config, self.algorithm, self.spec, make_env, self._num_envs)
            self._device = self._move(own_device(device))
            self.needs = needs_of(self.algorithm)
            # Shares of what a rollout does not use need not come out even.
            self._batch_size, self._capacity = settings.batch_size, settings.replay_capacity
            if self.needs.rollout is None:
                self._batch_size = share("train.batch_size", self._batch_size)
                self._capacity = share("train.replay_capacity", self._capacity)
            self._set_up()
        except BaseException:
            self.close()
            raise
        self._reward_scale = RewardScale() if settings.standardise_rewards else None
        self.step_count = self.iterations = self.updates = self.skipped_updates = 0
        self.nonfinite_in_a_row = self.samples = 0
        self._step: Step | None = None

    def begin(self) -> None:
        """Start the first episodes of a new run, or of a new stage of its curriculum."""
        name = "environment" if self.course.is_over else f"environment of stage {self.course.stage}"
        step = self.env.reset(seed=self.streams.integer(_own(name)))
        self.replay.prepare(step)
        self._step = step

    def is_stage_mastered(self, ended: Episodes, ages: Int[np.ndarray, " envs"]) -> bool:
        """Count episodes that ended in an iteration, and return whether it is time for the next stage.

        It never is while a rollout is under way, so that what was played is learned from in the stage it belongs to.

        Args:
            ended: the episodes.
            ages: how many steps those under way have lasted.
        """
        self.course.observe(self.iterations, ended, ages)
        is_between = self.needs.rollout is None or self.iterations % self.needs.rollout == 0
        return is_between and self.course.is_mastered

    def begin_next_stage(self) -> None:
        """Go on to the next stage: new environments, nothing stored or remembered of the old ones."""
        self.course.advance(self.step_count)
        self._set_up()
        self.begin()

    def _set_up(self) -> None:
        """Make what belongs to one stage, and lead the algorithm there."""
        close_env(self.env)
        self.env = self._make_env(self._num_envs, "training", self.course.options)
        self._read(self.env.spec)
        self._player = Player(self.algorithm)
        self.replay = store_for(
            self.needs,
            self.env.spec,
            capacity=self._capacity,
            num_envs=self.env.num_envs,
            generator=self.streams.torch("replay"),
        )

    def close(self) -> None:
        """End the processes that environments may have started."""
        close_env(self.env)
        close_env(self._evaluation_env)

    @property
    def progress(self) -> float:
        """Share of training done, in [0, 1]."""
        return min(self.step_count / self.config.train.steps, 1.0)

    def iterate(self) -> Step:
        """Act once in every environment and remember what came of it."""
        assert self._step is not None, "a run has begun or was loaded"
        actions = self._player.act(self._step, explore=True, progress=self.progress)
        following = self.env.step(actions)
        self.replay.add(self._step, actions, following, self._player.memory)
        if self._reward_scale is not None:
            self._reward_scale.observe(following)
        self._step = following
        self.iterations += 1
        self.step_count += self.config.train.num_envs
        return following

    def learn_if_due(self) -> list[dict[str, float]]:
        """Do the updates that are due and return the numbers of those that were not skipped.

        Raises:
            NonFiniteError: a loss or gradient was not finite three times in a row.
        """
        done: list[dict[str, float]] = []
        for _ in range(self._updates_due()):
            batch = self.replay.draw(self._batch_size)
            if self._reward_scale is not None:
                batch = batch._replace(reward=self._reward_scale(batch.reward))
            if self.config.train.team_reward:
                batch = batch._replace(reward=batch.reward.mean(-1, keepdim=True).expand_as(batch.reward))
            if self._device.type != "cpu":
                batch = batch._replace(**{name: column.to(self._device) for name, column in _columns(batch)})
            set_step_sizes(self.algorithm, self.progress)
            numbers = self.algorithm.update(batch, progress=self.progress)
            numbers = dict(zip(numbers, mean(*numbers.values()), strict=True))
            self.updates += 1
            if all(map(math.isfinite, numbers.values())):
                self.nonfinite_in_a_row = 0
                # Rows that only warm up a memory come before those of the sequence.
                rows = batch.terminated[-(self.needs.sequence or 0) :].numel()
                self.samples += rows * world().size * self.needs.passes
                done.append(numbers)
            else:
                self._skip(batch, numbers)
        return done

    def counts(self) -> dict[str, int]:
        """Return how much was learned so far: calls of `update`, gradient steps of what is played by, rows they used.

        With a curriculum there is also the number of the stage.

        A row counts once for every gradient step that it takes part in. An algorithm that does not tell its steps, see
        `gradient_steps`, is taken to do one per call.
        """
        steps = gradient_steps(self.algorithm.state_dict())
        made = self.updates - self.skipped_updates if steps is None else steps
        stage = {"stage": self.course.stage} if self.config.curriculum.stages else {}
        return {"updates": self.updates, "gradient_updates": made, "samples": self.samples, **stage}

    def _updates_due(self) -> int:
        settings, rollout = self.config.train, self.needs.rollout
        if rollout is not None:
            return int(self.iterations % rollout == 0)
        is_warm = self.step_count - self.course.began_at >= settings.warmup_steps
        if not is_warm or self.iterations % settings.train_every or not len(self.replay):
            return 0
        return settings.updates

    def evaluate(self, should_stop: Callable[[], bool]) -> EvaluationResult:
        """Play the evaluation episodes, in the task of the run; they start from the same seed every time."""
        settings = self.config.train
        self._read(self.spec)
        try:
            return evaluate(
                self.algorithm,
                self._evaluation_env,
                settings.evaluation_episodes,
                settings.discount,
                self.streams.integer("evaluation"),
                should_stop=should_stop,
            )
        finally:
            self._read(self.env.spec)

    def _read(self, spec: EnvSpec) -> None:
        """Let the algorithm see another task, if there is another one in this run."""
        if self.config.curriculum.stages:
            retarget(self.algorithm, spec)

    def state_dict(self) -> dict[str, Any]:
        """Return the parts of a checkpoint, from which learning goes on bit for bit."""
        step = None if self._step is None else self._step._asdict()
        course = {"curriculum": self.course.state_dict()} if self.config.curriculum.stages else {}
        return {
            "algorithm": self.algorithm.state_dict(),
            "environment": {"env": self.env.state_dict(), "step": step},
            "replay": self.replay.state_dict(),
            "player": self._player.state_dict(),
            "rewards": None if self._reward_scale is None else self._reward_scale.state_dict(),
            "streams": self.streams.state_dict(),
            "progress": {name: getattr(self, name) for name in _COUNTERS},
            **course,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> list[str]:
        """Go on from what `state_dict` returned; return in words what could not be restored."""
        if self.config.curriculum.stages:
            self.course.load_state_dict(state["curriculum"])
            self._set_up()
        self.algorithm.load_state_dict(state["algorithm"])
        self.replay.load_state_dict(state["replay"])
        self._player.load_state_dict(state["player"])
        if self._reward_scale is not None:
            self._reward_scale.load_state_dict(state["rewards"])
        self.streams.load_state_dict(state["streams"])
        # Older checkpoints have no count of samples: it is of what comes after them.
        counters = {"samples": 0} | dict(state["progress"])
        for name in _COUNTERS:
            setattr(self, name, counters[name])
        self._step = self.env.load_state_dict(state["environment"]["env"])
        if getattr(self.env, "is_restorable", True):
            # What the agents see is taken from the checkpoint as well: an environment may draw its masks at random.
            self._step = Step(**state["environment"]["step"])
            return []
        return [f"{self.config.env} cannot save its state: every environment began a new episode at the resume"]

    def _make_env(self, count: int, purpose: str, changes: Mapping[str, Any] | None = None) -> Any:
        def report(fault: Fault) -> None:
            self._on_fault({"kind": "environment", "during": purpose, **fault._asdict()})

        env = self._make(self.config.env, num_envs=count, **{**self.config.env_options, **(changes or {})})
        return guarded(env, on_fault=self.config.train.on_env_fault, report=report)

    def _move(self, name: str) -> torch.device:
        device = torch.device(name)
        if device.type == "cpu":
            return device
        move = getattr(self.algorithm, "to", None)
        if move is None:
            raise ConfigError(f"{self.config.algorithm} runs on the CPU only: leave out --device {name}.")
        move(device)
        return device

    def _skip(self, batch: Batch, numbers: Mapping[str, float]) -> None:
        self.skipped_updates += 1
        self.nonfinite_in_a_row += 1
        bad = {name: value for name, value in numbers.items() if not math.isfinite(value)}
        name, value = next(iter(bad.items()))
        path = self._dump(batch) if self.skipped_updates <= MOST_DUMPS else None
        fault = {"update": self.updates, "field": name, "value": str(value), "batch": str(path) if path else ""}
        self._on_fault({"kind": "update", **fault})
        if self.nonfinite_in_a_row >= MOST_NONFINITE_IN_A_ROW:
            raise NonFiniteError(
                f"{self.config.algorithm} on {self.config.env}: {name} is {value} in update {self.updates} "
                f"(env step {self.step_count}), the third in a row. The parameters are those from before; the batch is "
                f"in {self._dumps}. Try a smaller learning_rate of actor or critic."
            )

    def _dump(self, batch: Batch) -> Path | None:
        path = self._dumps / f"update-{self.updates:09d}.rank{world().rank}.safetensors"
        try:
            path.parent.mkdir(exist_ok=True)
            # Copies, because some columns share memory or repeat it, which the format does not know.
            columns = {name: column.clone(memory_format=torch.contiguous_format) for name, column in _columns(batch)}
            safetensors.torch.save_file(columns, path)
        except OSError as problem:
            _log.warning("cannot keep the batch of update %d: %s", self.updates, problem)
            return None
        return path


def _columns(batch: Batch) -> Iterable[tuple[str, Tensor]]:
    return ((name, column) for name, column in batch._asdict().items() if column is not None)


_COUNTERS = ("step_count", "iterations", "updates", "skipped_updates", "nonfinite_in_a_row", "samples")


def _own(name: str) -> str:
    """Return the name of a random stream that differs from process to process."""
    rank = world().rank
    return name if rank == 0 else f"{name}@{rank}"
