"""What limits the conclusions of a report, and what its runs were made with."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from spnpolicy.experiments.reports.groups import Task
from spnpolicy.experiments.reports.numbers import Comparison
from spnpolicy.experiments.reports.runs import Run, printable
from spnpolicy.experiments.statistics.tables import few_runs_note

_SHOWN_NAMES = 5


@dataclass(frozen=True)
class Selection:
    """Which runs a report is about, and which not."""

    included: list[Run]
    unfinished: list[Run]
    """Runs that have not reached their end; in the report only if they were asked for."""
    are_unfinished_included: bool
    missing: list[str]
    """Runs of plans that were not begun."""


def cautions(comparison: Comparison, tasks: Sequence[Task], selection: Selection) -> list[str]:
    """Return everything that limits what may be concluded."""
    return [
        *_about_selection(selection),
        *_about_lengths(tasks),
        *_about_evaluations(tasks),
        *_about_counts(comparison),
        *_about_pairs(comparison),
        *_about_equals(comparison),
        *_about_places(selection.included),
    ]


def provenance(runs: Sequence[Run]) -> list[str]:
    """Return versions, commits, machines and what a return is, each with all values that occur."""
    attempts = [run.attempt for run in runs]
    versions = [", ".join(f"{name} {number}" for name, number in (a.get("versions") or {}).items()) for a in attempts]
    found = {
        "versions": versions,
        "commit": [str(a.get("commit") or "") for a in attempts],
        "machine": [_machine(attempt) for attempt in attempts],
        "threads": [str(a.get("threads", "")) for a in attempts],
        "agents": [str(run.facts.get("num_agents", "")) for run in runs],
        "return": [str(run.facts.get("return_scale", "")) for run in runs],
        "env step": [str(run.facts.get("env_step", "")) for run in runs],
        "update": [str(run.facts.get("update", "")) for run in runs],
        "gradient update": [str(run.facts.get("gradient_update", "")) for run in runs],
        "sample": [str(run.facts.get("sample", "")) for run in runs],
    }
    return [f"{name}: {_all_of(values)}" for name, values in found.items()]


def _about_selection(selection: Selection) -> Iterator[str]:
    if selection.unfinished:
        names = _some([f"{run.name} (at step {run.step:,})" for run in selection.unfinished])
        how = "counts with its last evaluation so far" if selection.are_unfinished_included else "is left out"
        yield f"Unfinished, and each {how}: {names}."
    if selection.missing:
        yield f"Planned, but not begun: {_some(selection.missing)}."


def _about_lengths(tasks: Sequence[Task]) -> Iterator[str]:
    for task in tasks:
        steps = sorted({run.step for group in task.groups.values() for run in group})
        if len(steps) > 1:
            yield (
                f"{task.label}: the training lengths differ ({', '.join(f'{step:,}' for step in steps)} env steps), so "
                f"scores are not of equal effort; the mean over training counts the first {steps[0]:,} steps of all."
            )


def _about_evaluations(tasks: Sequence[Task]) -> Iterator[str]:
    for task in tasks:
        runs = [run for group in task.groups.values() for run in group]
        if len({run.final_episodes for run in runs if run.final}) > 1:
            yield f"{task.label}: the final evaluations have different numbers of episodes."
        if any(run.final for run in runs) and not all(run.final for run in runs):
            yield f"{task.label}: only some runs have a final evaluation, so none of those is used."
    if any(left.groups.keys() != right.groups.keys() for left, right in pairwise(tasks)):
        yield "Not every algorithm has runs in every task; a summary over tasks is about those that do."


def _about_counts(comparison: Comparison) -> Iterator[str]:
    counts = [(name, task.runs(name)) for task in comparison.tasks for name in task.scores]
    single = list(dict.fromkeys(name for name, count in counts if count == 1))
    if single:
        yield f"One run shows no variation, so there is no interval for {_some(single)}."
    several = [count for _, count in counts if count > 1]
    few = few_runs_note(several) if several else None
    if few is not None:
        yield few
    if len({count for _, count in counts}) > 1:
        yield "The numbers of runs differ; where they are pooled over tasks, a task with more runs weighs more."


def _about_pairs(comparison: Comparison) -> Iterator[str]:
    pairs = sum(len(task.pairs) for task in comparison.tasks)
    if pairs > 1:
        yield f"{pairs} pairs are compared, each at 95 %: of twenty that do not differ, about one looks as if it did."
    for task in comparison.tasks:
        if len(task.scores) - 1 > 1 and len(task.pairs) == len(task.scores) - 1:
            yield "With so many algorithms only the best one is compared with each of the others."
            return


def _about_equals(comparison: Comparison) -> Iterator[str]:
    for task in comparison.tasks:
        for (first, (curve, _)), (second, (other, _)) in combinations(task.curves.items(), 2):
            is_long = len(curve.steps) > 1 and len(curve.values) > 1
            if is_long and np.array_equal(curve.steps, other.steps) and np.array_equal(curve.values, other.values):
                yield (
                    f"{task.label}: {first} and {second} have the same numbers in every evaluation of every run; do "
                    "their settings differ in anything that matters there?"
                )


def _about_places(runs: Sequence[Run]) -> Iterator[str]:
    commits = {run.attempt.get("commit") for run in runs if run.attempt}
    if len(commits) > 1:
        yield "The runs were made by different commits of the source."
    if any(str(commit).endswith("+changes") for commit in commits):
        yield "Some runs were made by a source with changes that no commit has."
    survived = [run.name for run in runs if run.result.get("faults")]
    if survived:
        yield (
            "Failures of environments or updates were survived, faults.jsonl has each; episodes that failed are in no "
            f"score: {_some(survived)}."
        )


def _machine(attempt: Mapping[str, Any]) -> str:
    machine = attempt.get("machine")
    known = machine if isinstance(machine, dict) else {}
    cores = f"{known['cores']} cores" if "cores" in known else ""
    parts = [known.get("system"), known.get("processor"), cores, attempt.get("device")]
    return ", ".join(str(part) for part in parts if part)


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _SHOWN_NAMES
    return ", ".join(names[:_SHOWN_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def _all_of(values: Sequence[str]) -> str:
    distinct = [printable(value) for value in dict.fromkeys(values) if value]
    unknown = " (unknown for some runs)" if distinct and "" in values else ""
    return ("; ".join(distinct) or "unknown") + unknown
