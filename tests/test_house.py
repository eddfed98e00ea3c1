"""House rules, read from the source: who imports whom, what is never called, and how long files and functions are."""

import ast
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

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


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_follow_the_dependency_direction(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    ours = {name.split(".")[0] for name in imports_of(parse(path))} & {*PACKAGES, "tests", "benchmarks", "examples"}
    assert ours <= MAY_IMPORT[package], f"{name_of(path)} imports {sorted(ours - MAY_IMPORT[package])}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_unpickles_or_runs_text(path: Path) -> None:
    tree = parse(path)
    bad = {name for name in imports_of(tree) if name.split(".")[0] in FORBIDDEN_MODULES}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            bad |= {dotted(node.func)} & FORBIDDEN_CALLS
            bad |= {"shell=True" for k in node.keywords if k.arg == "shell" and getattr(k.value, "value", None)}
        elif isinstance(node, ast.ImportFrom) and node.module in ("torch", "os", "yaml", "numpy"):
            bad |= {f"{node.module}.{alias.name}" for alias in node.names} & FORBIDDEN_CALLS
    assert not bad, f"{name_of(path)} uses {sorted(bad)}"


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


# Policies over single actions live outside the two engines; a plain softmax there has no -inf rows to care for.
ENGINE_FILES = [path for path in FILES if path.relative_to(ROOT).parts[0] in ("circuits", "factor_q")]


@pytest.mark.parametrize("path", ENGINE_FILES, ids=name_of)
def test_only_numerics_calls_logsumexp_and_friends(path: Path) -> None:
    if path.name == "numerics.py":
        return  # the one place
    assert not (found := calls_a_normaliser(parse(path))), f"{name_of(path)} calls {sorted(found)}; use numerics"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES_IN_A_FILE, f"{name_of(path)} has {lines} lines"
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MOST_LINES_IN_A_FUNCTION, f"{name_of(path)}: {node.name} has {length} lines"


def module_of(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def top_level_imports(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports that run when a module is loaded: not those inside functions or under TYPE_CHECKING."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and dotted(node.test).split(".")[-1] != "TYPE_CHECKING":
            yield from top_level_imports(node.body + node.orelse)
        elif isinstance(node, ast.Try):
            yield from top_level_imports(node.body)


def test_no_import_cycles() -> None:
    modules = {module_of(path): path for path in FILES}
    graph = nx.DiGraph()
    for module, path in modules.items():
        for node in top_level_imports(parse(path).body):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            else:  # `from package import module` needs the module; anything else needs the package
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                targets = [name if name in modules else node.module or "" for name in inner]
            graph.add_edges_from((module, target) for target in targets if target in modules and target != module)
    cycles = list(nx.simple_cycles(graph))
    assert not cycles, f"import cycle: {' -> '.join(cycles[0])}"


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
    hidden = "if TYPE_CHECKING:\n    import a\nif x:\n    import b\ndef f():\n    import c"
    assert [ast.unparse(node) for node in top_level_imports(ast.parse(hidden).body)] == ["import b"]
