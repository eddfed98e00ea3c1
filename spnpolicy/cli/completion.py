"""`spnpolicy completion`: what a shell needs to complete our command line; made of the same parsers that read it."""

from argparse import Action
from typing import Any

import shtab

from spnpolicy.cli.commands import COMMANDS
from spnpolicy.cli.flags import FILE, FOLDER
from spnpolicy.cli.options import CommandLine, Parser, known_name
from spnpolicy.cli.tool_flags import SHELLS

_PATHS: dict[str, Any] = {FILE: shtab.FILE, FOLDER: shtab.DIRECTORY}


def run(line: CommandLine) -> int:
    """Print the script."""
    print(completion_script(known_name("shell", line.options.shell, SHELLS)))
    return 0


def completion_script(shell: str) -> str:
    """Return a script that completes commands, flags, known names and files.

    Args:
        shell: one of `SHELLS`.
    """
    root = Parser(prog="spnpolicy")
    commands = root.add_subparsers()
    for command in COMMANDS.values():
        parser = commands.add_parser(command.name, help=command.summary)
        command.add_arguments(parser)
        for action in parser.declared:
            _tell(action)
    return shtab.complete(root, shell)


def _tell(action: Action) -> None:
    """Pass on to shtab what `flags.offer` has noted."""
    offers = getattr(action, "offers", ())
    if isinstance(offers, str):
        action.complete = _PATHS[offers]  # pyright: ignore[reportAttributeAccessIssue]
    elif offers:
        action.choices = offers
