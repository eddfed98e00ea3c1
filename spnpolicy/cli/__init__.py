"""The command line `spnpolicy`. Nothing heavy is imported before a command runs, so that help is instant."""

import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from spnpolicy.cli.commands import COMMANDS, find_command, overview
from spnpolicy.cli.failures import report
from spnpolicy.cli.options import CommandLine, read_command_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: what stands behind `spnpolicy`; None for those of this process.

    Returns:
        0 ok, 2 usage, 3 failed run, 4 disk, 5 environment, 6 numbers, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if logging.lastResort is not None:
        # What nobody has set up a log for goes to stderr; it shall look like our other messages.
        logging.lastResort.setFormatter(logging.Formatter("spnpolicy: warning: %(message)s"))
    try:
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("spnpolicy: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output, such as `head`, has left. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        command = words[0] if words and words[0] in COMMANDS else None
        return report(error, command=command, show_traceback="--traceback" in words)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"spnpolicy {version('spnpolicy')}")
        return 0
    command = find_command(words[0])
    parser = command.parser()
    if any(word in ("-h", "--help") for word in words[1:]):
        print(parser.format_help().rstrip())
        return 0
    line: CommandLine = read_command_line(parser, words[1:], takes_settings=command.takes_settings)
    # Environments of the user, "module:Class", may lie here; last, so that nothing else is replaced.
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    return import_module(command.module).run(line)
