"""The training loop: act, step, remember, learn; with metrics, evaluations and checkpoints on the way."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from spnpolicy.base.decoding import encode
from spnpolicy.base.distributed import any_of, barrier, process_group, world
from spnpolicy.base.errors import CheckpointError, ConfigError, DiskError
from spnpolicy.base.files import checked_path, write_json
from spnpolicy.envs import make_env
from spnpolicy.training.agreement import check_settings
from spnpolicy.training.config import RunConfig
from spnpolicy.training.evaluation import EvaluationStopped
from spnpolicy.training.facts import attempt_facts, differences, run_facts
from spnpolicy.training.interrupts import StopRequest
from spnpolicy.training.learning import Learning
from spnpolicy.training.recorder import Recorder
from spnpolicy.training.runs import (
    EnvFactory,
    create_run_folder,
    locked_run,
    misfit,
    read_facts,
    read_finished,
    read_run_config,
    remove_unsaved,
    with_all_options,
)
from spnpolicy.training.sinks import Sink
from spnpolicy.training.storage.checkpoints import complete_checkpoints, load_checkpoint, save_best
from spnpolicy.training.storage.saver import CheckpointSaver

_KEPT_BESIDE = 5
"""Checkpoints that other processes keep: rank 0 may fail to write three in a row before the run stops."""

_log = logging.getLogger(__name__)


class Progress(NamedTuple):
    """How far a run has come; given to the progress callback after every iteration."""

    step: int
    """Env steps done."""
    steps: int
    """Env steps in total."""
    seconds: float
    """Time since the start, earlier attempts included."""
    evaluation: dict[str, float]
    """Means of the latest evaluation."""
    stage: int = 1
    """Stage of the curriculum; the task of the run itself is the last."""
    stages: int = 1
    """Number of stages; 1 without a curriculum."""

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
    faults: int = 0
    """Failures of environments and updates that were survived; faults.jsonl has each."""
    stage: int = 1
    """Stage of the curriculum that training was in; one more than it has where it came to the task of the run."""


def train(
    config: RunConfig,
    folder: Path | str,
    *,
    make_env: EnvFactory = make_env,
    on_progress: Callable[[Progress], None] | None = None,
    sinks: Iterable[Sink] = (),
    device: str = "cpu",
) -> TrainResult:
    """Train one algorithm in one environment and write everything into a new folder.

    Ctrl-C or SIGTERM ends the run after the current step with a checkpoint, from which `resume` goes on; a second one
    ends it at once. Started by torchrun, the processes train this one run together: num_envs, batch_size and
    replay_capacity count over all of them, and the folder must be one that all see.

    Args:
        config: the whole configuration.
        folder: folder of the run, missing or empty; `spnpolicy.training.runs` says what it holds afterwards.
        make_env: maker of environments, for those outside the registry.
        on_progress: called after every iteration.
        sinks: who else gets the metrics records.
        device: where the networks live: "cpu", "cuda", "cuda:1".

    Raises:
        ConfigError: a setting is wrong, or the folder is not empty. Nothing has been written then.
        EnvError: an environment broke its contract, or would not start any more.
        NonFiniteError: learning diverged; the last checkpoint is from before.
        DiskError: the disk refused three checkpoints in a row.
    """
    folder = checked_path("the folder of a new run", folder)
    with process_group(), Session(config, folder, make_env, sinks, device) as session:
        # Here and not at a resume: a run that was begun is always gone on with.
        config.train.require_use(config.algorithm, session.learning.needs.rollout)
        config.train.require_an_update(session.learning.needs.rollout)
        if world().rank == 0:
            create_run_folder(folder, with_all_options(config, session.learning.algorithm))
        barrier()
        with locked_run(folder):
            session.begin()
            return session.run(on_progress)


def resume(
    folder: Path | str,
    *,
    make_env: EnvFactory = make_env,
    on_progress: Callable[[Progress], None] | None = None,
    sinks: Iterable[Sink] = (),
    device: str = "cpu",
    strict: bool = False,
) -> TrainResult:
    """Go on with a run where its latest checkpoint left it, as if it had never stopped.

    On the same kind of machine with the same versions, threads and device, everything that follows has the same bits
    as in an unbroken run: parameters, metrics, episodes. What was written after the checkpoint is cut off and written
    again. A finished run is left alone. In config.json only length, evaluations, logging and checkpoints may have been
    changed since. An environment that cannot save its state begins new episodes, and run.json
    says so.

    `strict` refuses to go on where the bits may differ: other versions, processor, threads or device. The other
    arguments are those of `train`.

    Raises:
        ConfigError: the folder is no run, another process is at work in it, or `strict` refuses.
        CheckpointError: the checkpoint is damaged or of other settings than config.json, or files of the run disagree.
    """
    folder = checked_path("the folder of a run", folder)
    config = read_run_config(folder)
    finished = read_finished(folder, config)
    if finished is not None:
        means, stage = finished["evaluation"], finished.get("stage", 1)
        return TrainResult(finished["step"], True, means, finished["seconds"], finished["faults"], stage)
    with process_group(), locked_run(folder), Session(config, folder, make_env, sinks, device) as session:
        session.load(strict=strict)
        return session.run(on_progress)


class Session:
    """One attempt at a run: its state of learning, its records and its checkpoints, from opening to closing."""

    def __init__(
        self, config: RunConfig, folder: Path, make_env: EnvFactory, sinks: Iterable[Sink], device: str
    ) -> None:
        self.config, self.folder, self._device = config, folder, device
        settings = config.train
        self._recorder = Recorder(folder, settings.num_envs, settings.discount, sinks)
        self.learning = Learning(
            config, make_env, device=device, dumps=folder / "nonfinite", on_fault=self._remember_fault
        )
        rank = world().rank
        self._root = folder / ("checkpoints" if rank == 0 else f"checkpoints-rank{rank}")
        self._saver = CheckpointSaver(self._root, keep=2 if rank == 0 else _KEPT_BESIDE, warn=_log.warning)
        self._evaluated_at = -1
        self._best = -math.inf
        # Those of config.json, which a checkpoint keeps beside what was learned with them.
        self._settings: dict[str, Any] = {}

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *error: object) -> None:
        self.learning.close()

    def begin(self) -> None:
        """Start a new run."""
        self._settings = encode(read_run_config(self.folder))
        self._note_attempt([])
        self.learning.begin()

    def load(self, *, strict: bool) -> None:
        """Put everything back to the latest checkpoint, or begin anew if the run was ended before its first one."""
        now, facts = attempt_facts(0, self._device), read_facts(self.folder)
        if facts is not None:
            changed = differences(facts["attempts"][-1], now)
            if any(name.startswith("processes") for name in changed):
                raise ConfigError(f"{self.folder}: {changed[-1]}; start it with as many processes as before.")
            if strict and changed:
                raise ConfigError(f"{self.folder}: resuming may give other bits: {'; '.join(changed)}.")
            for change in changed:
                _log.warning("resuming %s may give other bits: %s.", self.folder, change)
        checkpoints = self.folder / "checkpoints"
        if not (checkpoints / "latest").exists() and not complete_checkpoints(checkpoints):
            remove_unsaved(self.folder)
            self.begin()
            return
        state = self._read_checkpoint()
        self._settings = encode(self.config)
        notes = check_settings(self.folder, self.config, state.get("config", self._settings))
        try:
            lost = self.learning.load_state_dict(state)
            self._recorder.load_state_dict(state["recorder"])
            self._evaluated_at, self._best = state["session"]["evaluated_at"], state["session"]["best"]
        except (KeyError, TypeError, RuntimeError, ValueError) as problem:
            raise misfit(self.folder, problem) from None
        if lost:
            self._recorder.tracker.forget()
        notes += lost
        for note in notes:
            _log.warning("%s: %s.", self.folder, note)
        self._note_attempt(notes)

    def run(self, on_progress: Callable[[Progress], None] | None) -> TrainResult:
        """Train to the end, or until asked to stop; save a checkpoint in either case."""
        with StopRequest() as stop, self._recorder:
            is_finished = False
            if self._evaluated_at < 0:
                self._save()
            try:
                is_finished = self._iterate_to_the_end(stop, on_progress)
            except KeyboardInterrupt:
                # The second Ctrl-C insists: leave at once. Any other source asks like a first one.
                if stop.requested:
                    raise
            self._save(final=True)
            result = TrainResult(
                self.learning.step_count,
                is_finished,
                self._recorder.evaluation,
                self._recorder.seconds(),
                self._recorder.faults,
                self.learning.course.stage,
            )
            if is_finished and world().rank == 0:
                self._write_result(result)
            barrier()
            return result

    def _iterate_to_the_end(self, stop: StopRequest, on_progress: Callable[[Progress], None] | None) -> bool:
        """Return whether the end was reached."""
        learning, settings = self.learning, self.config.train
        while True:
            # At the top of an iteration, so that a run that stops here evaluates when it is resumed.
            if self._evaluation_is_due() and not self._evaluate(stop):
                return False
            if learning.step_count >= settings.steps:
                return True
            if any_of(stop.requested):
                return False
            before = learning.step_count
            ended = self._recorder.stepped(before + settings.num_envs, learning.iterate())
            self._recorder.learned(learning.learn_if_due())
            now = learning.step_count
            is_mastered = learning.is_stage_mastered(ended, self._recorder.tracker.ages)
            # At the end of a stage as well, so that no record is about two of them.
            if is_mastered or _is_due(before, now, settings.log_every):
                self._recorder.log(now, learning.counts(), skipped=learning.skipped_updates)
            if is_mastered:
                self._begin_next_stage()
            if _is_due(before, now, settings.checkpoint_every) and now < settings.steps:
                self._save()
            elif world().size == 1:
                self._saver.retry_if_due(self._state_dict)
            if on_progress is not None:
                course, evaluation = learning.course, self._recorder.evaluation
                times = (now, settings.steps, self._recorder.seconds())
                on_progress(Progress(*times, evaluation, course.stage, course.stages))

    def _begin_next_stage(self) -> None:
        self.learning.begin_next_stage()
        self._recorder.tracker.forget()
        course = self.learning.course
        what = ", ".join(f"{name} {value}" for name, value in course.options.items()) or "the task of the run itself"
        _log.info("stage %d of %d begins at env step %d: %s.", course.stage, course.stages, course.began_at, what)

    def _evaluation_is_due(self) -> bool:
        now, last, settings = self.learning.step_count, self._evaluated_at, self.config.train
        return last < 0 or _is_due(last, now, settings.evaluate_every) or last < now >= settings.steps

    def _evaluate(self, stop: StopRequest) -> bool:
        """Evaluate and keep the best checkpoint; return False if stopped before the end of it."""
        learning, is_done = self.learning, True
        if world().rank == 0:
            try:
                result = learning.evaluate(lambda: stop.requested)
                means = self._recorder.evaluated(learning.step_count, learning.counts(), result)
                self._keep_best(means["discounted_return"])
            except EvaluationStopped:
                is_done = False
        if any_of(not is_done):
            return False
        self._evaluated_at = learning.step_count
        return True

    def _save(self, *, final: bool = False) -> None:
        # Rank 0 last: whatever step its checkpoint is of, those of the others are there.
        if world().rank == 0:
            barrier()
        self._saver.save(self._state_dict, final=final)
        if world().rank:
            barrier()
        barrier()

    def _keep_best(self, score: float) -> None:
        if not score > self._best:
            return
        self._best = score
        algorithm = self.learning.algorithm.state_dict()
        parts = {"algorithm": algorithm, "progress": self._progress_part(), "config": self._settings}
        try:
            save_best(self._root, parts, score=score, step=self.learning.step_count)
        except DiskError as problem:
            _log.warning("the best checkpoint was not kept: %s", problem)

    def _progress_part(self) -> dict[str, Any]:
        return {"step_count": self.learning.step_count, "updates": self.learning.updates}

    def _state_dict(self) -> dict[str, Any]:
        session = {"evaluated_at": self._evaluated_at, "best": self._best}
        own = {"recorder": self._recorder.state_dict(), "session": session, "config": self._settings}
        return {**self.learning.state_dict(), **own}

    def _read_checkpoint(self) -> Mapping[str, Any]:
        main = load_checkpoint(self.folder / "checkpoints")
        if world().rank == 0:
            return main
        # This process may have saved once more than rank 0 before everything stopped.
        for own in map(load_checkpoint, reversed(complete_checkpoints(self._root))):
            if own["progress"] == main["progress"]:
                return {**own, "algorithm": main["algorithm"]}
        raise CheckpointError(f"{self._root} has no checkpoint of the same step as {self.folder / 'checkpoints'}.")

    def _remember_fault(self, fault: Mapping[str, Any]) -> None:
        self._recorder.fault({"step": self.learning.step_count, **fault})

    def _note_attempt(self, notes: list[str]) -> None:
        if world().rank:
            return
        facts = read_facts(self.folder) or self._facts() | {"attempts": []}
        attempt = attempt_facts(self.learning.step_count, self._device) | {"notes": notes}
        write_json(self.folder / "run.json", facts | {"attempts": [*facts["attempts"], attempt]})

    def _facts(self) -> dict[str, Any]:
        return run_facts(self.config, self.learning.spec, self.learning.needs)

    def _write_result(self, result: TrainResult) -> None:
        # JSON has no nan: a mean that does not exist is left out.
        evaluation = {name: value for name, value in result.evaluation.items() if math.isfinite(value)}
        counts = {"step": result.step, **self.learning.counts(), "faults": result.faults}
        skipped = {"skipped_updates": self.learning.skipped_updates}
        # What the others must agree with, see `agreement`.
        others = {"config": self._settings, "records_sha256": self._recorder.records_sha256()}
        content = {**counts, **skipped, "evaluation": evaluation, "seconds": result.seconds, **others}
        write_json(self.folder / "result.json", content)


def _is_due(before: int, now: int, every: int) -> bool:
    return before // every < now // every
