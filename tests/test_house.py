"""House rules, read from the source: who imports whom, what is never called, and how long files and functions are."""

import ast
import functools
import importlib.metadata
from collections.abc import Iterable, Iterator
from pathlib import Path

import networkx as nx

import circuits

ROOT = Path(__file__).parent.parent
PACKAGES = ("circuits", "factor_q", "spnpolicy")
MAY_IMPORT = {
    "circuits": {"circuits"},
    "factor_q": {"factor_q", "circuits"},
    "spnpolicy": {"spnpolicy", "factor_q", "circuits"},
}
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

MOST_LINES_IN_A_FILE = 400
MOST_LINES_IN_A_FUNCTION = 60

FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "torch.load", "yaml.load", "os.system", "numpy.load", "np.load"}
NORMALISERS = {"logsumexp", "log_softmax", "softmax", "logaddexp"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@functools.cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def dotted(node: ast.expr) -> str:
    """`a.b.c` of an expression made of names and attributes, otherwise the last part only."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    parts.append(node.id if isinstance(node, ast.Name) else "")
    return ".".join(reversed(parts))


def imports_of(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""


def offenders(found: dict[str, Iterable[str]]) -> str:
    """One line a file, for a failing assertion; empty where nobody offends."""
    return "\n".join(f"{name}: {', '.join(sorted(bad))}" for name, bad in found.items() if bad)


def test_packages_follow_the_dependency_direction() -> None:
    known = {*PACKAGES, "tests", "benchmarks", "examples"}
    found = {}
    for path in FILES:
        ours = {name.split(".")[0] for name in imports_of(parse(path))} & known
        found[name_of(path)] = ours - MAY_IMPORT[path.relative_to(ROOT).parts[0]]
    assert not (bad := offenders(found)), f"imports of what lies above:\n{bad}"


def unsafe(tree: ast.Module) -> set[str]:
    bad = {name for name in imports_of(tree) if name.split(".")[0] in FORBIDDEN_MODULES}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            bad |= {dotted(node.func)} & FORBIDDEN_CALLS
            bad |= {"shell=True" for k in node.keywords if k.arg == "shell" and getattr(k.value, "value", None)}
        elif isinstance(node, ast.ImportFrom) and node.module in ("torch", "os", "yaml", "numpy"):
            bad |= {f"{node.module}.{alias.name}" for alias in node.names} & FORBIDDEN_CALLS
    return bad


def test_nothing_unpickles_or_runs_text() -> None:
    assert not (bad := offenders({name_of(path): unsafe(parse(path)) for path in FILES})), bad


def calls_a_normaliser(tree: ast.AST) -> set[str]:
    """Calls of logsumexp and friends that are torch's, and not those of one of our numerics modules."""
    from_ours = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").endswith("numerics")
        for alias in node.names
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            *owner, last = dotted(node.func).split(".")
            if last in NORMALISERS and (owner[-1:] != ["numerics"]) and not (not owner and last in from_ours):
                found.add(f"{'.'.join([*owner, last])} (line {node.lineno})")
    return found


def test_only_numerics_calls_logsumexp_and_friends() -> None:
    # Policies over single actions live outside the two engines; a plain softmax there has no -inf rows to care for.
    engines = [path for path in FILES if path.relative_to(ROOT).parts[0] in ("circuits", "factor_q")]
    found = {name_of(path): calls_a_normaliser(parse(path)) for path in engines if path.name != "numerics.py"}
    assert not (bad := offenders(found)), f"use numerics:\n{bad}"


def test_files_and_functions_are_short() -> None:
    found: dict[str, Iterable[str]] = {}
    for path in FILES:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        long = {f"{lines} lines"} if lines > MOST_LINES_IN_A_FILE else set()
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > MOST_LINES_IN_A_FUNCTION:
                    long.add(f"{node.name} has {length} lines")
        found[name_of(path)] = long
    assert not (bad := offenders(found)), bad


def module_of(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}
ROOMS = ["", *(module for module, path in MODULES.items() if path.name == "__init__.py")]


def targets_of(tree: ast.AST) -> set[str]:
    """Our modules that a file imports anywhere: under TYPE_CHECKING and inside functions as well.

    `from package import module` needs the module; anything else needs the package.
    """
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module or "" for name in inner}
    return found & MODULES.keys()


