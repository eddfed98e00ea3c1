"""Damage a valid checkpoint in thousands of random ways; each time it must be refused by the name of a damaged file.

    python -m tests.faults.checkpoints.corrupt_checkpoints --count 10000 --out benchmarks/results/faults/corruptions.txt

A damage is a bit flipped in a file, a file cut short, bytes put in, taken out or overwritten, two files or two parts of
a file swapped, a file that an older checkpoint has, or a file deleted. The reader gets the root folder, so the file
that names the latest checkpoint is damaged like every other. A checkpoint that is read, or any other error than a
`CheckpointError` that names a damaged file, ends the program with exit code 1. Where that file is deleted, the newest
whole checkpoint must be read.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from spnpolicy.base.errors import CheckpointError
from spnpolicy.training.storage.checkpoints import load_checkpoint, save_checkpoint


def build(root: Path) -> Path:
    """Two checkpoints of the same shape; returns the folder of the latest."""
    for step in (1, 2):
        generator = torch.Generator().manual_seed(step)
        algorithm = {
            "weights": [torch.randn(17, 5, generator=generator), torch.randn(8, generator=generator).double()],
            "optimizer": {0: {"step": torch.tensor(float(step))}, "lr": 1e-3, "betas": (0.9, 0.999)},
            "generator": generator.get_state()[:640],
        }
        replay = {"mask": torch.rand(40, generator=generator) < 0.5, "actions": np.arange(30, dtype=np.int64) * step}
        folder = save_checkpoint(root, {"algorithm": algorithm, "replay": replay, "progress": {"step": step}})
    return folder


Files = dict[str, bytes]
Damage = Callable[[random.Random, Files, Files], Files]


def one(rng: random.Random, files: Files) -> tuple[str, bytearray, int]:
    name = rng.choice(sorted(files))
    return name, bytearray(files[name]), rng.randrange(len(files[name]))


def flipped(rng: random.Random, files: Files, older: Files) -> Files:
    name, content, place = one(rng, files)
    content[place] ^= 1 << rng.randrange(8)
    return {name: bytes(content)}


def overwritten(rng: random.Random, files: Files, older: Files) -> Files:
    name, content, place = one(rng, files)
    length = rng.choice([1, 2, 8, 512])
    content[place : place + length] = rng.choice([bytes(length), b"\xff" * length, rng.randbytes(length)])
    return {name: bytes(content)[: len(files[name])]}


def cut(rng: random.Random, files: Files, older: Files) -> Files:
    name, content, place = one(rng, files)
    return {name: bytes(content[:place])}


def inserted(rng: random.Random, files: Files, older: Files) -> Files:
    name, content, place = one(rng, files)
    place = rng.choice([place, 0, len(content)])
    return {name: bytes(content[:place] + rng.choice([b" ", b"\n", b"\0", rng.randbytes(8)]) + content[place:])}


def removed(rng: random.Random, files: Files, older: Files) -> Files:
    name, content, place = one(rng, files)
    return {name: bytes(content[:place] + content[place + rng.randint(1, 16) :])}


def blocks_swapped(rng: random.Random, files: Files, older: Files) -> Files:
    name, content, place = one(rng, files)
    length = rng.choice([1, 8, 64])
    other = rng.randrange(len(content))
    first, second = content[place : place + length], content[other : other + length]
    content[place : place + length], content[other : other + length] = second, first
    return {name: bytes(content)}


def files_swapped(rng: random.Random, files: Files, older: Files) -> Files:
    first, second = rng.sample(sorted(files), 2)
    return {first: files[second], second: files[first]}


def from_older(rng: random.Random, files: Files, older: Files) -> Files:
    names = rng.sample(sorted(older), rng.randint(1, len(older)))
    return {name: older[name] for name in names}


def deleted(rng: random.Random, files: Files, older: Files) -> Files:
    return dict.fromkeys(rng.sample(sorted(files), rng.randint(1, 3)), b"")


DAMAGES: list[Damage] = [flipped, overwritten, cut, inserted, removed, blocks_swapped, files_swapped, from_older]
DAMAGES += [flipped, flipped, cut, deleted]


def read_files(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def corrupt(root: Path, count: int, seed: int) -> tuple[Counter[str], float]:
    """Damage the checkpoint `count` times; returns how often in which way, and the slowest refusal in seconds.

    Raises:
        AssertionError: a damage was not noticed, or the message names no damaged file.
    """
    rng = random.Random(seed)
    folder = build(root)
    older = read_files(root / "checkpoint-00000001")
    places = {**{name: folder / name for name in older}, "latest": root / "latest"}
    whole = {name: path.read_bytes() for name, path in places.items()}
    tally: Counter[str] = Counter()
    slowest = 0.0
    while tally.total() < count:
        damage = rng.choice(DAMAGES)
        changed = {n: c for n, c in damage(rng, whole, older).items() if damage is deleted or c != whole[n]}
        if not changed:
            continue  # two equal bytes were swapped
        for name, content in changed.items():
            places[name].unlink() if damage is deleted else places[name].write_bytes(content)
        what = f"{damage.__name__} {sorted(changed)}"
        if damage is deleted and "latest" in changed:
            check_taken(root, 2 if len(changed) == 1 else 1, what)
        else:
            slowest = max(slowest, check_refused(root, places, changed, what))
        for name in changed:
            places[name].write_bytes(whole[name])
        tally[damage.__name__] += 1
    assert load_checkpoint(root)["progress"] == {"step": 2}
    return tally, slowest


def check_refused(root: Path, places: dict[str, Path], changed: Files, what: str) -> float:
    """Read a damaged checkpoint; returns how long the refusal took."""
    started = time.perf_counter()
    text = ""
    try:
        load_checkpoint(root)
    except CheckpointError as problem:
        text = str(problem)
    seconds = time.perf_counter() - started
    if not text:
        raise AssertionError(f"{what}: read as if nothing had happened")
    named = any(str(places[name]) in text or f"{name!r} is missing" in text for name in changed)
    # The sum in `latest` vouches for the manifest: when it is damaged, that or the folder it names may be named.
    if not named and not ("latest" in changed and str(root) in text):
        raise AssertionError(f"{what}: refused without a damaged file's name: {text}")
    return seconds


def check_taken(root: Path, step: int, what: str) -> None:
    """Read checkpoints of which nothing says which is the latest: the newest whole one is taken."""
    found = load_checkpoint(root)["progress"]
    if found != {"step": step}:
        raise AssertionError(f"{what}: {found} was read, not step {step}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="file for the report")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    started = time.perf_counter()
    try:
        tally, slowest = corrupt(folder, options.count, options.seed)
    except AssertionError as problem:
        print(f"FAILED (seed {options.seed}): {problem}\nThe damaged checkpoint is in {folder}.")
        sys.exit(1)
    shutil.rmtree(folder)
    kinds = ", ".join(f"{name.replace('_', ' ')} {number}" for name, number in tally.most_common())
    text = (
        f"{tally.total()} damaged checkpoints, seed {options.seed}, {time.perf_counter() - started:.0f} s: "
        f"all refused by the name of a damaged file, the slowest after {1e3 * slowest:.0f} ms.\nKinds: {kinds}.\n"
    )
    print(text, end="")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text)


if __name__ == "__main__":
    main()
