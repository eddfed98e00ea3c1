"""`spnpolicy benchmark`: its flags; light, because the overview of all commands loads it."""

from pathlib import Path

from spnpolicy.algorithms import ALGORITHMS
from spnpolicy.cli.command import Command
from spnpolicy.cli.flags import FOLDER, SETTINGS, offer
from spnpolicy.cli.options import Parser, whole_number
from spnpolicy.cli.sweep_flags import add_engine
from spnpolicy.experiments.presets import COVERAGE


def _add_benchmark(parser: Parser) -> None:
    offer(parser.add_argument("benchmark", metavar="BENCHMARK", help="coverage"), ["coverage"])
    preset = "quick, standard or paper (default: quick)"
    offer(parser.add_argument("--preset", default="quick", metavar="NAME", help=preset), COVERAGE)
    algorithms = "which to compare (default: those of the preset)"
    offer(parser.add_argument("--algorithms", nargs="+", metavar="NAME", help=algorithms), ALGORITHMS)
    parser.add_argument(
        "--seeds", type=whole_number(1, 1_000), metavar="N", help="runs per algorithm (default: that of the preset)"
    )
    parser.add_argument(
        "--steps", type=whole_number(1), metavar="N", help="env steps per run (default: that of the preset)"
    )
    parser.add_argument(
        "--episodes",
        type=whole_number(1, 100_000),
        metavar="N",
        help="final evaluation episodes per run (default: 1000)",
    )
    out = "folder; one with the same benchmark is continued (default: the first free runs/coverage-PRESET)"
    offer(parser.add_argument("--out", type=Path, metavar="DIR", help=out), FOLDER)
    add_engine(parser)


BENCHMARK = Command(
    "benchmark",
    "Compare algorithms over several seeds: table, curves, animation, answers.",
    "benchmark coverage [--preset quick|standard|paper] [flags]",
    "Runs go to worker processes, or to Ray. Interrupted, it continues with the same command and --out: what is\n"
    f"finished is not repeated, other runs go on from their checkpoints.\n{SETTINGS}",
    (
        "benchmark coverage",
        "benchmark coverage --preset standard --algorithms spn_ac vdn --seeds 5 --workers 8",
        "benchmark coverage --out runs/coverage-quick     (continue this one)",
    ),
    _add_benchmark,
    "spnpolicy.cli.benchmark",
    takes_settings=True,
)
