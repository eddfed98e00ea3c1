"""The numbers of a report: for each task and over all of them, aggregates, curves, profiles and comparisons."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import NamedTuple

import numpy as np

from spnpolicy.base.errors import ConfigError
from spnpolicy.experiments.reports.groups import Task
from spnpolicy.experiments.reports.runs import MEASURES, Run
from spnpolicy.experiments.statistics import bootstrap
from spnpolicy.experiments.statistics.bootstrap import Band, Interval, Tasks, bootstrap_band, bootstrap_interval
from spnpolicy.experiments.statistics.curves import Curve, area_under_curve, common_curve, curve_band
from spnpolicy.experiments.statistics.profiles import performance_profile, probability_of_improvement

NORMALISED = ("fraction_of_optimum", "success", "sampled_fraction_of_optimum", "sampled_success")
"""Measures between 0 and 1 that mean the same in every task; only these are aggregated over tasks."""
LESS_IS_BETTER = ("length", "sampled_length")
_THRESHOLDS = 201
_MOST_ALGORITHMS_IN_ALL_PAIRS = 6


class Pair(NamedTuple):
    """How probable it is that a run of the first algorithm is better than one of the second."""

    first: str
    second: str
    probability: Interval


class Effort(NamedTuple):
    """What the runs of an algorithm learned with, the median over runs; None where some did not count it."""

    gradient_updates: float | None
    samples_per_env_step: float | None


class Profiles(NamedTuple):
    """Share of runs above each threshold, by algorithm."""

    thresholds: np.ndarray
    bands: dict[str, Band]


@dataclass(frozen=True)
class Numbers:
    """What was found in one task, or over several of them."""

    label: str
    """The task's label, or "all tasks"."""
    scores: dict[str, Tasks]
    """Algorithm -> for each task the score of each run; the best algorithm is first."""
    aggregates: dict[str, dict[str, Interval]]
    """Algorithm -> statistic -> value; over tasks only what makes sense there."""
    pairs: list[Pair]
    profiles: Profiles
    efforts: dict[str, Effort]
    """Algorithm -> what it learned with; empty over several tasks."""

    def runs(self, algorithm: str) -> int:
        """Return the number of runs of an algorithm."""
        return sum(map(len, self.scores[algorithm]))


@dataclass(frozen=True)
class TaskNumbers(Numbers):
    """What was found in one task."""

    curves: dict[str, tuple[Curve, Band]]
    """Algorithm -> evaluations during training."""
    source: str
    """Where the scores are from, in words."""
    stage_changes: dict[str, list[int]]
    """Algorithm -> env steps at which curricula of its runs went on to the next stage; only those with one."""


@dataclass(frozen=True)
class Comparison:
    """All numbers of a report."""

    measure: str
    tasks: list[TaskNumbers]
    overall: Numbers | None
    """Over all tasks; None where scores are not normalised, or no algorithm has runs in all of several tasks."""

    @property
    def parts(self) -> list[Numbers]:
        """Those of each task, and then those over all of them."""
        return [*self.tasks, *([] if self.overall is None else [self.overall])]


def choose_measure(runs: Sequence[Run], wanted: str | None) -> str:
    """Return the measure to report: the wanted one, or the first that all runs have.

    Raises:
        ConfigError: some run does not have it.
    """
    for measure in [wanted] if wanted else MEASURES:
        lacking = [run for run in runs if measure not in run.histories]
        if not lacking:
            return measure
    what = f"no {wanted}" if wanted else "no measure that all the others have"
    run = lacking[0]
    known = ", ".join(run.histories) or "no evaluation at all"
    raise ConfigError(f"{run.name} has {what}; it has {known}. Choose another --measure, or leave that run out.")


def compare(tasks: Sequence[Task], measure: str) -> Comparison:
    """Compute everything; the resampling is seeded, so the same runs always give the same numbers."""
    numbers = [_task_numbers(task, measure) for task in tasks]
    return Comparison(measure, numbers, _overall(numbers, measure))


def _generator() -> np.random.Generator:
    """Return the source of every resampling of a report."""
    return np.random.default_rng(0)


