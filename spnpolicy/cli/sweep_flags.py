"""`spnpolicy sweep`: its flags, and those that say where runs are executed; light, because every help loads it."""

from pathlib import Path

from spnpolicy.algorithms import ALGORITHMS
from spnpolicy.cli.command import Command
from spnpolicy.cli.flags import FILE, FOLDER, SETTINGS, add_threads, offer
from spnpolicy.cli.options import Parser, whole_number
from spnpolicy.envs import ENVIRONMENTS

ENGINES = ("local", "ray")


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


def _add_sweep(parser: Parser) -> None:
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


SWEEP = Command(
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
    _add_sweep,
    "spnpolicy.cli.sweep",
    takes_settings=True,
)
