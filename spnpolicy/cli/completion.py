"""`spnpolicy completion`: what a shell needs to complete our command line; made of the same parsers that read it."""

from argparse import Action
from collections.abc import Mapping
from functools import partial
from typing import Any

import shtab

from spnpolicy.cli.command import FILE, FOLDER, Command, offer
from spnpolicy.cli.options import CommandLine, Parser, known_name

SHELLS = ("bash", "zsh", "fish", "tcsh")
_PATHS: dict[str, Any] = {FILE: shtab.FILE, FOLDER: shtab.DIRECTORY}


def _add_arguments(parser: Parser) -> None:
    offer(parser.add_argument("shell", metavar="SHELL", help="bash, zsh, fish or tcsh"), SHELLS)


def _run(commands: Mapping[str, Command], line: CommandLine) -> int:
    """Print the script."""
    print(completion_script(known_name("shell", line.options.shell, SHELLS), commands))
    return 0


def completion_script(shell: str, commands: Mapping[str, Command]) -> str:
    """Return a script that completes commands, flags, known names and files.

    Args:
        shell: one of `SHELLS`.
        commands: all commands by name.
    """
    root = Parser(prog="spnpolicy")
    parsers = root.add_subparsers()
    for command in commands.values():
        parser = parsers.add_parser(command.name, help=command.summary)
        command.add_arguments(parser)
        for action in parser.declared:
            _tell(action)
    return shtab.complete(root, shell)


def _tell(action: Action) -> None:
    """Pass on to shtab what `offer` has noted."""
    offers = getattr(action, "offers", ())
    if isinstance(offers, str):
        action.complete = _PATHS[offers]  # pyright: ignore[reportAttributeAccessIssue]
    elif offers:
        action.choices = offers


def completion_of(commands: Mapping[str, Command]) -> Command:
    """Return the command that completes the given ones, and itself once it is among them."""
    return Command(
        "completion",
        "Print a script that lets the shell complete commands, flags, names and files.",
        "completion bash|zsh|fish|tcsh",
        """\
To install it, once:
  bash   spnpolicy completion bash > ~/.local/share/bash-completion/completions/spnpolicy
         (without the package bash-completion: write it anywhere and `source` it in ~/.bashrc)
  zsh    spnpolicy completion zsh > ~/.zfunc/_spnpolicy
         and in ~/.zshrc, before compinit: fpath+=~/.zfunc
  fish   spnpolicy completion fish > ~/.config/fish/completions/spnpolicy.fish
  tcsh   spnpolicy completion tcsh > ~/.spnpolicy.tcsh, and `source` it in ~/.tcshrc
Then open a new shell.""",
        ("completion bash", "completion zsh"),
        _add_arguments,
        partial(_run, commands),
    )
