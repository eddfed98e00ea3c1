"""The numbers of a report as CSV, one row per number or run, for other programs."""

import json
from collections.abc import Sequence
from typing import Any

from spnpolicy.base.decoding import encode
from spnpolicy.base.tables import csv_text
from spnpolicy.experiments.reports.groups import Task
from spnpolicy.experiments.reports.numbers import Comparison, Numbers
from spnpolicy.experiments.reports.runs import MEASURES, Run
from spnpolicy.experiments.statistics.bootstrap import Interval
from spnpolicy.experiments.statistics.tables import exact_number

Rows = list[Sequence[object]]


def table_csv(comparison: Comparison) -> str:
    """Return every aggregate with its interval: task, algorithm, runs, measure, statistic, estimate, low, high."""
    rows: Rows = [("task", "algorithm", "runs", "measure", "statistic", "estimate", "low", "high")]
    for numbers in comparison.parts:
        for algorithm, row in numbers.aggregates.items():
            for statistic, interval in row.items():
                start = (numbers.label, algorithm, numbers.runs(algorithm), comparison.measure, statistic)
                rows.append((*start, *_cells(interval)))
    return csv_text(rows)


def improvement_csv(comparison: Comparison) -> str:
    """Return the probability of improvement of every pair."""
    rows: Rows = [("task", "first", "second", "probability", "low", "high")]
    for numbers in comparison.parts:
        rows += [(numbers.label, pair.first, pair.second, *_cells(pair.probability)) for pair in numbers.pairs]
    return csv_text(rows)


def curves_csv(comparison: Comparison) -> str:
    """Return every point of the learning curves."""
    rows: Rows = [("task", "algorithm", "runs", "step", "iqm", "low", "high")]
    for task in comparison.tasks:
        for algorithm, (curve, band) in task.curves.items():
            for step, *point in zip(curve.steps.tolist(), *(part.tolist() for part in band), strict=True):
                rows.append((task.label, algorithm, len(curve.values), step, *map(exact_number, point)))
    return csv_text(rows)


def runs_csv(tasks: Sequence[Task]) -> str:
    """Return one row per run: what it is, what it cost, what it reached and what it was made with."""
    measures = [f"{kind}_{name}" for kind in ("last", "final") for name in MEASURES]
    rows: Rows = [
        (
            "run", "task", "algorithm", "seed", "is_finished", "env_steps", "gradient_updates", "samples", "seconds",
            "agents", "discount", *measures, "final_episodes", "faults", "attempts", "commit", "versions", "machine",
            "device", "threads", "return_scale", "config",
        )
    ]  # fmt: skip
    for task in tasks:
        for label, group in task.groups.items():
            rows += [_run_row(run, task.label, label) for run in group]
    return csv_text(rows)


def as_json(comparison: Comparison, tasks: Sequence[Task]) -> dict[str, Any]:
    """Return the numbers as JSON values; bounds that are not known are null."""
    return {
        "measure": comparison.measure,
        "tasks": [
            {"settings": dict(task.settings), "scores_from": numbers.source} | _numbers_json(numbers)
            for task, numbers in zip(tasks, comparison.tasks, strict=True)
        ],
        "all_tasks": None if comparison.overall is None else _numbers_json(comparison.overall),
    }


def _numbers_json(numbers: Numbers) -> dict[str, Any]:
    return {
        "label": numbers.label,
        "algorithms": {
            name: {
                "scores": [task.tolist() for task in numbers.scores[name]],
                **{key: _interval_json(interval) for key, interval in row.items()},
            }
            for name, row in numbers.aggregates.items()
        },
        "probability_of_improvement": [
            {"first": pair.first, "second": pair.second, **_interval_json(pair.probability)} for pair in numbers.pairs
        ],
    }


def _interval_json(interval: Interval) -> dict[str, float | None]:
    # nan is the only number that is not equal to itself, and JSON has none.
    return {name: value if value == value else None for name, value in interval._asdict().items()}


def _cells(interval: Interval) -> list[str]:
    return [exact_number(value) for value in interval]


def _run_row(run: Run, task: str, algorithm: str) -> list[object]:
    last = {name: history.values[-1] for name, history in run.histories.items()}
    measures = [exact_number(kind[name]) if name in kind else "" for kind in (last, run.final) for name in MEASURES]
    train, attempt = run.config.train, run.attempt
    made = [json.dumps(attempt[name]) if name in attempt else "" for name in ("versions", "machine")]
    return [
        run.name, task, algorithm, train.seed, run.is_finished, run.step,
        "" if run.gradient_updates is None else run.gradient_updates, "" if run.samples is None else run.samples,
        run.result.get("seconds", ""), run.facts.get("num_agents", ""), train.discount, *measures,
        run.final_episodes or "", run.result.get("faults", ""), len(run.facts.get("attempts", [])),
        attempt.get("commit") or "", *made, attempt.get("device", ""), attempt.get("threads", ""),
        run.facts.get("return_scale", ""), json.dumps(encode(run.config)),
    ]  # fmt: skip
