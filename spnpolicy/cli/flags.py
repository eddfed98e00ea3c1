"""Flags that several commands share, and what a shell may offer for a flag."""

from argparse import Action
from collections.abc import Iterable
from pathlib import Path

from spnpolicy.cli.options import Parser, whole_number

FILE = "file"
FOLDER = "directory"

SETTINGS = (
    "--env.KEY VALUE and --algorithm.KEY VALUE set anything that the environment or the algorithm knows;\n"
    "`spnpolicy list NAME` shows what that is. A list is written 64,64 and a nested key with dots."
)
"""For the descriptions of commands that take settings."""


def offer(action: Action, offers: str | Iterable[str]) -> None:
    """Say what `spnpolicy completion` shall propose for an argument.

    Not the `choices` of argparse: those would be checked here, without naming the nearest one, and hide other values.

    Args:
        action: what `add_argument` returned.
        offers: FILE, FOLDER or words.
    """
    action.offers = offers if isinstance(offers, str) else list(offers)  # pyright: ignore[reportAttributeAccessIssue]


def add_run(parser: Parser) -> None:
    """Declare RUN, the folder of a run."""
    offer(parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, such as runs/x"), FOLDER)


def add_threads(parser: Parser) -> None:
    """Declare --threads."""
    parser.add_argument(
        "--threads", type=whole_number(1, 1_024), default=1, metavar="N", help="threads per process (default: 1)"
    )
