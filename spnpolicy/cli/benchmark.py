"""`spnpolicy benchmark coverage`: the whole comparison with one command."""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from spnpolicy.algorithms import ALGORITHMS
from spnpolicy.cli.failures import FAILED
from spnpolicy.cli.folders import first_free
from spnpolicy.cli.options import CommandLine, known_name
from spnpolicy.cli.trial_table import TrialTable
from spnpolicy.experiments.coverage import Presentation, present
from spnpolicy.experiments.plan import Plan, make_plan, open_folder, trial_folder
from spnpolicy.experiments.presets import COVERAGE
from spnpolicy.experiments.runner import TrialStatus, run_trials
from spnpolicy.experiments.trials import FAILURE_FILE

INTERRUPTED = 130
_SHOWN_FAILURES = 3


def run(line: CommandLine) -> int:
    """Run what is missing of the benchmark, report on it and list what was written."""
    options = line.options
    known_name("benchmark", options.benchmark, ["coverage"])
    plan = _plan(line)
    folder: Path = options.out or first_free(Path("runs") / plan.name)
    workers = min(options.workers or os.cpu_count() or 1, len(plan.trials))
    torch.set_num_threads(options.threads)
    with open_folder(folder, plan):
        _announce(plan, folder, workers)
        with TrialTable(workers) as table:
            statuses = run_trials(plan, folder, workers=workers, threads=options.threads, on_change=table)
        if any(status.state in ("waiting", "stopped") for status in statuses):
            print(f"interrupted; to continue, give the same command with --out {folder}", file=sys.stderr)
            return INTERRUPTED
        failed = [status for status in statuses if status.state == "failed"]
        if len(failed) < len(statuses):
            _show(present(plan, folder))
    _show_failures(failed, folder)
    return FAILED if failed else 0


def _plan(line: CommandLine) -> Plan:
    options = line.options
    preset = COVERAGE[known_name("preset", options.preset, list(COVERAGE))]
    for name in options.algorithms or []:
        known_name("algorithm", name, list(ALGORITHMS))
    train = preset.train if options.steps is None else replace(preset.train, steps=options.steps)
    preset = replace(
        preset,
        train=train,
        seeds=options.seeds or preset.seeds,
        evaluation_episodes=options.episodes or preset.evaluation_episodes,
    )
    return make_plan(
        f"coverage-{options.preset}",
        preset,
        algorithms=options.algorithms,
        env_options=line.settings["env"],
        algorithm_options=line.settings["algorithm"],
    )


def _announce(plan: Plan, folder: Path, workers: int) -> None:
    config = plan.trials[0]
    print(
        f"{plan.name}: {', '.join(plan.algorithms)}; {len(plan.trials)} runs of {config.train.steps:,} env steps on "
        f"{workers} worker{'s' if workers > 1 else ''}; everything goes to {folder}",
        flush=True,
    )


def _show(presentation: Presentation) -> None:
    print(f"\n{presentation.report}\n{presentation.answers}")
    width = max(map(len, presentation.files))
    print("written:")
    for what, path in presentation.files.items():
        print(f"  {what:{width}}  {path}")


def _show_failures(failed: Sequence[TrialStatus], folder: Path) -> None:
    for status in failed[:_SHOWN_FAILURES]:
        where = trial_folder(folder, status.config) / FAILURE_FILE
        problem = status.problem.splitlines()[0][:200]
        print(f"spnpolicy: {status.name} failed: {problem} (more in {where})", file=sys.stderr)
    if failed:
        others = len(failed) - _SHOWN_FAILURES
        more = f"; {others} more failed" if others > 0 else ""
        print(f"    the same command with --out {folder} tries only these again{more}", file=sys.stderr)
