"""What commands there are and which flags they take; what they do lives in a module each, loaded when it runs."""

from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, NamedTuple

from spnpolicy.cli import infer_flags
from spnpolicy.cli.docs import field_docs
from spnpolicy.cli.options import Parser, UsageError, whole_number
from spnpolicy.training.config import TrainConfig
from spnpolicy.training.decoding import unknown_name

EXIT_CODES = "Exit codes: 0 ok, 2 usage, 3 failed run, 4 disk, 5 environment, 6 numbers, 130 interrupted."


class Command(NamedTuple):
    """One command of the command line."""

    name: str
    summary: str
    """One line for the overview."""
    usage: str
    """What stands behind `spnpolicy`."""
    description: str
    """A paragraph for its own help."""
    examples: tuple[str, ...]
    add_arguments: Callable[[Parser], None]
    module: str
    """Module with a function `run(CommandLine) -> int`."""
    takes_settings: bool = False
    """Whether --env.KEY and --algorithm.KEY are allowed."""

    def parser(self) -> Parser:
        """Return the parser of its flags."""
        examples = "\n".join(f"  spnpolicy {example}" for example in self.examples)
        description, epilog = f"{self.summary}\n\n{self.description}", f"examples:\n{examples}\n\n{EXIT_CODES}"
        parser = Parser(prog="spnpolicy", usage=f"spnpolicy {self.usage}", description=description, epilog=epilog)
        self.add_arguments(parser)
        return parser


def find_command(name: str) -> Command:
    """Return a command by name.

    Raises:
        UsageError: there is none; the message names the nearest one.
    """
    if name not in COMMANDS:
        raise UsageError(unknown_name("command", name, COMMANDS))
    return COMMANDS[name]


def overview() -> str:
    """Return the text of `spnpolicy --help`."""
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {command.name:{width}}  {command.summary}" for command in COMMANDS.values())
    return (
        "usage: spnpolicy COMMAND ...\n\n"
        "Joint policies for many agents as sum-product networks: train them, query them, compare them.\n\n"
        f"commands:\n{rows}\n\n"
        "examples:\n"
        "  spnpolicy benchmark coverage                  the main experiment, a few minutes\n"
        "  spnpolicy train vdn coverage --steps 100000   one run of one algorithm\n"
        "  spnpolicy train --help                        more about one command\n\n"
        f"{EXIT_CODES}"
    )


def _add_name(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="an algorithm or environment to describe in full")


def _add_train(parser: Parser) -> None:
    parser.add_argument("algorithm", metavar="ALGORITHM", help="one of `spnpolicy list`")
    parser.add_argument("env", metavar="ENV", help="one of `spnpolicy list`")
    docs = field_docs(TrainConfig)
    for field in fields(TrainConfig):
        name = field.name.replace("_", "-")
        parser.add_argument(f"--{name}", metavar="N", help=f"{docs[field.name]} Default: {_default(field)}")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="new folder of the run (default: the first free runs/ALGORITHM-ENV-seedN)",
    )
    _add_threads(parser)


def _add_evaluate(parser: Parser) -> None:
    _add_run(parser)
    parser.add_argument(
        "--episodes", type=whole_number(1, 100_000), default=1_000, metavar="N", help="how many (default: 1000)"
    )
    parser.add_argument("--seed", type=whole_number(0), default=0, metavar="N", help="fixes the episodes (default: 0)")
    parser.add_argument("--gif", type=Path, metavar="FILE", help="also write an animation of a few episodes")
    _add_threads(parser)


def _add_query(parser: Parser) -> None:
    _add_run(parser)
    parser.add_argument(
        "--given", action="append", default=[], metavar="AGENT=ACTION[,ACTION]",
        help="what is known: the agent does this action, or one of these; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--ask", metavar="AGENT[,AGENT]", help="show the joint table of these agents (default: only marginals)"
    )
    parser.add_argument(
        "--seed", type=whole_number(0), default=0, metavar="N", help="seed of the episode whose state is asked about"
    )
    parser.add_argument(
        "--at-step",
        type=whole_number(0, 100_000),
        default=0,
        metavar="N",
        help="after so many greedy steps of it (default: 0)",
    )
    parser.add_argument("--picture", type=Path, metavar="FILE", help="also draw the state and the marginals (PNG)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of words")
    _add_threads(parser)


def _add_infer(parser: Parser) -> None:
    infer_flags.add_infer_arguments(parser)
    _add_threads(parser)


