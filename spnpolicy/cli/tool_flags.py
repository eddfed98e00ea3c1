"""`spnpolicy list`, `doctor` and `completion`: their flags; light, because every help text loads it."""

from spnpolicy.algorithms import ALGORITHMS
from spnpolicy.cli.command import Command
from spnpolicy.cli.flags import offer
from spnpolicy.cli.options import Parser
from spnpolicy.envs import ENVIRONMENTS

SHELLS = ("bash", "zsh", "fish", "tcsh")


def _add_list(parser: Parser) -> None:
    name = "an algorithm or environment to describe in full"
    offer(parser.add_argument("name", metavar="NAME", nargs="?", help=name), [*ALGORITHMS, *ENVIRONMENTS])
    parser.add_argument("--json", action="store_true", help="print the lists as JSON")


def _add_doctor(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of words")


def _add_shell(parser: Parser) -> None:
    offer(parser.add_argument("shell", metavar="SHELL", help="bash, zsh, fish or tcsh"), SHELLS)


LIST = Command(
    "list",
    "Show the algorithms, environments, circuit structures and benchmark presets.",
    "list [NAME] [--json]",
    "With the name of an algorithm or environment, show all its settings.",
    ("list", "list spn_ac", "list coverage", "list pettingzoo:mpe2.simple_spread_v3"),
    _add_list,
    "spnpolicy.cli.listing",
)

DOCTOR = Command(
    "doctor",
    "Check the installation and this machine.",
    "doctor [--json]",
    "Prints OK or PROBLEM per line, with what to do; the exit code is 2 if there is a problem.",
    ("doctor", "doctor --json"),
    _add_doctor,
    "spnpolicy.cli.doctor",
)

COMPLETION = Command(
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
    _add_shell,
    "spnpolicy.cli.completion",
)