def _task_numbers(task: Task, measure: str) -> TaskNumbers:
    # All runs of a task are judged by the same kind of evaluation, the larger one where all have it.
    runs = [run for group in task.groups.values() for run in group]
    is_final = all(measure in run.final for run in runs)
    scores = {
        name: [np.array([_score(run, measure, is_final) for run in group])] for name, group in task.groups.items()
    }
    horizon = min(run.step for run in runs)
    areas = {
        name: [np.array([area_under_curve(run.histories[measure], end=horizon) for run in group])]
        for name, group in task.groups.items()
    }
    ranked = _ranked(scores, measure)
    curves = {name: common_curve([run.histories[measure] for run in task.groups[name]]) for name in ranked}
    return TaskNumbers(
        label=task.label,
        scores=ranked,
        aggregates={name: _aggregates(ranked[name], measure, areas[name]) for name in ranked},
        pairs=_pairs(ranked, measure),
        profiles=_profiles(ranked, measure),
        efforts={name: _effort(task.groups[name]) for name in ranked},
        curves={name: (curve, curve_band(curve, generator=_generator())) for name, curve in curves.items()},
        source=_source(runs, is_final),
        stage_changes={name: steps for name in ranked if (steps := _stage_changes(task.groups[name]))},
    )


def _overall(tasks: Sequence[TaskNumbers], measure: str) -> Numbers | None:
    names = [name for name in tasks[0].scores if all(name in task.scores for task in tasks)]
    if measure not in NORMALISED or len(tasks) < 2 or not names:
        return None
    ranked = _ranked({name: [task.scores[name][0] for task in tasks] for name in names}, measure)
    aggregates = {name: _aggregates(ranked[name], measure) for name in ranked}
    return Numbers("all tasks", ranked, aggregates, _pairs(ranked, measure), _profiles(ranked, measure), {})


def _stage_changes(runs: Sequence[Run]) -> list[int]:
    return sorted(step for run in runs for step in run.stage_changes)


def _effort(runs: Sequence[Run]) -> Effort:
    def middle(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.median(known)) if len(known) == len(values) else None

    return Effort(middle([run.gradient_updates for run in runs]), middle([run.samples_per_env_step for run in runs]))


def _aggregates(scores: Tasks, measure: str, areas: Tasks | None = None) -> dict[str, Interval]:
    functions: dict[str, Callable[..., np.ndarray]] = {
        "iqm": bootstrap.aggregate_iqm,
        "mean": bootstrap.aggregate_mean,
        "median": bootstrap.aggregate_median if areas is None else _median_over_runs,
    }
    if measure in NORMALISED:
        functions["optimality_gap"] = bootstrap.optimality_gap
    found = {
        name: bootstrap_interval(scores, generator=_generator(), statistic=function)
        for name, function in functions.items()
    }
    return found if areas is None else found | {"area": bootstrap_interval(areas, generator=_generator())}


def _median_over_runs(tasks: Tasks) -> np.ndarray:
    return np.median(tasks[0], axis=1)


def _pairs(ranked: dict[str, Tasks], measure: str) -> list[Pair]:
    names = list(ranked)
    is_small = len(names) <= _MOST_ALGORITHMS_IN_ALL_PAIRS
    pairs = combinations(names, 2) if is_small else ((names[0], other) for other in names[1:])
    sign = -1.0 if measure in LESS_IS_BETTER else 1.0
    found: list[Pair] = []
    for first, second in pairs:
        samples = ([sign * task for task in ranked[name]] for name in (first, second))
        interval = bootstrap_interval(*samples, generator=_generator(), statistic=probability_of_improvement)
        found.append(Pair(first, second, interval))
    return found


def _profiles(ranked: dict[str, Tasks], measure: str) -> Profiles:
    everything = np.concatenate([task for tasks in ranked.values() for task in tasks])
    low, high = float(everything.min()), float(everything.max())
    high = max(high, 1.0) if measure in NORMALISED else high
    # A little below the lowest score, so that every profile is seen to begin at 1.
    thresholds = np.linspace(low - 0.1 * ((high - low) or 1.0), high, _THRESHOLDS)
    profile = partial(performance_profile, thresholds=thresholds)
    bands = {name: bootstrap_band(tasks, generator=_generator(), statistic=profile) for name, tasks in ranked.items()}
    return Profiles(thresholds, bands)


def _ranked(scores: Mapping[str, Tasks], measure: str) -> dict[str, Tasks]:
    sign = -1.0 if measure in LESS_IS_BETTER else 1.0

    def worth(name: str) -> float:
        return sign * float(bootstrap.aggregate_iqm([task[None] for task in scores[name]])[0])

    return {name: scores[name] for name in sorted(scores, key=worth, reverse=True)}


def _score(run: Run, measure: str, is_final: bool) -> float:
    return run.final[measure] if is_final else float(run.histories[measure].values[-1])


def _source(runs: Sequence[Run], is_final: bool) -> str:
    if is_final:
        counts = sorted({run.final_episodes for run in runs})
        return f"the final evaluation ({' or '.join(f'{count:,}' for count in counts)} episodes per run)"
    counts = sorted({run.config.train.evaluation_episodes for run in runs})
    return f"the last evaluation during training ({' or '.join(f'{count:,}' for count in counts)} episodes per run)"
