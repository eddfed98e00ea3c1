"""Plant bugs, one at a time, in a copy of the checkout and see that the fast tests notice each of them.

    make planted          or          python -m tests.planted.plant --only TEXT --jobs 2 --out FILE

First the tests of all chosen bugs run without any bug and must pass. A bug counts as caught only if a test then fails
by itself: an import that fails, a fixture that fails or a misspelt name prove nothing and are reported as INVALID. The
checkout is never changed. The program ends with 1 unless every bug was caught.
"""

import argparse
import os
import platform
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from tests.planted.bug import Bug
from tests.planted.planted_bugs import BUGS

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("circuits", "factor_q", "spnpolicy")
CAUGHT, MISSED, INVALID = "caught", "NOT CAUGHT", "INVALID"
SECONDS_PER_BUG = 600
SECONDS_PER_TEST = 120
NOT_A_FINDING = ("ImportError", "ModuleNotFoundError", "NameError", "TypeError", "jaxtyping.TypeCheckError")
"""Exceptions that show a bug that was not written properly, rather than tests that work."""
_FAILED = re.compile(r"^FAILED (.+)$", re.MULTILINE)
_FOLDERS = re.compile(r"(?<![\w.])/(?:[^\s/]+/)+")
"""Absolute paths of folders, which differ from machine to machine."""


class Outcome(NamedTuple):
    """What became of a bug."""

    bug: Bug
    verdict: str
    detail: str
    """The test that failed first and why, or what was wrong with the bug."""
    seconds: float


class Run(NamedTuple):
    """What pytest said."""

    code: int | None
    """None if it had to be ended."""
    output: str
    seconds: float


