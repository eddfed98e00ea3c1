"""What the benchmarks and examples are allowed, and what their list promises."""

import ast
import re
from collections.abc import Iterator
from functools import cache

import torch

from spnpolicy import evaluate, load_run
from tests.test_house import PACKAGES, ROOT, dotted, name_of, offenders, parse
from tests.test_readme import PAGES, blocks

PROGRAMS = sorted(path for folder in ("benchmarks", "examples") for path in (ROOT / folder).rglob("*.py"))


def is_public(name: str) -> bool:
    """Whether a dotted name is a face or listed by one."""
    module, _, last = name.rpartition(".")
    return bool(listed(name)) or last in listed(module)


@cache
def listed(name: str) -> list[str]:
    """`__all__` of a package's `__init__`: what makes it a face. Empty where there is none."""
    path = ROOT.joinpath(*name.split("."), "__init__.py")
    if not name or not path.is_file():
        return []
    for node in parse(path).body:
        if isinstance(node, ast.Assign) and dotted(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return []


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
        if isinstance(node, ast.Attribute):
            root, *parts = dotted(node).split(".")
            owner = bound.get(root, "")
            while parts and listed(owner):
                owner = f"{owner}.{parts.pop(0)}"
                yield owner


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
    assert found("import circuits as c\nc.structures.hidden()") == {"circuits.structures.hidden"}
    assert found("def f():\n    import spnpolicy.training.loop") == {"spnpolicy.training.loop"}


def test_every_benchmark_is_in_the_list() -> None:
    folder = ROOT / "benchmarks"
    programs = {str(path.relative_to(folder)) for kind in ("*.py", "*/__main__.py") for path in folder.glob(kind)}
    links = set(re.findall(r"\]\(([^)]+)\)", (folder / "README.md").read_text()))
    assert not programs - links, "without a row in benchmarks/README.md"
    results = {f"results/{path.name}" for path in (folder / "results").iterdir()}
    assert not {r for r in results if not any(link.startswith(r) for link in links)}, "results that no row names"


def test_the_kept_policy_of_the_papers_size_plays_and_answers() -> None:
    folder = ROOT / "benchmarks" / "results" / "coverage_paper" / "run"
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 2e6
    loaded = load_run(folder, num_envs=50)
    assert loaded.env.spec.num_agents == 6
    result = evaluate(loaded.algorithm, loaded.env, 50, 0.95, 7, plays=())
    assert result.fraction_of_optimum is not None
    assert result.episodes.successes.mean() >= 0.96
    assert result.fraction_of_optimum.mean() > 0.93
    one = load_run(folder, num_envs=1)
    pi = one.algorithm.policy_at(one.env.reset(seed=0))
    stays = torch.zeros(6, 6, dtype=torch.bool).logical_not()
    stays[1, 1:] = False
    torch.testing.assert_close(pi.condition(stays).marginals()[0, 1], torch.eye(6)[0])
