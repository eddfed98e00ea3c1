"""The training loop: act, step, remember, learn; with metrics, evaluations and checkpoints on the way."""

import math
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from spnpolicy.envs import Step, make_env
from spnpolicy.errors import NonFiniteError
from spnpolicy.replay import ReplayBuffer
from spnpolicy.training.checkpoints import save_checkpoint
from spnpolicy.training.config import RunConfig
from spnpolicy.training.evaluation import EvaluationResult, evaluate
from spnpolicy.training.interrupts import StopRequest
from spnpolicy.training.recorder import Recorder
from spnpolicy.training.runs import EnvFactory, build_algorithm, create_run_folder, with_all_options
from spnpolicy.training.seeding import Streams
from spnpolicy.training.strict_json import write_json


class Progress(NamedTuple):
    """How far a run has come; given to the progress callback after every iteration."""

    step: int
    """Env steps done."""
    steps: int
    """Env steps in total."""
    seconds: float
    """Time since the start."""
    evaluation: dict[str, float]
    """Means of the latest evaluation."""

    @property
    def seconds_left(self) -> float:
        """Time to the end at the average speed so far; infinite at the start."""
        return self.seconds * (self.steps - self.step) / self.step if self.step else math.inf


class TrainResult(NamedTuple):
    """How a run ended."""

    step: int
    """Env steps done."""
    is_finished: bool
    """False if it was interrupted; the folder then holds a checkpoint and no result.json."""
    evaluation: dict[str, float]
    """Means of the last evaluation."""
    seconds: float
    """Time it took."""


def train(
    config: RunConfig,
    folder: Path,
    *,
    make_env: EnvFactory = make_env,
    on_progress: Callable[[Progress], None] | None = None,
) -> TrainResult:
    """Train one algorithm in one environment and write everything into a new folder.

    Ctrl-C or SIGTERM ends the run after the current iteration with a checkpoint; a second one ends it at
    once.

    Args:
        config: the whole configuration.
        folder: folder of the run, missing or empty; `spnpolicy.training.runs` says what it holds afterwards.
        make_env: maker of environments, for those outside the registry.
        on_progress: called after every iteration.

    Raises:
        ConfigError: a setting is wrong, or the folder is not empty. Nothing has been written then.
        NonFiniteError: learning diverged; the last checkpoint is from before.
        CheckpointError: a checkpoint could not be written.
    """
    training = _Training(config, make_env)
    create_run_folder(folder, with_all_options(config, training.algorithm))
    with StopRequest() as stop, Recorder(folder, config.train) as recorder:
        return _run(training, recorder, folder, stop, on_progress)


def _run(
    training: "_Training",
    recorder: Recorder,
    folder: Path,
    stop: StopRequest,
    on_progress: Callable[[Progress], None] | None,
) -> TrainResult:
    settings = training.config.train
    root = folder / "checkpoints"
    evaluation = recorder.evaluated(0, training.evaluate())
    is_finished = False
    try:
        while training.step_count < settings.steps and not stop.requested:
            before = training.step_count
            following = training.iterate()
            recorder.stepped(training.step_count, following)
            recorder.learned(training.learn_if_due())
            now = training.step_count
            if _is_due(before, now, settings.log_every):
                recorder.log(now)
            if _is_due(before, now, settings.evaluate_every) and now < settings.steps:
                evaluation = recorder.evaluated(now, training.evaluate())
            if _is_due(before, now, settings.checkpoint_every) and now < settings.steps:
                save_checkpoint(root, training.state_dict() | {"episodes": recorder.tracker.state_dict()})
            if on_progress is not None:
                on_progress(Progress(now, settings.steps, recorder.seconds(), evaluation))
        is_finished = training.step_count >= settings.steps
    except KeyboardInterrupt:
        # The second Ctrl-C insists: leave at once. Any other source asks like a first one.
        if stop.requested:
            raise
    if is_finished:
        evaluation = recorder.evaluated(training.step_count, training.evaluate())
    save_checkpoint(root, training.state_dict() | {"episodes": recorder.tracker.state_dict()})
    result = TrainResult(training.step_count, is_finished, evaluation, recorder.seconds())
    if is_finished:
        _write_result(folder, result, training)
    return result


class _Training:
    """What changes while training: environment, algorithm, replay, random streams and counters."""

    def __init__(self, config: RunConfig, make_env: EnvFactory):
        self.config = config
        settings = config.train
        self.streams = Streams(settings.seed)
        self.env = make_env(config.env, num_envs=settings.num_envs, **config.env_options)
        self._evaluation_env = make_env(config.env, num_envs=settings.evaluation_episodes, **config.env_options)
        self.algorithm = build_algorithm(config, self.env.spec, self.streams)
        self.replay = ReplayBuffer(settings.replay_capacity, self.env.spec, self.streams.torch("replay"))
        self.step_count = 0
        self.iterations = 0
        self.updates = 0
        self._step = self.env.reset(seed=self.streams.integer("environment"))

    @property
    def progress(self) -> float:
        """Share of training done, in [0, 1]."""
        return min(self.step_count / self.config.train.steps, 1.0)

    def iterate(self) -> Step:
        """Act once in every environment and remember what came of it."""
        actions = self.algorithm.act(self._step, explore=True, progress=self.progress)
        following = self.env.step(actions)
        self.replay.add(self._step, actions, following)
        self._step = following
        self.iterations += 1
        self.step_count += self.config.train.num_envs
        return following

    def learn_if_due(self) -> list[dict[str, float]]:
        """Do the gradient steps that are due and return their numbers."""
        settings = self.config.train
        if self.step_count < settings.warmup_steps or self.iterations % settings.train_every:
            return []
        numbers = []
        for _ in range(settings.updates):
            batch = self.replay.sample(settings.batch_size)
            numbers.append(self.algorithm.update(batch, progress=self.progress))
            self.updates += 1
            for name, value in numbers[-1].items():
                if not math.isfinite(value):
                    raise NonFiniteError(
                        f"{self.config.algorithm} on {self.config.env}: {name} is {value} in update "
                        f"{self.updates} (env step {self.step_count}). Try a smaller learning_rate."
                    )
        return numbers

    def evaluate(self) -> EvaluationResult:
        """Play the evaluation episodes; they start from the same seed every time."""
        settings = self.config.train
        seed = self.streams.integer("evaluation")
        return evaluate(self.algorithm, self._evaluation_env, settings.evaluation_episodes, settings.discount, seed)

    def state_dict(self) -> dict[str, Any]:
        """Return the parts of a checkpoint; replay, which is large, is left out."""
        return {
            "algorithm": self.algorithm.state_dict(),
            "environment": self.env.state_dict(),
            "streams": self.streams.state_dict(),
            "progress": {"step": self.step_count, "iterations": self.iterations, "updates": self.updates},
        }


def _is_due(before: int, now: int, every: int) -> bool:
    return before // every < now // every


def _write_result(folder: Path, result: TrainResult, training: _Training) -> None:
    # JSON has no nan: a mean that does not exist is left out.
    evaluation = {name: value for name, value in result.evaluation.items() if math.isfinite(value)}
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    content = {"step": result.step, "updates": training.updates, "evaluation": evaluation}
    write_json(folder / "result.json", content | {"seconds": result.seconds, "versions": versions})
