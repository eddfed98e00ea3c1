"""Statistics over runs and tasks: aggregates that resist outliers, and honest intervals from few seeds."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from spnpolicy.base.errors import ConfigError

Tasks = Sequence[np.ndarray]
"""Scores, one array per task; its first axis is runs (seeds). Tasks may have different numbers of runs."""
Resampled = Sequence[np.ndarray]
"""The same with a batch axis in front: one row for each way to draw the runs."""
Statistic = Callable[..., np.ndarray]
"""From one `Resampled` per algorithm to an array [batch, *shape]."""


class Interval(NamedTuple):
    """An estimate with a confidence interval."""

    estimate: float
    low: float
    high: float

    def columns(self, name: str) -> dict[str, float]:
        """Return it as columns of a table: the estimate under a name, its bounds under "name low" and "name high"."""
        return {name: self.estimate, f"{name} low": self.low, f"{name} high": self.high}


class Band(NamedTuple):
    """Estimates with pointwise confidence intervals; all three have the same shape."""

    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray


def interquartile_mean(values: Float[np.ndarray, "*batch values"]) -> Float[np.ndarray, "*batch"]:
    """Return the mean of the middle half of the values, along the last axis.

    Of n values the floor(n / 4) smallest and as many of the largest are left out, so it is as robust as a
    median and nearly as efficient as a mean. This is `scipy.stats.trim_mean(values, 0.25)`, and so what rliable
    computes; with fewer than four values nothing is left out.

    Source: Agarwal et al. 2021.
    """
    values = np.sort(values, axis=-1)
    cut = values.shape[-1] // 4
    return np.asarray(values[..., cut : values.shape[-1] - cut].mean(axis=-1))


def aggregate_iqm(tasks: Resampled) -> Float[np.ndarray, " batch"]:
    """Return the interquartile mean of the scores of all runs in all tasks, pooled; a task with more runs weighs more.

    Source: Agarwal et al. 2021.
    """
    return interquartile_mean(np.concatenate([task.reshape(len(task), -1) for task in tasks], axis=1))


def aggregate_mean(tasks: Resampled) -> Float[np.ndarray, " batch"]:
    """Return the mean over tasks of the mean over runs."""
    return _task_means(tasks).mean(axis=0)


def aggregate_median(tasks: Resampled) -> Float[np.ndarray, " batch"]:
    """Return the median over tasks of the mean over runs: the score of a typical task, whatever the others are."""
    return np.median(_task_means(tasks), axis=0)


def optimality_gap(tasks: Resampled, *, target: float = 1.0) -> Float[np.ndarray, " batch"]:
    """Return by how much scores fall short of the target on average, where more than the target counts as the target.

    Source: Agarwal et al. 2021.
    """
    return _task_means([np.maximum(target - task, 0.0) for task in tasks]).mean(axis=0)


def bootstrap_interval(
    *samples: Tasks,
    generator: np.random.Generator,
    statistic: Statistic = aggregate_iqm,
    resamples: int = 2_000,
    confidence: float = 0.95,
) -> Interval:
    """Return a statistic that is one number, with its stratified percentile bootstrap interval; see `bootstrap_band`.

    Returns:
        Estimate and interval; the bounds are nan when some task has a single run, which shows no variation.

    Raises:
        ConfigError: there are no scores.
    """
    band = bootstrap_band(
        *samples, generator=generator, statistic=statistic, resamples=resamples, confidence=confidence
    )
    return Interval(*(float(values) for values in band))


def bootstrap_band(
    *samples: Tasks,
    generator: np.random.Generator,
    statistic: Statistic,
    resamples: int = 2_000,
    confidence: float = 0.95,
) -> Band:
    """Return a statistic of any shape with stratified percentile bootstrap intervals, pointwise.

    A stratum is a task (an environment of one size) of one algorithm; within each, whole runs are drawn with
    replacement, as many as there are. Whatever else a run has, such as episodes or points of a curve, stays with it:
    it shares one trained policy, so treating it as independent would make the interval too narrow. What varies is
    therefore what a new seed would vary, and not what a new task would.

    With few runs percentile intervals are too narrow: of three runs, the interval of the mean is hardly more than
    their range, and covers the truth in 7 of 10 cases where 95 % are asked for; of ten runs in 93 of 100.

    Args:
        *samples: scores of one algorithm, or of each where the statistic compares several; per task an array with one
            row per run.
        generator: source of the resampling.
        statistic: from resampled scores, one argument per sample, to [batch, *shape].
        resamples: number of bootstrap samples.
        confidence: probability that an interval should cover, in (0, 1).

    Returns:
        Estimates and bounds of the statistic's shape; the bounds are nan when some task has a single run.

    Raises:
        ConfigError: there are no scores.

    Source: Agarwal et al. 2021; Efron 1979.
    """
    if not all(samples) or any(task.size == 0 for tasks in samples for task in tasks):
        raise ConfigError("a bootstrap interval needs at least one run with one score in every task.")
    estimate = statistic(*([task[None] for task in tasks] for tasks in samples))[0]
    if any(len(task) < 2 for tasks in samples for task in tasks):
        unknown = np.full_like(estimate, np.nan, dtype=np.float64)
        return Band(estimate, unknown, unknown)
    drawn = statistic(*([_resampled(task, generator, resamples) for task in tasks] for tasks in samples))
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1.0 - tail], axis=0)
    return Band(estimate, low, high)


def interval_over_runs(values: Sequence[float] | Float[np.ndarray, " runs"]) -> Interval:
    """Return the interquartile mean of one number per run, with a bootstrap interval over runs.

    The resampling is seeded: the same numbers always give the same interval.
    """
    return bootstrap_interval([np.asarray(values)], generator=np.random.default_rng(0))


def interval_of_mean(values: Sequence[float] | Float[np.ndarray, " episodes"]) -> Interval:
    """Return the mean of one number per episode of one policy, with a bootstrap interval over episodes.

    It says what other episodes would vary, and not what another seed of training would. The resampling is seeded.
    """
    return bootstrap_interval([np.asarray(values)], generator=np.random.default_rng(0), statistic=aggregate_mean)


def _resampled(task: np.ndarray, generator: np.random.Generator, resamples: int) -> np.ndarray:
    return task[generator.integers(len(task), size=(resamples, len(task)))]


def _task_means(tasks: Resampled) -> Float[np.ndarray, "tasks batch"]:
    return np.array([task.reshape(len(task), -1).mean(axis=1) for task in tasks])
