"""The end of a sweep on a few lines: one number per algorithm and environment."""

from pathlib import Path

import numpy as np

from spnpolicy.experiments.statistics.bootstrap import interquartile_mean
from spnpolicy.experiments.sweeps.plan import Plan, trial_folder
from spnpolicy.experiments.sweeps.trials import EVALUATION_FILE, read_evaluation


def summary_lines(plan: Plan, folder: Path) -> list[str]:
    """Return a table of algorithms x environments: the interquartile mean over runs of the discounted return.

    A run counts with the mean over its final evaluation. A number in brackets says from how many runs a mean is, where
    some are missing. That the evaluations are of this plan is not checked again: `run_trials` has done that.
    """
    returns: dict[tuple[str, str], list[float]] = {}
    planned: dict[tuple[str, str], int] = {}
    for trial in plan.trials:
        pair = trial.algorithm, trial.environment
        planned[pair] = planned.get(pair, 0) + 1
        path = trial_folder(folder, trial) / EVALUATION_FILE
        if path.is_file():
            returns.setdefault(pair, []).append(float(read_evaluation(path).discounted_return.mean()))
    rows = [["algorithm", *plan.environments]]
    for algorithm in plan.algorithms:
        pairs = [(algorithm, environment) for environment in plan.environments]
        rows.append([algorithm, *(_cell(returns.get(pair, []), planned.get(pair, 0)) for pair in pairs)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return ["discounted return of the final evaluations, interquartile mean over runs:", *lines]


def _cell(values: list[float], planned: int) -> str:
    if not values:
        return "-"
    mean = f"{float(interquartile_mean(np.array(values))):.4f}"
    return mean if len(values) == planned else f"{mean} ({len(values)} of {planned})"
