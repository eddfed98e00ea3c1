"""Runs as reports see them: found below any folder, read strictly, nothing of them trusted to be harmless text."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spnpolicy.base.errors import ConfigError, SpnPolicyError
from spnpolicy.experiments.statistics.curves import History
from spnpolicy.experiments.sweeps.plan import PLAN_FILE, read_plan, trial_folder
from spnpolicy.experiments.sweeps.trials import EVALUATION_FILE, read_evaluation
from spnpolicy.training.config import RunConfig
from spnpolicy.training.evaluation import SAMPLED
from spnpolicy.training.metrics import stage_changes
from spnpolicy.training.runs import check_unfinished, read_facts, read_finished, read_records, read_run_config

GREEDY = ("fraction_of_optimum", "return", "discounted_return", "success", "length")
MEASURES = (*GREEDY, *(SAMPLED + name for name in GREEDY))
"""What an evaluation measures, the one that is comparable between tasks first; joint policies are also sampled."""
_MOST_LETTERS = 160
_MOST_LETTERS_OF_A_PROBLEM = 400
_SHOWN_PROBLEMS = 3


@dataclass(frozen=True)
class Run:
    """One run folder."""

    folder: Path
    config: RunConfig
    is_finished: bool
    """Whether training reached its end."""
    step: int
    """Env steps of the last evaluation."""
    histories: dict[str, History]
    """Evaluations during training by measure; measures that were not finite throughout are left out."""
    final: dict[str, float]
    """Means of the final evaluation of a sweep or benchmark; empty where there was none."""
    final_episodes: int
    """Episodes of that."""
    result: dict[str, Any]
    """result.json; empty before the end."""
    facts: dict[str, Any]
    """run.json; empty where there is none."""
    gradient_updates: int | None = None
    """Gradient steps up to `step` of what is played by; None where they were not counted."""
    samples: int | None = None
    """Transitions that they learned from, each counted as often as it was used; None where they were not counted."""
    stage_changes: tuple[int, ...] = ()
    """Env steps at which its curriculum went on to the next stage."""

    @property
    def samples_per_env_step(self) -> float | None:
        """How often an env step was learned from on average; None where it is not known."""
        return None if self.samples is None or not self.step else self.samples / self.step

    @property
    def name(self) -> str:
        """Its folder, fit to be shown."""
        return printable(str(self.folder))

    @property
    def attempt(self) -> dict[str, Any]:
        """Versions, machine and commit of the last attempt; empty where they are unknown."""
        attempts = self.facts.get("attempts") or [{}]
        return attempts[-1] if isinstance(attempts[-1], dict) else {}


def printable(text: str, most: int = _MOST_LETTERS) -> str:
    """Return text without control characters, which could rewrite a terminal, and not longer than a line or two."""
    shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Return the run folders among and below the given folders, each once, in a fixed order.

    Raises:
        ConfigError: a path is no folder, or there is no run in it.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"{printable(str(path))} is not a folder of runs: there is no such folder.")
        below = list(_runs_below(path))
        if not below:
            raise ConfigError(
                f"{printable(str(path))} is not a run and there is none below it: no folder has a config.json."
            )
        for folder in below:
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read runs.

    Raises:
        ConfigError: some are damaged; the message names them and what is wrong.
    """
    runs: list[Run] = []
    problems: list[str] = []
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except (SpnPolicyError, OSError) as problem:
            where = "" if str(problem).startswith(str(folder)) else f"{printable(str(folder))}: "
            problems.append(where + printable(str(problem), _MOST_LETTERS_OF_A_PROBLEM))
    if problems:
        what = "a run is damaged" if len(problems) == 1 else f"{len(problems)} runs are damaged"
        rest = [f"and {len(problems) - _SHOWN_PROBLEMS} more"] if len(problems) > _SHOWN_PROBLEMS else []
        lines = "\n".join([*problems[:_SHOWN_PROBLEMS], *rest])
        raise ConfigError(f"{what}; move it away, or name only the runs to report on.\n{lines}")
    return runs


