"""Feed every reader of JSON and tensors with mutated valid documents: only our own errors may come out.

    python -m tests.fuzz.readers --minutes 10 --out benchmarks/results/faults/fuzz_readers.txt

Targets are config.json, metrics.jsonl, and of a checkpoint the file `latest`, manifest.json, state.json and the header
of its tensors; and the file of a circuit. Checksums are forged after each mutation, for otherwise they would refuse
everything. What a reader accepts must come back unchanged when written and read again, and a file of tensors must be
one that the library safetensors reads to the same bytes. Anything else is printed with its document, and the program
ends with exit code 1.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

import circuits
from circuits import structures
from circuits.errors import CircuitError
from circuits.files import FileFacts
from circuits.formats.json import _digest
from spnpolicy.base.decoding import decode, encode
from spnpolicy.base.errors import SpnPolicyError
from spnpolicy.base.files import open_regular
from spnpolicy.base.strict_json import dump_json, parse_json
from spnpolicy.training.config import RunConfig
from spnpolicy.training.metrics import read_metrics, record_line
from spnpolicy.training.storage.checkpoints import load_checkpoint, save_checkpoint
from spnpolicy.training.storage.tensor_files import read_tensors
from tests.identical import assert_identical

TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[][{}:,]|[^][{}:,"\s]+|\s+')
ODD = [
    *[b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"1e308", b"-0", b"-0.0", b"0.1", b"1.0", b"1E+2", b"01"],
    *[b"true", b"false", b"null", b"0", b"1", b"2", b"-1", b"4611686018427387904", b"9223372036854775808"],
    *[b"18446744073709551616", b"9" * 400, b"9" * 5000, b"0." + b"1" * 400, b"1e-400", b"2.5", b"nul", b"'a'"],
    *[b'""', b'"x"', b'"\\ud800"', b'"\\u0000"', b'"\\u202e"', b'"\xc3\xa9"', b'"\xff"', b'"' + b"x" * 3000 + b'"'],
    *[b'"nan"', b'"inf"', b'"$tensor"', b'"$items"', b'"$tuple"', b'"$float"', b'"$scalar"', b'"$array"', b'"$"'],
    *[b'"F64"', b'"BOOL"', b'"C64"', b'"U64"', b'"F8_E4M3"', b'"dtype"', b'"shape"', b'"data_offsets"', b'"steps"'],
    *[b"[]", b"{}", b"[[]]", b'{"a":1,"a":2}', b'{"$tensor":"w"}', b'{"$tuple":[]}', b'{"$items":[[1,2]]}', b"[0,0]"],
    *[b"[" * 60 + b"]" * 60, b"[" * 500 + b"]" * 500, b'{"$tuple":[' * 120 + b"]}" * 120, b"[" * 100_000],
    *[b"{", b"}", b"[", b"]", b":", b",", b" ", b"\n", b"\r", b"\xef\xbb\xbf", b"//", b"/**/"],
]


def mutated(rng: random.Random, text: bytes) -> bytes:
    """Change a few words of a document, or now and then a few bytes."""
    if rng.random() < 0.2:
        content = bytearray(text)
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(content) + 1)
            content[place : place + rng.randint(0, 2)] = rng.choice([b"", rng.randbytes(1), rng.randbytes(2)])
        return bytes(content)
    tokens = TOKEN.findall(text)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        place, other = sorted((rng.randrange(len(tokens) + 1), rng.randrange(len(tokens) + 1)))
        end = min(place + rng.choice([1, 1, 2, 4]), len(tokens))
        match rng.randrange(6):
            case 0 | 1 | 2:
                tokens[place : place + 1] = [rng.choice(ODD)]
            case 3:  # another word of the same document, so that keys and places are mixed up
                tokens[place : place + 1] = tokens[other : other + 1]
            case 4:
                tokens[place:end] = tokens[place:end] * rng.randint(0, 2)
            case _:  # a whole part twice: keys that appear again
                tokens[other:other] = [b",", *tokens[place:other]]
        tokens = tokens or [b"0"]
    return b"".join(tokens)


class Targets:
    """Valid documents in a folder, and for each target a function that reads a mutation; True if it was accepted."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.root = folder / "checkpoints"
        self.checkpoint = save_checkpoint(self.root, example_state())
        self.whole = {path.name: path.read_bytes() for path in self.checkpoint.iterdir()}
        config = RunConfig(
            "vdn", "coverage", {"network": {"hidden": [32]}, "double_q": True, "x": None}, {"side": 3, "name": "ü"}
        )
        self.config = dump_json(encode(config)).encode()
        records = [{"kind": "train", "step": 3, "seconds": 0.5, "loss": float("nan"), "done": True, "note": None}] * 2
        self.metrics = "".join(map(record_line, records)).encode()
        self.circuit = folder / "circuit.safetensors"
        structure = structures.keep_set([2, 3], labels=4)
        circuits.save(self.circuit, structure, torch.zeros(structure.num_parameters))
        with safetensors.safe_open(self.circuit, "pt") as file:
            self.structure = file.metadata()["structure"].encode()
            self.logits = file.get_tensor("logits")

    def read_config(self, rng: random.Random) -> bool:
        document = mutated(rng, self.config)
        config = decode(RunConfig, parse_json(document, source="c", error=SpnPolicyError), path="c")
        again = decode(RunConfig, parse_json(dump_json(encode(config)), source="c", error=SpnPolicyError), path="c")
        assert_identical(encode(again), encode(config))
        return True

    def read_metrics(self, rng: random.Random) -> bool:
        path = self.folder / "metrics.jsonl"
        path.write_bytes(mutated(rng, self.metrics))
        found = read_metrics(path)
        lines = [record_line(record) for record in found.records]
        path.write_text("".join(lines))
        assert [record_line(record) for record in read_metrics(path).records] == lines
        return True

    def read_latest(self, rng: random.Random) -> bool:
        original = (self.root / "latest").read_bytes()
        document = mutated(rng, original)
        try:
            (self.root / "latest").write_bytes(document)
            load_checkpoint(self.root)
            assert document == original, "another name was believed"
            return True
        finally:
            (self.root / "latest").write_bytes(original)

    def read_manifest(self, rng: random.Random) -> bool:
        document = mutated(rng, self.whole["manifest.json"])
        self._restore_with("manifest.json", document)
        state = load_checkpoint(self.checkpoint)
        assert document == self.whole["manifest.json"], "another manifest was believed"
        assert_identical(state, example_state())
        return True

    def read_state(self, rng: random.Random) -> bool:
        self._restore_with("state.json", mutated(rng, self.whole["state.json"]))
        state = load_checkpoint(self.checkpoint)
        again = self.folder / "again"
        assert_identical(load_checkpoint(save_checkpoint(again, state, keep=1)), state)
        return True

    def read_tensors(self, rng: random.Random) -> bool:
        original = self.whole["algorithm.safetensors"]
        length = int.from_bytes(original[:8], "little")
        header, data = mutated(rng, original[8 : 8 + length]), original[8 + length :]
        if rng.random() < 0.1:
            data = rng.choice([data[:-1], data + b"\0", b"", rng.randbytes(len(data))])
        size = len(header) if rng.random() < 0.9 else rng.choice([0, 1, 1 << 63, (1 << 64) - 1, len(header) + 8])
        content = size.to_bytes(8, "little") + header + data
        path = self.folder / "tensors.safetensors"
        path.write_bytes(content)
        with open_regular(path, error=SpnPolicyError) as file:
            ours = read_tensors(file, path, FileFacts(len(content), hashlib.sha256(content).hexdigest()))
        if b"-0" in header or b"\\ud8" in header:
            return True  # for Python a whole number and a letter, for safetensors a fraction and none
        theirs = safetensors.torch.load(content)
        assert_identical(dict(sorted(ours.items())), dict(sorted(theirs.items())))
        return True

    def read_circuit(self, rng: random.Random) -> bool:
        text = mutated(rng, self.structure).decode("utf-8", "replace")
        facts = {"format": "circuits", "version": "2", "structure": text, "sha256": _digest(text, self.logits)}
        self.circuit.write_bytes(safetensors.torch.save({"logits": self.logits}, facts))
        circuit, logits = circuits.load(self.circuit)
        circuits.save(self.circuit, circuit, logits)
        again, _ = circuits.load(self.circuit)
        assert again.nodes == circuit.nodes
        return True

    def _restore_with(self, name: str, content: bytes) -> None:
        """Put one mutated file among whole ones and forge the manifest, unless that is the mutated one."""
        manifest = json.loads(self.whole["manifest.json"])
        for each, whole in self.whole.items():
            if each != "manifest.json":
                (self.checkpoint / each).write_bytes(content if each == name else whole)
        if name != "manifest.json":
            manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            content = dump_json(manifest).encode()
        (self.checkpoint / "manifest.json").write_bytes(content)

    @property
    def all(self) -> dict[str, Callable[[random.Random], bool]]:
        """The targets by name."""
        functions = (self.read_config, self.read_metrics, self.read_latest, self.read_manifest, self.read_state)
        return {f.__name__.removeprefix("read_"): f for f in (*functions, self.read_tensors, self.read_circuit)}


