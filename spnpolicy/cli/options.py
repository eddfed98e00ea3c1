"""From words to values: strict, and with the nearest name when one is unknown."""

import argparse
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from spnpolicy.algorithms import ALGORITHMS
from spnpolicy.base.decoding import unknown_name
from spnpolicy.base.errors import SpnPolicyError
from spnpolicy.envs import ENVIRONMENTS
from spnpolicy.envs.names import hint

SETTING_GROUPS = ("env", "algorithm")
"""Flags such as --env.size set options that only the chosen environment or algorithm knows."""


class UsageError(SpnPolicyError):
    """The command line itself is wrong."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises instead of ending the process, and never guesses from abbreviations."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, add_help=False, **options
        )
        self.add_argument("-h", "--help", action="store_true", help="show this text")
        self.add_argument("--traceback", action="store_true", help="show where an error happened, for bug reports")

    def error(self, message: str) -> NoReturn:
        """Raise a UsageError."""
        raise UsageError(f"{message}.")

    @property
    def flags(self) -> list[str]:
        """All flags that it knows."""
        return list(self._option_string_actions)

    @property
    def declared(self) -> list[argparse.Action]:
        """All flags and words that it declares."""
        return list(self._actions)


class CommandLine(NamedTuple):
    """A command line, read but not yet checked against what it names."""

    options: argparse.Namespace
    """What the parser declares."""
    settings: dict[str, dict[str, Any]]
    """Nested values of the dotted flags, by group."""


def read_command_line(parser: Parser, words: Sequence[str], *, takes_settings: bool = False) -> CommandLine:
    """Read the words behind a command.

    Dotted flags (--env.size 8, --algorithm.target.rate=0.1) are taken out first: what they may be is known only to the
    environment and the algorithm. In flags, "-" and "_" are the same.

    Raises:
        UsageError: an unknown flag (the message names the nearest one), a missing or malformed value.
    """
    plain: list[str] = []
    settings: dict[str, dict[str, Any]] = {group: {} for group in SETTING_GROUPS}
    rest = iter(words)
    for word in rest:
        if not re.match(r"--[A-Za-z]", word):
            plain.append(word)
            continue
        flag, equals, value = word.partition("=")
        group, dot, path = flag[2:].partition(".")
        if not dot:
            plain.append(flag.replace("_", "-") + equals + value)
        elif group not in SETTING_GROUPS:
            raise UsageError(unknown_name("flag", flag, [f"--{name}.{path}" for name in SETTING_GROUPS]))
        elif not takes_settings:
            raise UsageError(f"{flag}: this command takes no --{group} settings; a run keeps those it was made with.")
        else:
            _put(settings[group], flag, path.replace("-", "_"), _value_of(flag, value if equals else next(rest, None)))
    # Intermixed: otherwise an optional positional would take "nothing" from the gap before the first flag.
    options, unread = parser.parse_known_intermixed_args(plain)
    for word in unread:
        if word.startswith("-"):
            raise UsageError(unknown_name("flag", word.partition("=")[0], parser.flags))
        raise UsageError(f"{word!r} is one argument too many.")
    return CommandLine(options, settings)


def parse_value(text: str) -> Any:
    """Return the value that a word stands for.

    A number, true, false or none; JSON when it begins with a bracket, or with a quote ("3" is a word); a list when it
    has commas, such as 64,64 (one entry: 64,); otherwise the word itself.
    """
    if text[:1] in ("[", "{", '"'):
        try:
            return json.loads(text)
        except (json.JSONDecodeError, RecursionError) as problem:
            raise UsageError(f"{text[:60]!r} is not valid JSON: {problem}.") from None
    if "," in text:
        return [parse_value(part) for part in text.removesuffix(",").split(",")]
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def whole_number(minimum: int, maximum: int | None = None) -> Any:
    """Return an argparse type: a whole number of at least `minimum`, and at most `maximum`."""
    rule = f"a whole number, {minimum} or more" if maximum is None else f"a whole number from {minimum} to {maximum:,}"

    def parse(text: str) -> int:
        value = parse_value(text)
        if type(value) is not int or value < minimum or (maximum is not None and value > maximum):
            raise argparse.ArgumentTypeError(f"is {text[:60]!r}, but must be {rule}")
        return value

    return parse


def known_name(what: str, name: str, known: Sequence[str]) -> str:
    """Return the name if it is known, or raise a UsageError that names the nearest one."""
    if name not in known:
        raise UsageError(unknown_name(what, name, known))
    return name


def known_algorithm(name: str) -> str:
    """Return the name of a registered algorithm, or raise a UsageError."""
    return known_name("algorithm", name, list(ALGORITHMS))


def known_environment(name: str) -> str:
    """Return the name of an environment, or raise a UsageError.

    One with a colon, such as pettingzoo:mpe2.simple_v3, says itself where the environment is.
    """
    if ":" not in name and name not in ENVIRONMENTS and (right := hint(name)):
        raise UsageError(f"unknown environment {name!r}. {right}")
    return name if ":" in name else known_name("environment", name, list(ENVIRONMENTS))


def _value_of(flag: str, text: str | None) -> Any:
    if text is None:
        raise UsageError(f"{flag} needs a value, such as {flag} 8.")
    return parse_value(text)


def _put(tree: dict[str, Any], flag: str, path: str, value: Any) -> None:
    *parents, name = path.split(".")
    if not all([*parents, name]):
        raise UsageError(f"{flag} names no setting; write it like --env.size 8.")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise UsageError(f"{flag} contradicts an earlier value of {parent!r}.")
    if name in tree:
        raise UsageError(f"{flag} is given twice.")
    tree[name] = value