def read_run(folder: Path) -> Run:
    """Read one run.

    Raises:
        SpnPolicyError: a file of it is damaged, or two disagree; the message names them.
    """
    config = read_run_config(folder)
    metrics = folder / "metrics.jsonl"
    records = read_records(folder)
    evaluations = [record for record in records if record.get("kind") == "evaluation"]
    steps = _steps(evaluations, metrics)
    histories = _histories(steps, evaluations, metrics)
    counts = {name: _count(name, evaluations, metrics) for name in ("gradient_updates", "samples")}
    result = read_finished(folder, config)
    if result is None:
        check_unfinished(folder, config)
    final = _final(folder / EVALUATION_FILE)
    return Run(
        folder=folder,
        config=config,
        is_finished=result is not None,
        step=int(steps[-1]) if len(steps) else 0,
        histories=histories,
        final={name: float(np.mean(values)) for name, values in final.items()},
        final_episodes=max(map(len, final.values()), default=0),
        result=result or {},
        facts=read_facts(folder) or {},
        stage_changes=tuple(_stage_changes(records, metrics)),
        **counts,
    )


def missing_trials(paths: Sequence[Path], folders: Sequence[Path]) -> list[str]:
    """Return the names of the runs that the plans among the paths have and that were not begun."""
    begun = {folder.resolve() for folder in folders}
    planned = [path for path in paths if (path / PLAN_FILE).is_file()]
    return [
        printable(f"{path.name}/{trial.name}")
        for path in planned
        for trial in read_plan(path).trials
        if trial_folder(path, trial).resolve() not in begun
    ]


def _runs_below(path: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(path):
        if "config.json" in files:
            names.clear()  # a run holds no runs
            yield Path(folder)
        names[:] = sorted((name for name in names if not name.startswith(".")), key=_with_numbers)


def _with_numbers(name: str) -> list[tuple[int, str]]:
    """Return a key that puts size-5 before size-10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _steps(evaluations: Sequence[Mapping[str, Any]], path: Path) -> np.ndarray:
    steps = [record.get("step") for record in evaluations]
    if any(type(step) is not int or step < 0 for step in steps):
        raise SpnPolicyError(f"{path}: an evaluation has no step that is a whole number.")
    rising = np.array(steps, dtype=np.int64)
    if (np.diff(rising) <= 0).any():
        raise SpnPolicyError(f"{path}: the steps of the evaluations do not rise.")
    return rising


def _stage_changes(records: Sequence[Mapping[str, Any]], path: Path) -> list[int]:
    staged = [record for record in records if "stage" in record]
    if any(type(record["stage"]) is not int or type(record.get("step")) is not int for record in staged):
        raise SpnPolicyError(f"{path}: a record has a stage or a step that is no whole number.")
    return stage_changes(staged)


def _count(name: str, evaluations: Sequence[Mapping[str, Any]], path: Path) -> int | None:
    count = evaluations[-1].get(name) if evaluations else None
    if count is not None and (type(count) is not int or count < 0):
        raise SpnPolicyError(f"{path}: {name} of the last evaluation is no whole number.")
    return count


def _histories(steps: np.ndarray, evaluations: Sequence[Mapping[str, Any]], path: Path) -> dict[str, History]:
    histories: dict[str, History] = {}
    for measure in MEASURES if len(steps) else ():
        column = [record.get(measure) for record in evaluations]
        if None in column:
            continue
        if any(type(value) not in (int, float) for value in column):
            raise SpnPolicyError(f"{path}: {measure} of an evaluation is not a number.")
        values = np.array(column, dtype=np.float64)
        if np.isfinite(values).all():
            histories[measure] = History(steps, values)
    return histories


def _final(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        return {}
    columns = {name: np.asarray(values, dtype=np.float64) for name, values in read_evaluation(path)._asdict().items()}
    # As in training: an episode in which nothing can be earned has no fraction, and does not count in its mean.
    known = {name: values[np.isfinite(values)] for name, values in columns.items()}
    return {name: values for name, values in known.items() if len(values)}
