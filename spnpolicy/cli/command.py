"""What a command is: a name, texts, flags, and the module that does the work, loaded when it runs."""

from collections.abc import Callable
from typing import NamedTuple

from spnpolicy.cli.options import Parser

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
