"""The state of learning: everything that changes while a run goes on, and one iteration of it."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from spnpolicy.base.distributed import mean, own_device, share, world
from spnpolicy.base.errors import ConfigError, NonFiniteError
from spnpolicy.base.seeding import Streams
from spnpolicy.data.protocol import Batch
from spnpolicy.data.rewards import RewardScale
from spnpolicy.data.stores import store_for
from spnpolicy.envs import Step
from spnpolicy.envs.checks.guard import Fault, guarded
from spnpolicy.parts.learner import gradient_steps, set_step_sizes
from spnpolicy.training.config import RunConfig
from spnpolicy.training.evaluation import EvaluationResult, evaluate
from spnpolicy.training.player import Player, needs_of
from spnpolicy.training.runs import EnvFactory, build_algorithm

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
        self._dumps, self._on_fault = dumps, on_fault
        self.streams = Streams(settings.seed, replica=world().rank)
        self.env = self._make_env(make_env, share("train.num_envs", settings.num_envs), "training")
        try:
            self.algorithm = build_algorithm(config, self.env.spec, self.streams)
            self._device = self._move(own_device(device))
            self.needs = needs_of(self.algorithm)
            # Shares of what a rollout does not use need not come out even.
            self._batch_size, capacity = settings.batch_size, settings.replay_capacity
            if self.needs.rollout is None:
                self._batch_size = share("train.batch_size", self._batch_size)
                capacity = share("train.replay_capacity", capacity)
            self._evaluation_env = self._make_env(make_env, settings.evaluation_episodes, "evaluation")
        except BaseException:
            close_env(self.env)
            raise
        self._player = Player(self.algorithm)
        self._reward_scale = RewardScale() if settings.standardise_rewards else None
        self.replay = store_for(
            self.needs,
            self.env.spec,
            capacity=capacity,
            num_envs=self.env.num_envs,
            generator=self.streams.torch("replay"),
        )
        self.step_count = self.iterations = self.updates = self.skipped_updates = 0
        self.nonfinite_in_a_row = self.samples = 0
        self._step: Step | None = None

    def begin(self) -> None:
        """Start the first episodes of a new run."""
        step = self.env.reset(seed=self.streams.integer(_own("environment")))
        self.replay.prepare(step)
        self._step = step

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

        A row counts once for every gradient step that it takes part in. An algorithm that does not tell its steps, see
        `gradient_steps`, is taken to do one per call.
        """
        steps = gradient_steps(self.algorithm.state_dict())
        made = self.updates - self.skipped_updates if steps is None else steps
        return {"updates": self.updates, "gradient_updates": made, "samples": self.samples}

    def _updates_due(self) -> int:
        settings, rollout = self.config.train, self.needs.rollout
        if rollout is not None:
            return int(self.iterations % rollout == 0)
        if self.step_count < settings.warmup_steps or self.iterations % settings.train_every or not len(self.replay):
            return 0
        return settings.updates

    def evaluate(self, should_stop: Callable[[], bool]) -> EvaluationResult:
        """Play the evaluation episodes; they start from the same seed every time."""
        settings = self.config.train
        return evaluate(
            self.algorithm,
            self._evaluation_env,
            settings.evaluation_episodes,
            settings.discount,
            self.streams.integer("evaluation"),
            should_stop=should_stop,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the parts of a checkpoint, from which learning goes on bit for bit."""
        step = None if self._step is None else self._step._asdict()
        return {
            "algorithm": self.algorithm.state_dict(),
            "environment": {"env": self.env.state_dict(), "step": step},
            "replay": self.replay.state_dict(),
            "player": self._player.state_dict(),
            "rewards": None if self._reward_scale is None else self._reward_scale.state_dict(),
            "streams": self.streams.state_dict(),
            "progress": {name: getattr(self, name) for name in _COUNTERS},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> list[str]:
        """Go on from what `state_dict` returned; return in words what could not be restored."""
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

    def _make_env(self, make_env: EnvFactory, count: int, purpose: str) -> Any:
        def report(fault: Fault) -> None:
            self._on_fault({"kind": "environment", "during": purpose, **fault._asdict()})

        env = make_env(self.config.env, num_envs=count, **self.config.env_options)
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


def close_env(env: Any) -> None:
    """End the processes of an environment, if it has any."""
    close = getattr(env, "close", None)
    if close is not None:
        close()


_COUNTERS = ("step_count", "iterations", "updates", "skipped_updates", "nonfinite_in_a_row", "samples")


def _own(name: str) -> str:
    """Return the name of a random stream that differs from process to process."""
    rank = world().rank
    return name if rank == 0 else f"{name}@{rank}"
