"""One trial: a training run, then its final evaluation on layouts that all trials share."""

import csv
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from circuits.files import replace_file
from spnpolicy.base.decoding import decode, encode
from spnpolicy.base.errors import CheckpointError, ConfigError, DiskError, SpnPolicyError
from spnpolicy.base.strict_json import read_json
from spnpolicy.base.tables import csv_text
from spnpolicy.experiments.sweeps.plan import Plan, Trial, run_config, trial_folder
from spnpolicy.training.config import RunConfig
from spnpolicy.training.evaluation import PLAYS, EvaluationResult, evaluate
from spnpolicy.training.loop import Progress, TrainResult, resume, train
from spnpolicy.training.runs import close_env, load_run

EVALUATION_FILE = "evaluation.csv"
FAILURE_FILE = "failure.txt"
RESULT_FILE = "result.json"
_COLUMNS = ("layout", "discounted_return", "length", "success", "fraction_of_optimum")

_log = logging.getLogger(__name__)


class FinalEvaluation(NamedTuple):
    """The last word on a trial, one entry per layout."""

    discounted_return: Float[np.ndarray, " layouts"]
    length: Int[np.ndarray, " layouts"]
    success: Bool[np.ndarray, " layouts"]
    fraction_of_optimum: Float[np.ndarray, " layouts"]
    """Discounted return over that of the exact optimum."""


def run_trial(plan: Plan, trial: Trial, folder: Path, *, on_progress: Callable[[Progress], None] | None = None) -> bool:
    """Do what is missing of a trial; return False if training was interrupted.

    Training goes on from its checkpoint, bit for bit as if nothing had happened; where there is none that can be read,
    or it is that of another configuration, what an earlier attempt left is removed.

    Args:
        plan: the plan it belongs to; its trials are not looked at.
        trial: the trial.
        folder: folder of the plan.
        on_progress: called after every iteration of training; a KeyboardInterrupt from it is a request to stop.
    """
    own = trial_folder(folder, trial)
    if not (own / RESULT_FILE).is_file() and not _train(run_config(trial), own, on_progress).is_finished:
        return False
    loaded = load_run(own, num_envs=plan.evaluation_episodes)
    discount = trial.train.discount
    try:
        episodes, seed = plan.evaluation_episodes, plan.evaluation_seed
        result = evaluate(loaded.algorithm, loaded.env, episodes, discount, seed, plays=tuple(PLAYS))
    finally:
        close_env(loaded.env)
    for play, drawn in result.drawn.items():
        _write_evaluation(drawn_file(own, play), drawn)
    # Last, because a trial that has it is finished.
    _write_evaluation(own / EVALUATION_FILE, result)
    (own / FAILURE_FILE).unlink(missing_ok=True)
    return True


def drawn_file(own: Path, play: str) -> Path:
    """Return where a trial keeps the same episodes with actions drawn from its joint policy, see `PLAYS`."""
    return own / f"evaluation_{play}.csv"


def is_finished(trial: Trial, folder: Path) -> bool:
    """Return whether a trial of exactly this configuration has been trained and evaluated.

    Raises:
        SpnPolicyError: a finished trial of another configuration is in its place.
    """
    own = trial_folder(folder, trial)
    if not (own / EVALUATION_FILE).is_file() or not (own / RESULT_FILE).is_file():
        return False
    if not _has_config(own, run_config(trial)):
        raise SpnPolicyError(f"{own} was trained with other settings than plan.json says: choose another --out.")
    return True


def _train(config: RunConfig, own: Path, on_progress: Callable[[Progress], None] | None) -> TrainResult:
    if (own / "checkpoints").is_dir() and _has_config(own, config):
        try:
            return resume(own, on_progress=on_progress)
        except DiskError:
            raise
        except CheckpointError as problem:
            _log.warning("%s starts again from nothing: %s", own.name, problem)
    if own.exists():
        shutil.rmtree(own)
    return train(config, own, on_progress=on_progress)


def _has_config(own: Path, config: RunConfig) -> bool:
    path = own / "config.json"
    try:
        saved = read_json(path)
        # Decoded only when that is needed: a plan may have ten thousand trials.
        return saved == encode(config) or decode(RunConfig, saved, path=str(path)) == config
    except (ConfigError, OSError):
        return False


def read_evaluation(path: Path) -> FinalEvaluation:
    """Read the final evaluation of a trial.

    Raises:
        SpnPolicyError: the file is damaged.
    """
    try:
        header, *rows = csv.reader(path.read_text(encoding="utf-8").splitlines())
        # All numbers at once: a sweep of ten thousand trials reads a million rows.
        table = np.array(rows, dtype=np.float64).reshape(len(rows), len(header))
        column = {name: table[:, header.index(name)] for name in _COLUMNS}
    except (OSError, ValueError) as problem:
        raise SpnPolicyError(f"{path} is damaged ({problem}): remove it and run the benchmark again.") from problem
    return FinalEvaluation(
        column["discounted_return"],
        column["length"].astype(np.int64),
        column["success"].astype(bool),
        column["fraction_of_optimum"],
    )


def _write_evaluation(path: Path, result: EvaluationResult) -> None:
    episodes, fraction = result.episodes, result.fraction_of_optimum
    if fraction is None:
        fraction = np.full(len(episodes.env), np.nan)
    columns = (episodes.discounted_returns, episodes.lengths, episodes.successes, fraction)
    rows = [
        (layout, f"{discounted:.9g}", length, int(success), f"{share:.9g}")
        for layout, (discounted, length, success, share) in enumerate(zip(*columns, strict=True))
    ]
    replace_file(path, csv_text([_COLUMNS, *rows]).encode())
