"""`spnpolicy sweep`: many runs with one command."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spnpolicy.algorithms import ALGORITHMS
from spnpolicy.cli.checks import first_free
from spnpolicy.cli.command import FILE, FOLDER, SETTINGS, Command, add_threads, offer
from spnpolicy.cli.failures import FAILED, INTERRUPTED
from spnpolicy.cli.options import CommandLine, Parser, UsageError, known_name, whole_number
from spnpolicy.envs import ENVIRONMENTS
from spnpolicy.training.config import TrainConfig

if TYPE_CHECKING:
    from spnpolicy.experiments.sweeps.plan import Plan
    from spnpolicy.experiments.sweeps.runner import TrialStatus
    from spnpolicy.experiments.sweeps.sweep import Sweep

ENGINES = ("local", "ray")
_SHOWN_FAILURES = 3
_FLAGS_INSTEAD_OF_A_FILE = ("algorithms", "envs", "seeds", "steps", "episodes")


def add_engine(parser: Parser) -> None:
    """Declare where and on how many workers runs are executed."""
    parser.add_argument(
        "--workers", type=whole_number(1, 10_000), metavar="N", help="runs at a time (default: cores / threads)"
    )
    engine = "local for processes, or ray, which needs pip install 'spnpolicy[ray]' (default: local)"
    offer(parser.add_argument("--engine", default="local", metavar="NAME", help=engine), ENGINES)
    parser.add_argument(
        "--address", default="", metavar="ADDRESS", help="of a Ray cluster that is running (default: start one here)"
    )
    add_threads(parser)


def _add_arguments(parser: Parser) -> None:
    offer(parser.add_argument("plan", type=Path, nargs="?", metavar="PLAN.json", help="file of the sweep"), FILE)
    algorithms = "which to compare, instead of a file"
    offer(parser.add_argument("--algorithms", nargs="+", default=[], metavar="NAME", help=algorithms), ALGORITHMS)
    environments = "where, instead of a file"
    offer(parser.add_argument("--envs", nargs="+", default=[], metavar="NAME", help=environments), ENVIRONMENTS)
    parser.add_argument("--seeds", type=whole_number(1, 1_000), metavar="N", help="runs of each pair (default: 3)")
    parser.add_argument("--steps", type=whole_number(1), metavar="N", help="env steps per run (default: 200000)")
    episodes = "final evaluation episodes per run (default: 100)"
    parser.add_argument("--episodes", type=whole_number(1, 100_000), metavar="N", help=episodes)
    out = "folder; one with the same sweep is continued (default: the first free runs/NAME)"
    offer(parser.add_argument("--out", type=Path, metavar="DIR", help=out), FOLDER)
    parser.add_argument("--dry-run", action="store_true", help="only show the runs; write nothing")
    add_engine(parser)


def run(line: CommandLine) -> int:
    """Run what is missing of the sweep and show a small table."""
    options = line.options
    plan = _plan(line)
    folder: Path = options.out or first_free(Path("runs") / plan.name)
    if options.dry_run:
        _show_trials(plan, folder)
        return 0
    return execute(plan, folder, options, lambda: _show_end(plan, folder))


def execute(plan: "Plan", folder: Path, options: argparse.Namespace, show: Callable[[], None]) -> int:
    """Run what is missing of a plan, showing progress, and return the exit code.

    Args:
        plan: what to run.
        folder: its folder, new or one to continue.
        options: those of `add_engine`.
        show: shows the results; called when nothing is left to do, unless no trial succeeded.
    """
    from spnpolicy.cli.progress import TrialTable
    from spnpolicy.experiments.sweeps.engines import make_engine
    from spnpolicy.experiments.sweeps.plan import open_folder
    from spnpolicy.experiments.sweeps.runner import run_trials

    known_name("engine", options.engine, ENGINES)
    workers = None if options.workers is None else min(options.workers, len(plan.trials))
    engine = make_engine(options.engine, workers=workers, threads=options.threads, address=options.address)
    with open_folder(folder, plan):
        _announce(plan, folder, options.engine, engine.workers)
        with TrialTable(engine) as table:
            statuses = run_trials(plan, folder, engine, on_change=table)
        if any(status.state in ("waiting", "stopped") for status in statuses):
            print(f"interrupted; to continue, give the same command with --out {folder}", file=sys.stderr)
            return INTERRUPTED
        failed = [status for status in statuses if status.state == "failed"]
        if len(failed) < len(statuses):
            show()
    _show_failures(failed, folder)
    return FAILED if failed else 0


def _plan(line: CommandLine) -> "Plan":
    from spnpolicy.experiments.sweeps.sweep import read_sweep, sweep_plan

    options = line.options
    given = [name for name in _FLAGS_INSTEAD_OF_A_FILE if getattr(options, name)]
    given += [f"{group}.{name}" for group in ("env", "algorithm") for name in line.settings[group]]
    if options.plan is not None:
        if given:
            raise UsageError(f"--{given[0]} does not go with a file: write it into {options.plan}.")
        return sweep_plan(read_sweep(options.plan), source=f"{options.plan.name}.")
    if not options.algorithms or not options.envs:
        raise UsageError("name a file, or --algorithms and --envs, such as --algorithms spn_ac vdn --envs coverage.")
    return sweep_plan(_sweep(options, line.settings))


def _sweep(options: argparse.Namespace, settings: dict[str, dict[str, Any]]) -> "Sweep":
    for name in options.algorithms:
        known_name("algorithm", name, list(ALGORITHMS))
    for name in options.envs:
        # Others are made by adapters, such as pettingzoo:MODULE.
        if ":" not in name:
            known_name("environment", name, list(ENVIRONMENTS))
    if settings["env"] and len(options.envs) > 1:
        raise UsageError("--env.KEY needs a single environment; write a file to set options of several.")
    from spnpolicy.experiments.sweeps.sweep import Sweep

    return Sweep(
        algorithms={name: dict(settings["algorithm"]) for name in options.algorithms},
        environments={_label(name): {"env": name, **settings["env"]} for name in options.envs},
        seeds=options.seeds or 3,
        train=TrainConfig() if options.steps is None else TrainConfig(steps=options.steps),
        evaluation_episodes=options.episodes or 100,
    )


def _label(name: str) -> str:
    return name.replace(":", "-").replace("/", "-")


def _announce(plan: "Plan", folder: Path, engine: str, workers: int) -> None:
    steps = plan.trials[0].train.steps
    where = "" if engine == "local" else f" of {engine}"
    environments = "" if len(plan.environments) == 1 else f" in {', '.join(plan.environments)}"
    print(
        f"{plan.name}: {', '.join(plan.algorithms)}{environments}; {len(plan.trials)} runs of {steps:,} env steps on "
        f"{workers} worker{'s' if workers > 1 else ''}{where}; everything goes to {folder}",
        flush=True,
    )


def _show_trials(plan: "Plan", folder: Path) -> None:
    from spnpolicy.experiments.sweeps.trials import is_finished

    width = max(len(trial.name) for trial in plan.trials)
    for trial in plan.trials:
        state = "finished" if is_finished(trial, folder) else "planned"
        print(f"{trial.name:{width}}  {trial.algorithm} on {trial.env}, {trial.train.steps:,} env steps  {state}")
    print(f"{len(plan.trials)} runs; nothing was written")


def _show_end(plan: "Plan", folder: Path) -> None:
    from spnpolicy.experiments.sweeps.summary import summary_lines

    print()
    for text in summary_lines(plan, folder):
        print(text)
    print(f"runs: {folder / 'trials'}")
    print(f"next: spnpolicy report {folder}")


def _show_failures(failed: "Sequence[TrialStatus]", folder: Path) -> None:
    from spnpolicy.experiments.sweeps.plan import trial_folder
    from spnpolicy.experiments.sweeps.trials import FAILURE_FILE

    for status in failed[:_SHOWN_FAILURES]:
        where = trial_folder(folder, status.config) / FAILURE_FILE
        problem = status.problem.splitlines()[0][:200]
        print(f"spnpolicy: {status.name} failed: {problem} (more in {where})", file=sys.stderr)
    if failed:
        others = len(failed) - _SHOWN_FAILURES
        more = f"; {others} more failed" if others > 0 else ""
        print(f"    the same command with --out {folder} tries only these again{more}", file=sys.stderr)


COMMAND = Command(
    "sweep",
    "Run algorithms x environments x seeds on all cores, or on a Ray cluster.",
    "sweep PLAN.json [flags]\n"
    "       spnpolicy sweep --algorithms NAME... --envs NAME... [--seeds N] [--steps N] [--env.KEY VALUE] "
    "[--algorithm.KEY VALUE]",
    """\
A file looks like this; only algorithms and environments are needed:

  {"name": "first",
   "algorithms": {"spn_ac": {"labels": 16}, "vdn": {}},
   "environments": {"small": {"env": "coverage", "size": 3, "agents": 2}, "matrix_game": {"game": "climbing"}},
   "seeds": 5, "train": {"steps": 20000}, "evaluation_episodes": 100}

Interrupted or killed, it continues with the same command and --out: finished runs are not repeated, others go on from
their checkpoints, with the same results bit for bit. A run that fails is tried three times, and its traceback is in
failure.txt in its folder; one whose worker was killed is tried ten times more. The exit code is 0 if all succeeded.
With --engine ray on several machines, DIR must lie on a file system that all of them share under the same path.
"""
    f"{SETTINGS}\nWith flags, --env.KEY needs a single environment, and --algorithm.KEY is for all algorithms.",
    (
        "sweep plan.json --out runs/first",
        "sweep plan.json --dry-run",
        "sweep --algorithms spn_ac vdn --envs coverage matrix_game --seeds 5 --steps 20000",
        "sweep plan.json --engine ray --address 10.0.0.1:6379 --out /shared/first",
    ),
    _add_arguments,
    run,
    takes_settings=True,
)
