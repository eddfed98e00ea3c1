"""Sample efficiency: evaluations during training as curves over env steps that runs have in common."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from spnpolicy.base.errors import ConfigError
from spnpolicy.experiments.statistics.bootstrap import Band, Resampled, bootstrap_band, interquartile_mean


class History(NamedTuple):
    """The evaluations of one run."""

    steps: Int[np.ndarray, " points"]
    """Env steps before each, rising."""
    values: Float[np.ndarray, " points"]


class Curve(NamedTuple):
    """Evaluations of several runs at the same env steps; rows are runs."""

    steps: Int[np.ndarray, " points"]
    values: Float[np.ndarray, "runs points"]


def common_curve(histories: Sequence[History]) -> Curve:
    """Return the histories on one grid, without making anything up.

    The grid has every env step at which some run was evaluated, from where all have begun to where the first ends.
    Between its own evaluations a run has the value of the latest one: that is what was known of it then.

    Raises:
        ConfigError: there is no history, one is empty or does not rise, or two have no env steps in common.
    """
    if not histories or any(len(history.steps) == 0 for history in histories):
        raise ConfigError("a curve needs at least one evaluation of every run.")
    if any((np.diff(history.steps) <= 0).any() for history in histories):
        raise ConfigError("the env steps of a run's evaluations must rise.")
    start = max(history.steps[0] for history in histories)
    end = min(history.steps[-1] for history in histories)
    grid = np.unique(np.concatenate([history.steps for history in histories]))
    grid = grid[(grid >= start) & (grid <= end)]
    if len(grid) == 0:
        raise ConfigError(f"one run was first evaluated at step {start}, when another had ended at step {end}.")
    return Curve(grid, np.stack([latest(history, grid) for history in histories]))


def latest(history: History, steps: Int[np.ndarray, " points"]) -> Float[np.ndarray, " points"]:
    """Return the value of the latest evaluation at or before each step; nan before the first."""
    index = np.searchsorted(history.steps, steps, side="right") - 1
    return np.where(index >= 0, history.values[np.maximum(index, 0)], np.nan)


def curve_band(curve: Curve, *, generator: np.random.Generator) -> Band:
    """Return the interquartile mean over runs at every point, with pointwise 95 % bootstrap intervals."""
    return bootstrap_band([curve.values], generator=generator, statistic=_over_runs)


def area_under_curve(history: History, *, end: int | None = None) -> float:
    """Return the mean value over training: the area under straight lines between evaluations, per env step.

    Args:
        history: the evaluations of one run.
        end: last env step that counts, so that runs of different lengths can be compared; None for the run's last.

    Returns:
        The area, in the unit of the values; the value itself where there is only one evaluation.

    Raises:
        ConfigError: the run was evaluated at no step up to `end`, or ended before it.
    """
    steps, values = history
    end = int(steps[-1]) if end is None else end
    if not steps[0] <= end <= steps[-1]:
        raise ConfigError(f"area up to step {end}, but the run was evaluated from {steps[0]} to {steps[-1]}.")
    inside = steps < end
    steps, values = np.append(steps[inside], end), np.append(values[inside], np.interp(end, steps, values))
    return float(values[0] if len(steps) == 1 else np.trapezoid(values, steps) / (steps[-1] - steps[0]))


def _over_runs(tasks: Resampled) -> Float[np.ndarray, "batch points"]:
    (runs,) = tasks
    return interquartile_mean(np.swapaxes(runs, 1, 2))
