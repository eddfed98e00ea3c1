"""What a command is: a name, texts, flags, and the function that does the work and imports what is heavy itself."""

import ast
import inspect
import textwrap
from argparse import Action
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from spnpolicy.cli.options import CommandLine, Parser, whole_number

EXIT_CODES = "Exit codes: 0 ok, 2 usage, 3 failed run, 4 disk, 5 environment, 6 numbers, 130 interrupted."
FILE = "file"
FOLDER = "directory"
SETTINGS = (
    "--env.KEY VALUE and --algorithm.KEY VALUE set anything that the environment or the algorithm knows;\n"
    "`spnpolicy list NAME` shows what that is. A list is written 64,64 and a nested key with dots."
)
"""For the descriptions of commands that take settings."""


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
    run: Callable[[CommandLine], int]
    """Does the work and returns the exit code. Imports torch and the like inside: every help loads its file."""
    takes_settings: bool = False
    """Whether --env.KEY and --algorithm.KEY are allowed."""

    def parser(self) -> Parser:
        """Return the parser of its flags."""
        examples = "\n".join(f"  spnpolicy {example}" for example in self.examples)
        description, epilog = f"{self.summary}\n\n{self.description}", f"examples:\n{examples}\n\n{EXIT_CODES}"
        parser = Parser(prog="spnpolicy", usage=f"spnpolicy {self.usage}", description=description, epilog=epilog)
        self.add_arguments(parser)
        return parser


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


def add_json(parser: Parser) -> None:
    """Declare --json."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of words")


def field_docs(kind: type[Any]) -> dict[str, str]:
    """Return the string that follows each field in the source of a dataclass and its bases; "" where there is none."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        docs |= _own_docs(base)
    return docs


def _own_docs(kind: type[Any]) -> dict[str, str]:
    # Python drops these strings when it compiles, so the source is read again.
    definition = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(definition, ast.ClassDef), "a dataclass is defined by a class statement"
    docs: dict[str, str] = {}
    following = [*definition.body[1:], None]
    for statement, after in zip(definition.body, following, strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            docs[statement.target.id] = _text(after)
    return docs


def _text(statement: ast.stmt | None) -> str:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return " ".join(str(statement.value.value).split())
    return ""
