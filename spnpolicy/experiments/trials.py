"""One trial: a training run, then its final evaluation on layouts that all trials share."""

import csv
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from spnpolicy.errors import SpnPolicyError
from spnpolicy.experiments.plan import Plan, trial_folder
from spnpolicy.training.config import RunConfig
from spnpolicy.training.evaluation import EvaluationResult, evaluate
from spnpolicy.training.files import replace_file
from spnpolicy.training.loop import Progress, train
from spnpolicy.training.runs import load_run, read_run_config

EVALUATION_FILE = "evaluation.csv"
FAILURE_FILE = "failure.txt"
_COLUMNS = ("layout", "discounted_return", "length", "success", "fraction_of_optimum")


class FinalEvaluation(NamedTuple):
    """The last word on a trial, one entry per layout."""

    discounted_return: Float[np.ndarray, " layouts"]
    length: Int[np.ndarray, " layouts"]
    success: Bool[np.ndarray, " layouts"]
    fraction_of_optimum: Float[np.ndarray, " layouts"]
    """Discounted return over that of the exact optimum."""


def run_trial(
    plan: Plan, config: RunConfig, folder: Path, *, on_progress: Callable[[Progress], None] | None = None
) -> bool:
    """Do what is missing of a trial; return False if training was interrupted.

    What an earlier attempt left unfinished is removed: a run is the same from its start, whatever happened before.

    Args:
        plan: the plan it belongs to.
        config: the trial.
        folder: folder of the plan.
        on_progress: called after every iteration of training.
    """
    own = trial_folder(folder, config)
    if not (own / "result.json").is_file():
        if own.exists():
            shutil.rmtree(own)
        if not train(config, own, on_progress=on_progress).is_finished:
            return False
    loaded = load_run(own, num_envs=plan.evaluation_episodes)
    result = evaluate(
        loaded.algorithm, loaded.env, plan.evaluation_episodes, config.train.discount, plan.evaluation_seed
    )
    _write_evaluation(own / EVALUATION_FILE, result)
    (own / FAILURE_FILE).unlink(missing_ok=True)
    return True


def is_finished(config: RunConfig, folder: Path) -> bool:
    """Return whether a trial of exactly this configuration has been trained and evaluated.

    Raises:
        SpnPolicyError: a finished trial of another configuration is in its place.
    """
    own = trial_folder(folder, config)
    if not (own / "result.json").is_file() or not (own / EVALUATION_FILE).is_file():
        return False
    if read_run_config(own) != config:
        raise SpnPolicyError(f"{own} was trained with other settings than plan.json says: choose another --out.")
    return True


def read_evaluation(path: Path) -> FinalEvaluation:
    """Read the final evaluation of a trial.

    Raises:
        SpnPolicyError: the file is damaged.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        column = {name: np.array([float(row[name]) for row in rows]) for name in _COLUMNS}
    except (OSError, KeyError, TypeError, ValueError) as problem:
        raise SpnPolicyError(f"{path} is damaged ({problem}): remove it and run the benchmark again.") from problem
    return FinalEvaluation(
        column["discounted_return"],
        column["length"].astype(np.int64),
        column["success"].astype(bool),
        column["fraction_of_optimum"],
    )


def _write_evaluation(path: Path, result: EvaluationResult) -> None:
    episodes = result.episodes
    fraction = result.fraction_of_optimum
    if fraction is None:
        fraction = np.full(len(episodes.env), np.nan)
    text = io.StringIO()
    text.write(",".join(_COLUMNS) + "\n")
    for index in range(len(episodes.env)):
        text.write(
            f"{index},{episodes.discounted_returns[index]:.9g},{episodes.lengths[index]},"
            f"{int(episodes.successes[index])},{fraction[index]:.9g}\n"
        )
    replace_file(path, text.getvalue().encode())
