"""The command line `spnpolicy`. Nothing heavy is imported before a command runs, so that help is instant."""

import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from spnpolicy.base.decoding import unknown_name
from spnpolicy.base.tables import aligned
from spnpolicy.cli import benchmark, doctor, evaluate, infer, listing, query, report, sweep, train
from spnpolicy.cli.command import EXIT_CODES, Command
from spnpolicy.cli.completion import completion_of
from spnpolicy.cli.failures import INTERRUPTED, tell
from spnpolicy.cli.options import UsageError, read_command_line

COMMANDS: dict[str, Command] = {
    file.COMMAND.name: file.COMMAND
    for file in (listing, train, evaluate, query, infer, sweep, benchmark, report, doctor)
}
"""All commands by name, in the order of the overview."""
COMMANDS["completion"] = completion_of(COMMANDS)


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
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output, such as `head`, has left. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        command = words[0] if words and words[0] in COMMANDS else None
        return tell(error, command=command, show_traceback="--traceback" in words)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"spnpolicy {version('spnpolicy')}")
        return 0
    if words[0] not in COMMANDS:
        raise UsageError(unknown_name("command", words[0], COMMANDS))
    command = COMMANDS[words[0]]
    parser = command.parser()
    if any(word in ("-h", "--help") for word in words[1:]):
        print(parser.format_help().rstrip())
        return 0
    line = read_command_line(parser, words[1:], takes_settings=command.takes_settings)
    # Environments of the user, "module:Class", may lie here; last, so that nothing else is replaced.
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    return command.run(line)


def _overview() -> str:
    """Return the text of `spnpolicy --help`."""
    rows = "\n".join(aligned(((command.name, command.summary) for command in COMMANDS.values()), indent="  "))
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
