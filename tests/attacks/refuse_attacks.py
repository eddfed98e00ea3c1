"""Read every hostile checkpoint and watch what the reader does.

    python -m tests.attacks.refuse_attacks --out benchmarks/results/faults/attacks.txt

Each must be refused with a `CheckpointError` that names a file of it. While the reader runs, an audit hook of Python
forbids and records every new process, socket, file opened for writing, change of the file system, unpickling, import
of a module, compiled or executed code and foreign function. Each attack is read by a fork of its own, whose memory is
limited and measured, and whose processor time is. Anything but a quiet refusal ends the program with exit code 1.
"""

import argparse
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from spnpolicy.base.errors import CheckpointError
from spnpolicy.training.storage.checkpoints import load_checkpoint

MEGABYTE = 1 << 20
MOST_MEGABYTES = 200
MOST_SECONDS = 1.0
PATIENCE = 60.0

HARMLESS_EVENTS = ("os.listdir", "os.scandir", "object.__getattr__", "sys._getframe", "builtins.id", "cpython.")
"""Events without an effect. Any event that is neither one of these nor an opening for reading is a side effect."""


class Watch:
    """An audit hook, which Python has no way to remove; it does something only while it is armed."""

    def __init__(self):
        self.is_armed = False
        self.events: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.is_armed or event.startswith(HARMLESS_EVENTS):
            return
        if event == "open":
            flags = arguments[2] if len(arguments) > 2 else None
            writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
            if isinstance(flags, int) and not flags & writes:
                return
        self.events.append(f"{event} {arguments!r:.200}")
        raise PermissionError(f"the reader did: {self.events[-1]}")


class Refusal(NamedTuple):
    """How one attack ended."""

    name: str
    problem: str
    """Empty if the attack was refused as it should be."""
    message: str
    """What the refusal said."""
    seconds: float
    """Processor time."""
    megabytes: float
    """Growth of the peak of memory."""


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def read_one(name: str, root: Path, watch: Watch) -> Refusal:
    """Read one hostile checkpoint under watch."""
    watch.events.clear()
    before, started = peak(), time.process_time()
    message = problem = ""
    watch.is_armed = True
    try:
        load_checkpoint(root)
        problem = "it was read"
    except CheckpointError as refusal:
        message = str(refusal)
    except BaseException as other:
        problem = f"{type(other).__name__}: {other}"
    finally:
        watch.is_armed = False
    seconds = time.process_time() - started
    if not problem and str(root) not in message:
        problem = "the message names no file"
    if watch.events:
        problem = f"side effects: {watch.events}"
    if list(root.parent.rglob("EXPLODED")):
        problem = "code of the attack was run"
    return Refusal(name, problem, message.replace(str(root), "..."), seconds, peak() - before)


def limit_memory() -> None:
    """Let this process take no more than MOST_MEGABYTES from now on, whether it uses them or not."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MOST_MEGABYTES * MEGABYTE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def read_in_fork(name: str, root: Path, watch: Watch) -> Refusal:
    """Read one hostile checkpoint in a process that is left alone with it."""
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            limit_memory()
            os.write(sink, json.dumps(read_one(name, root, watch)).encode())
        finally:
            os._exit(0)
    os.close(sink)
    with open(source, "rb") as pipe:
        # A reader that waits for a pipe without a writer would wait for ever.
        is_done = bool(select.select([pipe], [], [], PATIENCE)[0])
        if not is_done:
            os.kill(child, signal.SIGKILL)
        content = pipe.read()
    _, status = os.waitpid(child, 0)
    if not content:
        end = f"it died with status {status}" if is_done else f"nothing came back within {PATIENCE:g} s"
        return Refusal(name, end, "", PATIENCE, 0.0)
    return Refusal(*json.loads(content))


def read_all(target: Path) -> list[Refusal]:
    """Read every attack in a folder; the harmless checkpoint comes first, with imports, and last, under watch."""
    watch = Watch()
    harmless = target / "harmless" / "checkpoints"
    load_checkpoint(harmless)
    names = sorted(path.name for path in target.iterdir() if path.name != "harmless")
    results = [read_in_fork(name, target / name / "checkpoints", watch) for name in names]
    # The watch must not be what stops the reader.
    last = read_in_fork("harmless", harmless, watch)
    if last.problem != "it was read":
        results.append(last._replace(problem=f"a harmless checkpoint was refused: {last.message or last.problem}"))
    return results


def report(results: list[Refusal]) -> str:
    """One line for each attack, and the worst."""
    width = max(len(result.name) for result in results)
    lines = [
        f"{result.name:{width}}  {result.seconds:6.3f} s {result.megabytes:4.0f} MB  "
        + (f"NOT REFUSED: {result.problem}" if result.problem else result.message)
        for result in results
    ]
    bad = sum(bool(result.problem) for result in results)
    lines.append(
        f"{len(results) - bad} of {len(results)} attacks refused without side effects; slowest "
        f"{max(result.seconds for result in results):.2f} s, peak of memory up by at most "
        f"{max(result.megabytes for result in results):.0f} MB."
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attacks", type=Path, help="folder that build_attacks has made; a new one if left out")
    parser.add_argument("--most-seconds", type=float, default=MOST_SECONDS, help="longest time for one attack")
    parser.add_argument("--out", type=Path, help="file for the report")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        target = options.attacks
        if target is None:
            # Built by another process, so that this one has taken no memory for it.
            target = Path(folder) / "attacks"
            subprocess.run([sys.executable, "-m", "tests.attacks.build_attacks", str(target)], check=True)
        results = read_all(target)
    text = report(results)
    print(text, end="")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text)
    slow = [result.name for result in results if result.seconds > options.most_seconds]
    grown = [result.name for result in results if result.megabytes > MOST_MEGABYTES]
    if slow or grown:
        print(f"too slow: {slow}; too much memory: {grown}")
    sys.exit(1 if slow or grown or any(result.problem for result in results) else 0)


if __name__ == "__main__":
    main()
