"""What commands there are; their flags and texts lie in a module each, and so does what they do."""

from spnpolicy.base.decoding import unknown_name
from spnpolicy.cli.benchmark_flags import BENCHMARK
from spnpolicy.cli.command import EXIT_CODES, Command
from spnpolicy.cli.infer_flags import INFER
from spnpolicy.cli.options import UsageError
from spnpolicy.cli.report_flags import REPORT
from spnpolicy.cli.run_flags import EVALUATE, QUERY
from spnpolicy.cli.sweep_flags import SWEEP
from spnpolicy.cli.tool_flags import COMPLETION, DOCTOR, LIST
from spnpolicy.cli.train_flags import TRAIN

COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        LIST,
        TRAIN,
        EVALUATE,
        QUERY,
        INFER,
        SWEEP,
        BENCHMARK,
        REPORT,
        DOCTOR,
        COMPLETION,
    )
}
"""All commands by name, in the order of the overview."""


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
