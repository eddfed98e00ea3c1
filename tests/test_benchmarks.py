"""What the benchmarks and examples are allowed, and what their list promises."""

import ast
import importlib
import re
from collections.abc import Iterator

from tests.test_house import PACKAGES, ROOT, name_of, offenders, parse
from tests.test_readme import PAGES, blocks

PROGRAMS = sorted(path for folder in ("benchmarks", "examples") for path in (ROOT / folder).rglob("*.py"))


def is_public(name: str) -> bool:
    """Whether a dotted name is a face, a package whose `__init__` has `__all__`, or a name listed there."""
    module, _, last = name.rpartition(".")
    if name in PACKAGES:
        return True
    if not module or not is_public(module):
        return False
    listed = getattr(importlib.import_module(module), "__all__", ())
    return last in listed or is_face(name)


def is_face(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."), "__init__.py")
    return path.is_file() and "\n__all__" in path.read_text(encoding="utf-8")


def ours_in(tree: ast.Module) -> Iterator[str]:
    """Dotted names of our packages that a program imports, or reaches through what it imported."""
    bound: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.name: alias.name if alias.asname else alias.name.split(".")[0] for alias in node.names}
            bound |= {alias.asname or names[alias.name]: names[alias.name] for alias in node.names}
            yield from names
        elif isinstance(node, ast.ImportFrom):
            bound |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in bound:
            owner = bound[node.value.id]
            if owner in PACKAGES or is_face(owner):
                yield f"{owner}.{node.attr}"


def private_names(tree: ast.Module) -> set[str]:
    ours = {name for name in ours_in(tree) if name.split(".")[0] in PACKAGES}
    return {name for name in ours if not is_public(name)}


def test_benchmarks_and_examples_use_public_names_only() -> None:
    assert not (bad := offenders({name_of(path): private_names(parse(path)) for path in PROGRAMS})), bad


def test_pages_use_public_names_only() -> None:
    code = {page.name: "\n".join(blocks(page, "python")) for page in PAGES}
    assert not (bad := offenders({name: private_names(ast.parse(text)) for name, text in code.items()})), bad


def test_the_check_sees_what_is_private() -> None:
    def found(text: str) -> set[str]:
        return private_names(ast.parse(text))

    assert not found("import circuits\ncircuits.structures.tree\nfrom factor_q import Factors\nimport numpy.linalg")
    assert found("from circuits.engine.layers import compile_circuit") == {"circuits.engine.layers.compile_circuit"}
    assert found("import spnpolicy\nspnpolicy._HOME") == {"spnpolicy._HOME"}
    assert found("def f():\n    import spnpolicy.training.loop") == {"spnpolicy.training.loop"}


def test_every_benchmark_is_in_the_list() -> None:
    folder = ROOT / "benchmarks"
    programs = {path.name for path in folder.glob("*.py")} | {
        f"{path.parent.name}/__main__.py" for path in folder.glob("*/__main__.py")
    }
    listed = set(re.findall(r"\]\(([^)]+)\)", (folder / "README.md").read_text()))
    assert not programs - listed, "without a row in benchmarks/README.md"
    results = {f"results/{path.name}" for path in (folder / "results").iterdir()}
    assert not {r for r in results if not any(link.startswith(r) for link in listed)}, "results that no row names"
