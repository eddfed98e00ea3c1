"""README, docs and examples do what they say: every block of code runs, in order, as a reader would type it."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MOST_LINES_OF_THE_README = 150
# The two commands of the front page set up an environment and run for minutes; this very suite is one of them.
RUN_ELSEWHERE = ("make coverage", "make test", "git clone", "cd spnpolicy")
PROGRAM = re.compile(r"python (-m )?((?:benchmarks|tests|examples)[./][\w./]*\w)")


def blocks(page: Path, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [code for name, code in found if name == language]


def with_blocks(language: str):
    pages = [page for page in PAGES if blocks(page, language)]
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.stem)


def environment(tmp_path):
    return os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}


def run(command, tmp_path, seconds):
    return subprocess.run(
        command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=seconds
    )


def test_pages_have_only_blocks_that_this_file_runs():
    languages = {name for page in PAGES for name in re.findall(r"^```(\w+)\n", page.read_text(), flags=re.MULTILINE)}
    assert languages == {"python", "sh", "text"}
    assert sum(code.count("assert ") for page in PAGES for code in blocks(page, "python")) >= 12


def test_the_readme_is_short():
    assert len(PAGES[0].read_text().splitlines()) <= MOST_LINES_OF_THE_README


@pytest.mark.one_in(9)
@with_blocks("python")
def test_python_blocks_run_one_after_the_other(page, tmp_path):
    """The blocks of a page share names, as in one long session; asserts in them are checked."""
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks(page, "python")))
    done = run([sys.executable, "-W", "error", script], tmp_path, 240)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.full
@with_blocks("sh")
def test_shell_blocks_run_one_after_the_other(page, tmp_path):
    lines = [line for code in blocks(page, "sh") for line in code.splitlines() if line.strip()]
    commands = [line.split("  #")[0].strip() for line in lines if not line.startswith(RUN_ELSEWHERE)]
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")  # a reader stands in the root of the project
    for command in commands:
        words = shlex.split(command)
        assert words[0] in ("python", "spnpolicy"), command
        start = [] if words[0] == "python" else ["-m", "spnpolicy"]
        done = run([sys.executable, *start, *words[1:]], tmp_path, 240)
        assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"


def texts() -> list[Path]:
    """Every page of prose, and the commands by which results were made."""
    listed = [path for kind in ("*.md", "command.txt", "tables.txt") for path in ROOT.rglob(kind)]
    return [path for path in listed if not {".venv", "runs"} & set(path.relative_to(ROOT).parts)]


def test_links_lead_somewhere():
    missing = []
    for page in texts():
        named = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
        named += re.findall(r'src="([^"]+)"', page.read_text())
        missing += [f"{page.relative_to(ROOT)}: {path}" for path in named
                    if not path.startswith("http") and not (page.parent / path).exists()]  # fmt: skip
    assert not missing, "\n".join(missing)


def test_every_page_is_linked_from_the_readme():
    links = set(re.findall(r"\]\(([^)#]+)\)", PAGES[0].read_text()))
    assert not {f"docs/{page.name}" for page in PAGES[1:]} - links


def exists(module: str | None, name: str) -> bool:
    if not module:
        return (ROOT / name).is_file()
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


def test_commands_name_programs_that_exist():
    found = [(page, *words) for page in texts() for words in PROGRAM.findall(page.read_text())]
    assert len(found) >= 20
    missing = [
        f"{page.relative_to(ROOT)}: {name}" for page, module, name in found if not exists(module, name.rstrip("."))
    ]
    assert not missing, "\n".join(missing)


def test_make_targets_that_pages_name_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"`make ([\w-]+)`", page.read_text())}
    assert len(named) >= 8
    assert not named - targets


@pytest.mark.one_in(7)
@pytest.mark.parametrize("example", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_every_example_runs(example, tmp_path):
    done = run([sys.executable, "-W", "error", ROOT / "examples" / example], tmp_path, 280)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) >= 5
    assert 30 <= len((ROOT / "examples" / example).read_text().splitlines()) <= 70
    assert not list(tmp_path.iterdir())