@functools.cache
def arrows() -> list[tuple[str, str]]:
    return [(m, target) for m, path in MODULES.items() for target in targets_of(parse(path)) if target != m]


def part_of(module: str, room: str) -> str | None:
    """The file or folder of a room that holds a module; None outside. The room's own face is its `__init__`."""
    if module == room:
        return "__init__"
    inside = module.removeprefix(f"{room}.") if room else module
    return None if room and inside == module else inside.split(".")[0]


def cycles_in(edges: Iterable[tuple[str, str]]) -> list[list[str]]:
    return [sorted(part) for part in nx.strongly_connected_components(nx.DiGraph([*edges])) if len(part) > 1]


def test_no_file_imports_itself_in_a_circle() -> None:
    edges = arrows()
    found = [
        f"{', '.join(cycle)}:\n" + "\n".join(f"  {a} -> {b}" for a, b in edges if {a, b} <= {*cycle})
        for cycle in cycles_in(edges)
    ]
    assert not found, "import cycles:\n" + "\n".join(found)


@functools.cache
def inside_of(room: str) -> dict[tuple[str, str], list[str]]:
    """Arrows between the files and folders of one room, each with the imports that make it."""
    found: dict[tuple[str, str], list[str]] = {}
    for a, b in arrows():
        ends = part_of(a, room), part_of(b, room)
        if None not in ends and ends[0] != ends[1]:
            found.setdefault(ends, []).append(f"{a} -> {b}")
    return found


def test_arrows_between_rooms_point_down() -> None:
    """In every folder, its files and its folders, each folder as a whole, can be put in an order without a circle."""
    found = []
    for room in ROOMS:
        inside = inside_of(room)
        for cycle in cycles_in(inside):
            found.append(f"{room or 'the whole'}: {', '.join(cycle)}")
            found += [f"  {import_}" for ends, made_by in inside.items() if {*ends} <= {*cycle} for import_ in made_by]
    assert not found, "rooms in a circle:\n" + "\n".join(found)


def test_circuits_is_ours() -> None:
    """PyPI has an unrelated distribution of the same name; installed next to ours it would shadow it."""
    home = Path(circuits.__file__).resolve().parent
    assert home == (ROOT / "circuits").resolve(), (
        f"`import circuits` finds {home}, not {ROOT / 'circuits'}. PyPI's unrelated distribution `circuits` is "
        "probably installed: run `pip uninstall circuits` and install this project again."
    )
    assert hasattr(circuits, "CircuitDistribution")
    assert "circuits" not in {d.name.lower() for d in importlib.metadata.distributions() if d.name}, (
        "the unrelated distribution `circuits` is installed; run `pip uninstall circuits`."
    )


def test_the_checks_see_what_they_look_for() -> None:
    assert calls_a_normaliser(ast.parse("torch.logsumexp(x, 0)"))
    assert calls_a_normaliser(ast.parse("x.softmax(-1)"))
    assert calls_a_normaliser(ast.parse("F.log_softmax(f(x), 0)"))
    assert not calls_a_normaliser(ast.parse("from circuits.numerics import logsumexp\nlogsumexp(x, 0)"))
    assert list(imports_of(ast.parse("def f():\n    import spnpolicy.cli"))) == ["spnpolicy.cli"]
    tree = ast.parse("if TYPE_CHECKING:\n    import circuits.nodes\ndef f():\n    from circuits import errors, Circuit")
    assert targets_of(tree) == {"circuits", "circuits.nodes", "circuits.errors"}
    assert cycles_in([("a", "b"), ("b", "a"), ("b", "c")]) == [["a", "b"]]
    assert part_of("circuits.engine.passes", "circuits") == "engine"
    assert part_of("circuits", "circuits") == "__init__"
    assert part_of("circuits_of.x", "circuits") is None
