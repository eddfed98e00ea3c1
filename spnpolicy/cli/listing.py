"""`spnpolicy list`: what can be named on the command line."""

import ast
import dataclasses
import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from spnpolicy.algorithms import ALGORITHMS, config_class
from spnpolicy.cli.command import Command, field_docs, offer
from spnpolicy.cli.options import CommandLine, Parser, known_name
from spnpolicy.envs import ENVIRONMENTS, PETTINGZOO, PREFIXES
from spnpolicy.experiments.presets import COVERAGE


def _add_arguments(parser: Parser) -> None:
    name = "an algorithm or environment to describe in full"
    offer(parser.add_argument("name", metavar="NAME", nargs="?", help=name), [*ALGORITHMS, *ENVIRONMENTS])
    parser.add_argument("--json", action="store_true", help="print the lists as JSON")


def run(line: CommandLine) -> int:
    """Print the lists, or everything about one name."""
    name = line.options.name
    if name is not None:
        print(_one(name))
    else:
        print(json.dumps(_facts(), indent=1) if line.options.json else _everything())
    return 0


def structures() -> dict[str, str]:
    """Return the circuit structures and one line about each, read from the source: importing it loads torch."""
    package = find_spec("circuits")
    if package is None or not package.submodule_search_locations:
        return {}
    folder = Path(package.submodule_search_locations[0]) / "structures"
    found: dict[str, str] = {}
    for path in sorted(folder.glob("[a-z]*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        builders = [statement for statement in tree.body if isinstance(statement, ast.FunctionDef)]
        # A family's builder bears its file's name and takes cardinalities first; the others combine circuits.
        if any(build.name == path.stem and build.args.args[0].arg == "cardinalities" for build in builders):
            # The first line of a structure's file reads "Name: what it is."
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0].partition(": ")[2]
    return found


def _sections() -> dict[str, dict[str, str]]:
    """Return title -> name -> one line about it."""
    environments = {name: description for name, (_, description) in ENVIRONMENTS.items()}
    return {
        "algorithms": {name: entry.description for name, entry in ALGORITHMS.items()},
        "environments": environments | {f"{prefix}...": description for prefix, description in PREFIXES.items()},
        "circuit structures": structures(),
        "presets of `benchmark coverage`": {name: preset.description for name, preset in COVERAGE.items()},
    }


def _facts() -> dict[str, Any]:
    """Return the lists for programs: of algorithms also what kind they are, what they need and where they come from."""
    algorithms = {
        name: {
            "description": entry.description,
            "class": entry.family,
            "needs at execution": entry.execution,
            "source": entry.source,
        }
        for name, entry in ALGORITHMS.items()
    }
    return _sections() | {"algorithms": algorithms}


def _everything() -> str:
    sections = _sections()
    width = max(len(name) for rows in sections.values() for name in rows)
    text = [f"{title}\n" + _rows(rows.items(), width) for title, rows in sections.items() if title != "algorithms"]
    text.insert(0, "algorithms\n" + _rows(_algorithms(), width))
    return "\n\n".join([*text, "More about one: spnpolicy list NAME"])


def _algorithms() -> Iterator[tuple[str, str]]:
    """Yield two lines per algorithm: what it does, and class, need at execution and source."""
    for name, entry in ALGORITHMS.items():
        yield name, entry.description
        yield "", f"  {entry.family}; needs {entry.execution}; {entry.source}"


def _one(name: str) -> str:
    if name in ALGORITHMS:
        entry = ALGORITHMS[name]
        facts = [("class", entry.family), ("needs", f"at execution: {entry.execution}"), ("source", entry.source)]
        description = f"{name}: {entry.description}\n" + _rows(facts)
        return f"{description}\n\nsettings\n" + _rows(_settings(config_class(name), "--algorithm."))
    # Names with a colon, such as pettingzoo:mpe2.simple_v3, say themselves where the environment is.
    if ":" not in name:
        known_name("algorithm or environment", name, [*ALGORITHMS, *ENVIRONMENTS])
    # Loads NumPy, which a list of names does not wait for.
    from spnpolicy.envs.make import environment_class

    kind = environment_class(name)
    parameters = inspect.signature(kind).parameters
    own = {} if not name.startswith(PETTINGZOO) else _own_options(name, parameters)
    text = inspect.getdoc(kind.func if isinstance(kind, partial) else kind)
    width = max(len(option) for option in [*parameters, *own]) + len("--env.")
    sections = [f"{text}\n\nsettings\n{_rows(_defaults(parameters), width)}"]
    if own:
        sections.append(f"settings of {name.removeprefix(PETTINGZOO)} itself\n{_rows(_defaults(own), width)}")
    return "\n\n".join(sections)


def _own_options(name: str, parameters: Mapping[str, inspect.Parameter]) -> dict[str, inspect.Parameter]:
    """Return what a PettingZoo environment takes besides the options of the batch."""
    from spnpolicy.envs.pettingzoo.makers import maker_parameters

    found = maker_parameters(name, name.removeprefix(PETTINGZOO))
    return {option: parameter for option, parameter in found.items() if option not in parameters}


def _defaults(parameters: Mapping[str, inspect.Parameter]) -> Iterator[tuple[str, str]]:
    for option in parameters.values():
        if option.name != "num_envs" and option.kind not in (option.VAR_KEYWORD, option.VAR_POSITIONAL):
            is_needed = option.default is option.empty
            yield f"--env.{option.name}", "no default" if is_needed else f"default: {option.default}"


def _settings(kind: type[Any], prefix: str) -> Iterator[tuple[str, str]]:
    """Yield flag and text of every setting; a nested record contributes its own."""
    docs = field_docs(kind)
    default = kind()
    for field in dataclasses.fields(kind):
        value = getattr(default, field.name)
        if dataclasses.is_dataclass(value):
            yield from _settings(type(value), f"{prefix}{field.name}.")
        elif f"{prefix}{field.name}" != "--algorithm.discount":
            yield f"{prefix}{field.name}", f"{docs[field.name]} Default: {_shown(value)}"


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _rows(rows: Iterable[tuple[str, str]], width: int | None = None) -> str:
    rows = list(rows)
    width = width or max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:{width}}  {text}" for name, text in rows)


COMMAND = Command(
    "list",
    "Show the algorithms, environments, circuit structures and benchmark presets.",
    "list [NAME] [--json]",
    "With the name of an algorithm or environment, show all its settings.",
    ("list", "list spn_ac", "list coverage", "list pettingzoo:mpe2.simple_spread_v3"),
    _add_arguments,
    run,
)
