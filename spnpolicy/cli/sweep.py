"""`spnpolicy sweep`: many runs with one command."""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spnpolicy.algorithms import ALGORITHMS
from spnpolicy.cli.checks import first_free
from spnpolicy.cli.command import FILE, FOLDER, SETTINGS, Command, add_threads, offer
from spnpolicy.cli.failures import FAILED, INTERRUPTED
from spnpolicy.cli.options import (
    CommandLine,
    Parser,
    UsageError,
    known_algorithm,
    known_environment,
    known_name,
    whole_number,
)
from spnpolicy.envs import ENVIRONMENTS
from spnpolicy.training.config import TrainConfig

ENGINES = ("local", "ray")
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
    from spnpolicy.experiments.sweeps.summary import end, planned

    options = line.options
    plan = _plan(line)
    folder: Path = options.out or first_free(Path("runs") / plan.name)
    if options.dry_run:
        print(planned(plan, folder))
        return 0
    return execute(plan, folder, options, lambda: end(plan, folder))


def execute(plan: Any, folder: Path, options: argparse.Namespace, results: Callable[[], str]) -> int:
    """Run what is missing of a plan, showing progress, and return the exit code.

    Args:
        plan: the `Plan` to run.
        folder: its folder, new or one to continue.
        options: those of `add_engine`.
        results: what to print when nothing is left to do; not asked for if no trial succeeded.
    """
    from spnpolicy.cli.progress import TrialTable
    from spnpolicy.experiments.sweeps.engines import make_engine
    from spnpolicy.experiments.sweeps.plan import open_folder
    from spnpolicy.experiments.sweeps.runner import run_trials
    from spnpolicy.experiments.sweeps.summary import announcement, failures

    known_name("engine", options.engine, ENGINES)
    workers = None if options.workers is None else min(options.workers, len(plan.trials))
    engine = make_engine(options.engine, workers=workers, threads=options.threads, address=options.address)
    with open_folder(folder, plan):
        print(announcement(plan, folder, options.engine, engine.workers), flush=True)
        with TrialTable(engine) as table:
            statuses = run_trials(plan, folder, engine, on_change=table)
        if any(status.state in ("waiting", "stopped") for status in statuses):
            print(f"interrupted; to continue, give the same command with --out {folder}", file=sys.stderr)
            return INTERRUPTED
        failed = [status for status in statuses if status.state == "failed"]
        if len(failed) < len(statuses):
            print(results())
    if failed:
        print(failures(failed, folder), file=sys.stderr)
    return FAILED if failed else 0


def _plan(line: CommandLine):
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


def _sweep(options: argparse.Namespace, settings: dict[str, dict[str, Any]]):
    for name in options.envs:
        known_environment(name)
    if settings["env"] and len(options.envs) > 1:
        raise UsageError("--env.KEY needs a single environment; write a file to set options of several.")
    from spnpolicy.experiments.sweeps.sweep import Sweep

    return Sweep(
        algorithms={known_algorithm(name): dict(settings["algorithm"]) for name in options.algorithms},
        environments={re.sub("[:/]", "-", name): {"env": name, **settings["env"]} for name in options.envs},
        seeds=options.seeds or 3,
        train=TrainConfig() if options.steps is None else TrainConfig(steps=options.steps),
        evaluation_episodes=options.episodes or 100,
    )


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