def example_state() -> dict[str, object]:
    tensors = {"w": torch.arange(4.0), "mask": torch.tensor([True, False]), "empty": torch.zeros(0, 3)}
    odd = {"numbers": [1, -0.5, float("nan"), True, None, "ü"], "pair": (1, "x"), "keys": {0: 1, "$a": {}}}
    scalars = {"array": np.arange(3), "scalar": np.float32(0.5)}
    return {"algorithm": tensors, "rest": odd, "numpy": scalars, "progress": {"step": 3}}


def fuzz(folder: Path, seed: int, *, seconds: float = float("inf"), count: int | None = None) -> dict[str, str]:
    """Mutate until the time is over or each target has had `count`; returns what happened for each target.

    Raises:
        AssertionError: a reader let something else out than our own errors; names the seed of that document.
    """
    started = time.monotonic()
    targets = Targets(folder)
    tally = {name: Counter[str]() for name in targets.all}
    slowest = dict.fromkeys(tally, 0.0)
    number = 0
    while time.monotonic() - started < seconds and (count is None or number < count):
        for name, read in targets.all.items():
            begun = time.process_time()
            try:
                outcome = "accepted" if read(random.Random(f"{seed} {name} {number}")) else ""
            except (SpnPolicyError, CircuitError) as problem:
                outcome = "refused"
                if isinstance(problem, SpnPolicyError) and len(str(problem)) > 1000:
                    raise AssertionError(f"{name} {number}: a message of {len(str(problem))} letters") from problem
            except BaseException as problem:
                raise AssertionError(f"{name} {number}: {type(problem).__name__}: {problem}") from problem
            slowest[name] = max(slowest[name], time.process_time() - begun)
            tally[name][outcome] += 1
        number += 1
    return {
        name: f"{counts.total():8,} documents: {counts['refused']:,} refused, {counts['accepted']:,} accepted, "
        f"slowest {1e3 * slowest[name]:.0f} ms"
        for name, counts in tally.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="file for the report")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.fsync = lambda descriptor: None  # nothing here has to outlive a crash
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    try:
        results = fuzz(folder, options.seed, seconds=60 * options.minutes)
    except AssertionError as problem:
        print(f"FAILED (seed {options.seed}): {problem}\nThe document is in {folder}.")
        sys.exit(1)
    shutil.rmtree(folder)
    lines = [f"{options.minutes:g} minutes, seed {options.seed}: nothing but our own errors."]
    text = "\n".join(lines + [f"{name:9} {result}" for name, result in results.items()]) + "\n"
    print(text, end="")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text)


if __name__ == "__main__":
    main()
