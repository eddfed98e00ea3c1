"""A sweep in words: what is planned, where it runs, what came of it."""

from collections.abc import Sequence
from pathlib import Path
from shlex import quote

import numpy as np

from spnpolicy.base.tables import aligned
from spnpolicy.experiments.statistics.bootstrap import interquartile_mean
from spnpolicy.experiments.sweeps.plan import Plan, trial_folder
from spnpolicy.experiments.sweeps.runner import TrialStatus
from spnpolicy.experiments.sweeps.trials import EVALUATION_FILE, FAILURE_FILE, is_finished, read_evaluation

_SHOWN_FAILURES = 3


def announcement(plan: Plan, folder: Path, engine: str, workers: int) -> str:
    """Return what is about to run, and where."""
    steps = plan.trials[0].train.steps
    where = "" if engine == "local" else f" of {engine}"
    environments = "" if len(plan.environments) == 1 else f" in {', '.join(plan.environments)}"
    return (
        f"{plan.name}: {', '.join(plan.algorithms)}{environments}; {len(plan.trials)} runs of {steps:,} env steps on "
        f"{workers} worker{'s' if workers > 1 else ''}{where}; everything goes to {folder}"
    )


def planned(plan: Plan, folder: Path) -> str:
    """Return all runs, and which of them are finished."""
    rows: list[tuple[str, str, str]] = []
    for trial in plan.trials:
        state = "finished" if is_finished(trial, folder) else "planned"
        rows.append((trial.name, f"{trial.algorithm} on {trial.env}, {trial.train.steps:,} env steps", state))
    return "\n".join([*aligned(rows), f"{len(plan.trials)} runs; nothing was written"])


def end(plan: Plan, folder: Path) -> str:
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
    what = "discounted return of the final evaluations, interquartile mean over runs:"
    where = [f"runs: {folder / 'trials'}", f"next: spnpolicy report {quote(str(folder))}"]
    return "\n".join(["", what, *aligned(rows), *where])


def failures(failed: Sequence[TrialStatus], folder: Path) -> str:
    """Return what went wrong in the first few runs that failed, and how to go on."""
    lines: list[str] = []
    for status in failed[:_SHOWN_FAILURES]:
        where = trial_folder(folder, status.config) / FAILURE_FILE
        lines.append(f"spnpolicy: {status.name} failed: {status.problem.splitlines()[0][:200]} (more in {where})")
    others = len(failed) - _SHOWN_FAILURES
    more = f"; {others} more failed" if others > 0 else ""
    return "\n".join([*lines, f"    the same command with --out {quote(str(folder))} tries only these again{more}"])


def _cell(values: list[float], planned: int) -> str:
    if not values:
        return "-"
    mean = f"{float(interquartile_mean(np.array(values))):.4f}"
    return mean if len(values) == planned else f"{mean} ({len(values)} of {planned})"
