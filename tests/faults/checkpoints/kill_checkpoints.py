"""Kill a process that writes checkpoints with `kill -9`, again and again, and read what it leaves.

    python -m tests.faults.checkpoints.kill_checkpoints --kills 200 --out benchmarks/results/faults/kills.txt

A child counts up and saves a checkpoint, and the same as the best, after each count; it tells before each write and
after it. Half of the kills are aimed into a write: the parent waits for the word that a write begins, and then for a
random part of the time that writes take. The other half come at any moment. After each kill the latest checkpoint
must be one that the child had finished or begun, every number of it must be of the same count, the next save must
remove every leftover, and all of that must hold for the best as well. Anything else ends the program with exit code 1.
"""

import argparse
import os
import random
import select
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import torch

from spnpolicy.training.storage.checkpoints import load_checkpoint, save_best, save_checkpoint

NUMBERS = 500_000
MESSAGE = struct.Struct("<cq")


class Kill(NamedTuple):
    """What one kill met."""

    writing: str
    """What the child had begun to write and not finished: "checkpoint", "best" or nothing."""
    leftovers: int
    """Hidden files and folders that it left."""
    lost: int
    """Counts that were reached, or being written, and are not in the latest checkpoint: 0 or 1."""


def state_of(step: int) -> dict[str, Any]:
    """Two megabytes of numbers that all tell the count."""
    tensors = {"weights": torch.full((NUMBERS,), float(step)), "moments": [torch.full((NUMBERS // 100,), step)] * 3}
    return {"algorithm": tensors, "progress": {"step": step}}


def write_for_ever(root: Path, step: int, words: int) -> None:
    """Count up and save, and tell: b before the write of a checkpoint, e after it, f after that of the best."""
    while True:
        step += 1
        state = state_of(step)
        os.write(words, MESSAGE.pack(b"b", step))
        save_checkpoint(root, state)
        os.write(words, MESSAGE.pack(b"e", step))
        save_best(root, state, float(step), step)
        os.write(words, MESSAGE.pack(b"f", step))


def messages(source: int, wait: float = 0.0) -> list[tuple[bytes, int]]:
    """All words that have arrived; waits for the first of them for at most `wait` seconds."""
    found: list[tuple[bytes, int]] = []
    while select.select([source], [], [], wait if not found else 0.0)[0]:
        content = os.read(source, MESSAGE.size)  # so short a word is never torn
        if not content:
            break
        found.append(MESSAGE.unpack(content))
    return found


def kill_once(root: Path, start: int, rng: random.Random, write_seconds: float, aimed: bool) -> tuple[int, int, int]:
    """Start a child, kill it, and return the last counts begun, finished and kept as the best."""
    source, words = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            write_for_ever(root, start, words)
        finally:
            os._exit(1)
    os.close(words)
    last = {b"b": start, b"e": start, b"f": start}
    try:
        for _ in range(rng.randint(1, 4)):
            heard: list[tuple[bytes, int]] = []
            while not heard or heard[-1][0] != b"b":
                heard = messages(source, 60.0)
                assert heard, "the child says nothing any more"
                last |= dict(heard)
        time.sleep(rng.uniform(0.0, write_seconds if aimed else 6.0 * write_seconds))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    last |= dict(messages(source))
    os.close(source)
    return last[b"b"], last[b"e"], last[b"f"]


def check_after(root: Path, begun: int, finished: int, best: int) -> Kill:
    """Read everything that the kill has left and save once more."""
    leftovers = sum(path.name.startswith(".") for path in root.iterdir())
    loaded = {which: load_checkpoint(root, which) for which in ("latest", "best")}
    for which, least in (("latest", finished), ("best", best)):
        step = loaded[which]["progress"]["step"]
        assert least <= step <= begun, f"{which} is of {step}, but {least} was finished and {begun} begun"
        numbers = loaded[which]["algorithm"]
        assert all(bool((tensor == step).all()) for tensor in (numbers["weights"], *numbers["moments"])), which
    assert loaded["best"]["best"] == {"score": float(loaded["best"]["progress"]["step"])} | {
        "step": loaded["best"]["progress"]["step"]
    }
    save_checkpoint(root, state_of(begun))
    save_best(root, state_of(begun), float(begun), begun)
    names = sorted(path.name.rstrip("0123456789") for path in root.iterdir())
    assert names == ["best", "best-", "checkpoint-", "checkpoint-", "latest"], names
    writing = "checkpoint" if begun > finished else "best" if finished > best else ""
    return Kill(writing, leftovers, begun - loaded["latest"]["progress"]["step"])


def run(root: Path, kills: int, seed: int) -> list[Kill]:
    """Kill a child `kills` times; raises when a promise is broken."""
    rng = random.Random(seed)
    for step in (1, 2):
        save_checkpoint(root, state_of(step))
        save_best(root, state_of(step), float(step), step)
    results: list[Kill] = []
    step = 2
    for number in range(kills):
        started = time.perf_counter()
        save_checkpoint(root, state_of(step))
        write_seconds = time.perf_counter() - started
        begun, finished, best = kill_once(root, step, rng, write_seconds, aimed=number % 2 == 0)
        results.append(check_after(root, begun, finished, best))
        step = begun
    return results


def report(results: list[Kill], seed: int, seconds: float) -> str:
    """Say what the kills met."""
    counts = Counter(kill.writing for kill in results)
    return (
        f"{len(results)} kills, seed {seed}, {seconds:.0f} s: {counts['checkpoint']} inside the write of a checkpoint, "
        f"{counts['best']} inside the write of the best; "
        f"{sum(kill.leftovers > 0 for kill in results)} left something unfinished behind.\n"
        f"Unreadable checkpoints: 0. Checkpoints lost that had been finished: 0. Most intervals lost: "
        f"{max(kill.lost for kill in results)}. Leftovers after the next save: 0.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root", type=Path, help="folder to write in; a temporary one if left out")
    parser.add_argument("--out", type=Path, help="file for the report")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        results = run(options.root or Path(folder), options.kills, options.seed)
    text = report(results, options.seed, time.perf_counter() - started)
    print(text, end="")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text)
    sys.exit(0 if all(kill.lost <= 1 for kill in results) else 1)


if __name__ == "__main__":
    main()