def _add_benchmark(parser: Parser) -> None:
    parser.add_argument("benchmark", metavar="BENCHMARK", help="coverage")
    parser.add_argument("--preset", default="quick", metavar="NAME", help="quick, standard or paper (default: quick)")
    parser.add_argument(
        "--algorithms", nargs="+", metavar="NAME", help="which to compare (default: those of the preset)"
    )
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
    parser.add_argument("--workers", type=whole_number(1, 1_000), metavar="N", help="processes (default: one per core)")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder; one with the same benchmark is continued (default: the first free runs/coverage-PRESET)",
    )
    _add_threads(parser)


def _add_run(parser: Parser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, such as runs/x")


def _add_threads(parser: Parser) -> None:
    parser.add_argument(
        "--threads", type=whole_number(1, 1_024), default=1, metavar="N", help="threads per process (default: 1)"
    )


def _add_nothing(parser: Parser) -> None:
    """Doctor has no flags of its own."""


def _default(field: Field[Any]) -> str:
    return "required" if field.default is MISSING else f"{field.default}"


_SETTINGS = (
    "--env.KEY VALUE and --algorithm.KEY VALUE set anything that the environment or the algorithm knows;\n"
    "`spnpolicy list NAME` shows what that is. A list is written 64,64 and a nested key with dots."
)

COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        Command(
            "list",
            "Show the algorithms, environments, circuit structures and benchmark presets.",
            "list [NAME]",
            "With the name of an algorithm or environment, show all its settings.",
            ("list", "list spn_ac", "list coverage"),
            _add_name,
            "spnpolicy.cli.listing",
        ),
        Command(
            "train",
            "Train one algorithm in one environment.",
            "train ALGORITHM ENV [--env.KEY VALUE] [--algorithm.KEY VALUE] [flags]",
            f"Everything is written into a new folder; an existing one is never touched.\n{_SETTINGS}",
            (
                "train spn_ac coverage --steps 100000 --seed 3",
                "train vdn coverage --env.size 8 --env.agents 4 --algorithm.hidden 64,64 --out runs/vdn8",
                "train spn_ac coverage --algorithm.labels 6 --algorithm.features.frequencies 4",
            ),
            _add_train,
            "spnpolicy.cli.train",
            takes_settings=True,
        ),
        Command(
            "evaluate",
            "Play a trained policy greedily and show how well it does.",
            "evaluate RUN [--episodes N] [--seed N] [--gif FILE]",
            "It reads the latest checkpoint, also of a run that was interrupted or killed.",
            ("evaluate runs/x", "evaluate runs/x --episodes 5000 --seed 1", "evaluate runs/x --gif x.gif"),
            _add_evaluate,
            "spnpolicy.cli.evaluate",
        ),
        Command(
            "query",
            "Ask a trained joint policy about one state: what if, how likely, and who with whom.",
            "query RUN [--given AGENT=ACTION] [--ask AGENTS] [flags]",
            "All answers are exact. Agents are counted from 0; actions go by name or number.\n"
            "Algorithms that learn only action values have no joint distribution and cannot be asked.",
            (
                "query runs/x",
                "query runs/x --given 1=stay --ask 0,2",
                "query runs/x --given 0=up,left --seed 4 --at-step 2 --picture answer.png",
            ),
            _add_query,
            "spnpolicy.cli.query",
        ),
        Command(
            "infer",
            infer_flags.SUMMARY,
            infer_flags.USAGE,
            infer_flags.DESCRIPTION,
            infer_flags.EXAMPLES,
            _add_infer,
            "spnpolicy.cli.infer",
        ),
        Command(
            "benchmark",
            "Compare algorithms over several seeds: table, curves, animation, answers.",
            "benchmark coverage [--preset quick|standard|paper] [flags]",
            "Runs go to worker processes. Interrupted, it continues with the same command and --out; what is finished\n"
            f"is not repeated.\n{_SETTINGS}",
            (
                "benchmark coverage",
                "benchmark coverage --preset standard --algorithms spn_ac vdn --seeds 5 --workers 8",
                "benchmark coverage --out runs/coverage-quick     (continue this one)",
            ),
            _add_benchmark,
            "spnpolicy.cli.benchmark",
            takes_settings=True,
        ),
        Command(
            "doctor",
            "Check the installation and this machine.",
            "doctor",
            "Prints OK or PROBLEM per line, with what to do; the exit code is 2 if there is a problem.",
            ("doctor", "doctor --traceback"),
            _add_nothing,
            "spnpolicy.cli.doctor",
        ),
    )
}  # fmt: skip
"""All commands by name, in the order of the overview."""