def copy_checkout(folder: Path) -> None:
    """Copy what git knows or would add, and the compiled kernel, which it ignores."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    names = set(filter(None, listed.decode().split("\0")))
    names |= {str(path.relative_to(ROOT)) for path in (ROOT / "circuits" / "engine" / "native").glob("*.so")}
    for name in sorted(names):
        if (ROOT / name).is_file():  # it may be deleted and not committed
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def environment(folder: Path) -> dict[str, str]:
    """The tests start programs of their own; these must find the copy too, and not the installed packages."""
    return {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "COLUMNS": "300"}


def check_imports(folder: Path) -> list[str]:
    """Return where the packages come from, which must be the copy, from inside it and from elsewhere."""
    program = f"import {', '.join(PACKAGES)}; print({', '.join(f'{name}.__file__' for name in PACKAGES)}, sep='\\n')"
    for place in (folder, Path(tempfile.gettempdir())):
        result = subprocess.run(
            [sys.executable, "-c", program], cwd=place, env=environment(folder), capture_output=True, text=True
        )
        found = result.stdout.splitlines()
        if len(found) != len(PACKAGES) or not all(Path(name).is_relative_to(folder) for name in found):
            raise SystemExit(f"from {place} the packages are not those of the copy {folder}: {found} {result.stderr}")
    return found


def run_tests(folder: Path, tests: Sequence[str], seconds: float, *options: str) -> Run:
    """Run pytest in a copy; everything that it started is ended with it."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "not slow and not full",
        "-p",
        "no:cacheprovider",
        "--tb=no",
        *options,
    ]
    start = time.monotonic()
    process = subprocess.Popen(
        [*command, f"--timeout={SECONDS_PER_TEST}", *tests],
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return Run(None, output, time.monotonic() - start)
    return Run(process.returncode, output, time.monotonic() - start)


@contextmanager
def planted(folder: Path, bug: Bug, number: int) -> Iterator[None]:
    """Plant a bug in a copy for the block."""
    path = folder / bug.file
    source, modified = path.read_text(encoding="utf-8"), int(path.stat().st_mtime)
    if source.count(bug.old) != 1 or bug.old == bug.new:
        raise ValueError(f"its old text occurs {source.count(bug.old)} times in {bug.file}")
    path.write_text(source.replace(bug.old, bug.new), encoding="utf-8")
    # Python knows compiled files by whole seconds and sizes: each bug has a time of its own.
    os.utime(path, (modified + number, modified + number))
    try:
        yield
    finally:
        path.write_text(source, encoding="utf-8")
        os.utime(path, (modified, modified))


def try_bug(folder: Path, bug: Bug) -> Outcome:
    """Plant a bug, run its tests and judge what they say."""
    try:
        with planted(folder, bug, 1 + BUGS.index(bug)):
            run = run_tests(folder, bug.tests, SECONDS_PER_BUG, "-x")
    except (ValueError, OSError) as problem:
        return Outcome(bug, INVALID, str(problem), 0.0)
    verdict, detail = judge(run)
    return Outcome(bug, verdict, detail, run.seconds)


def judge(run: Run) -> tuple[str, str]:
    """Return the verdict on a run with a bug, and a few words about it."""
    if run.code == 0:
        return MISSED, run.output.strip().splitlines()[-1]
    failed = _FAILED.search(run.output)
    if run.code != 1 or failed is None:
        last = " | ".join(run.output.strip().splitlines()[-3:])
        return INVALID, f"no test failed; pytest ended with {run.code}: {last}"
    _, _, reason = failed[1].partition(" - ")
    return INVALID if reason.startswith(NOT_A_FINDING) else CAUGHT, failed[1]


def line_of(outcome: Outcome) -> str:
    """Return one line about a bug."""
    test, _, reason = outcome.detail.partition(" - ")
    words = f"by {test} in {outcome.seconds:.0f} s" if outcome.verdict == CAUGHT else f"({outcome.detail})"
    reason = _FOLDERS.sub(".../", reason)[:100].rstrip(" :")
    why = f": {reason}" if outcome.verdict == CAUGHT and reason else ""
    return f"{outcome.bug.name:<52} {outcome.verdict} {words}{why}"


def run_unplanted(folder: Path, bugs: Sequence[Bug], jobs: int, say: Callable[[str], None]) -> None:
    """Demand that the tests pass without any bug: one that fails anyway catches nothing."""
    tests = sorted({test for bug in bugs for test in bug.tests})
    # A test that is named beside its whole file would run twice.
    files = {test for test in tests if "::" not in test}
    tests = [test for test in tests if test in files or test.partition("::")[0] not in files]
    parallel = ["-n", str(jobs)] if jobs > 1 else []
    run = run_tests(folder, tests, SECONDS_PER_BUG + 60 * len(tests), *parallel)
    if run.code != 0:
        raise SystemExit(f"without any bug the tests must pass, but:\n{run.output[-4000:]}")
    say(f"without any bug: {run.output.strip().splitlines()[-1]}")


def run_all(bugs: Sequence[Bug], jobs: int, say: Callable[[str], None]) -> list[Outcome]:
    """Try every bug, each worker in a copy of its own."""
    with tempfile.TemporaryDirectory(prefix="planted-") as holder:
        folders: queue.SimpleQueue[Path] = queue.SimpleQueue()
        first = Path(holder).resolve() / "copy-0"
        copy_checkout(first)
        say(f"circuits is read from {Path(check_imports(first)[0]).relative_to(first.parent)}")
        run_unplanted(first, bugs, jobs, say)
        folders.put(first)
        for number in range(1, jobs):
            folder = first.with_name(f"copy-{number}")
            shutil.copytree(first, folder)  # not the checkout, which may have changed meanwhile
            folders.put(folder)

        def work(bug: Bug) -> Outcome:
            folder = folders.get()
            try:
                outcome = try_bug(folder, bug)
            finally:
                folders.put(folder)
            say(line_of(outcome))
            return outcome

        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(work, bugs))


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", metavar="TEXT", help="bugs whose names contain one of these words; all if left out"
    )
    parser.add_argument("--jobs", type=int, default=1, help="bugs at a time")
    parser.add_argument("--out", type=Path, help="file for what is printed")
    options = parser.parse_args()
    words: list[str] = options.only or [""]
    bugs = [bug for bug in BUGS if any(word in bug.name for word in words)]
    if not bugs:
        parser.error(f"no bug is called like {words}; the names: {'; '.join(bug.name for bug in BUGS)}")
    lines: list[str] = []

    def say(text: str) -> None:
        lines.append(text)
        print(text, flush=True)
        if options.out is not None:
            options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")

    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "pytest", "hypothesis"))
    say(f"{len(bugs)} planted bugs; Python {platform.python_version()}, {libraries}")
    start = time.monotonic()
    verdicts = Counter(outcome.verdict for outcome in run_all(bugs, options.jobs, say))
    counts = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in (CAUGHT, MISSED, INVALID))
    say(f"{len(bugs)} planted bugs: {counts}; {time.monotonic() - start:.0f} s")
    return 0 if verdicts[CAUGHT] == len(bugs) else 1


if __name__ == "__main__":
    sys.exit(main())
