"""Build hostile checkpoints: each looks like one of ours and tries to run code, to reach other files or to take memory.

    python -m tests.attacks.build_attacks folder

Every attack gets a folder of its own in the given one, with a root of checkpoints in it. README.md explains them. Where
a manifest could betray the attack, it is forged to vouch for it, as whoever sends a checkpoint can do.
"""

import argparse
import hashlib
import io
import json
import os
import pickle
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spnpolicy.training.storage.checkpoints import MAX_STATE, save_checkpoint
from spnpolicy.training.storage.tensor_files import MAX_HEADER

NAME = "checkpoint-00000001"
CANARY = "EXPLODED"
"""File that code inside an attack would make in the folder of the attack."""

Attack = Callable[[Path, Path], None]
"""Turns a valid root of checkpoints, whose only checkpoint is in the second folder, into a hostile one."""

ATTACKS: dict[str, Attack] = {}


def attack(function: Attack) -> Attack:
    ATTACKS[function.__name__.replace("_", "-")] = function
    return function


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place / CANARY),)


def forge(folder: Path, name: str, content: bytes | None = None, **facts: Any) -> None:
    """Write a file, if there is content, and a manifest and a pointer that vouch for it."""
    if content is not None:
        (folder / name).write_bytes(content)
        facts = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} | facts
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"][name] = manifest["files"].get(name, {}) | facts
    forge_manifest(folder, json.dumps(manifest, indent=1) + "\n")


def forge_manifest(folder: Path, text: str | bytes, name: str = NAME) -> None:
    content = text.encode() if isinstance(text, str) else text
    (folder / "manifest.json").write_bytes(content)
    (folder.parent / "latest").write_bytes(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())


def tensor_file(header: str | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    header = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(shape: Any = (2,), offsets: Any = (0, 8), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def forge_tensors(folder: Path, header: dict[str, Any] | str, data: bytes = bytes(8)) -> None:
    forge(folder, "algorithm.safetensors", tensor_file(header if isinstance(header, str) else json.dumps(header), data))


def pickle_with_protocol(protocol: int) -> Attack:
    def build(root: Path, folder: Path) -> None:
        forge(folder, "algorithm.safetensors", pickle.dumps(Bomb(root.parent), protocol=protocol))

    return build


for number in range(pickle.HIGHEST_PROTOCOL + 1):
    ATTACKS[f"pickle-protocol-{number}"] = pickle_with_protocol(number)


@attack
def pickle_as_state(root: Path, folder: Path) -> None:
    forge(folder, "state.json", pickle.dumps(Bomb(root.parent)))


@attack
def pickle_as_manifest(root: Path, folder: Path) -> None:
    forge_manifest(folder, pickle.dumps(Bomb(root.parent)))


@attack
def pickle_as_pointer(root: Path, folder: Path) -> None:
    (root / "latest").write_bytes(pickle.dumps(Bomb(root.parent)))


@attack
def pickle_with_a_brace(root: Path, folder: Path) -> None:
    # A frame of protocol 4 whose ninth byte is a brace, as in a safetensors file.
    frame = pickle.dumps(Bomb(root.parent), protocol=4)
    forge(folder, "algorithm.safetensors", frame[:8] + b"{" + frame[9:])


@attack
def torch_archive(root: Path, folder: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"w": Bomb(root.parent)}, buffer)
    forge(folder, "algorithm.safetensors", buffer.getvalue())


@attack
def zip_bomb(root: Path, folder: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        with archive.open("data.pkl", "w", force_zip64=True) as inner:
            for _ in range(256):
                inner.write(bytes(1 << 20))
    forge(folder, "algorithm.safetensors", buffer.getvalue())


@attack
def tar_archive(root: Path, folder: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("../../" + CANARY)
        member.size = 4
        archive.addfile(member, io.BytesIO(b"boom"))
    forge(folder, "algorithm.safetensors", buffer.getvalue())


@attack
def hdf5_file(root: Path, folder: Path) -> None:
    forge(folder, "algorithm.safetensors", b"\x89HDF\r\n\x1a\n" + bytes(512))


@attack
def numpy_objects(root: Path, folder: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Bomb(root.parent)], dtype=object), allow_pickle=True)
    forge(folder, "algorithm.safetensors", buffer.getvalue())


@attack
def empty_file(root: Path, folder: Path) -> None:
    forge(folder, "algorithm.safetensors", b"")


@attack
def header_of_2_to_63(root: Path, folder: Path) -> None:
    forge(folder, "algorithm.safetensors", tensor_file("{}" + " " * 64, length=1 << 63))


@attack
def header_of_nothing(root: Path, folder: Path) -> None:
    forge(folder, "algorithm.safetensors", tensor_file("{}", length=0))


@attack
def header_longer_than_the_file(root: Path, folder: Path) -> None:
    forge(folder, "algorithm.safetensors", tensor_file("{}" + " " * 64, length=1 << 20))


@attack
def header_of_64_megabytes(root: Path, folder: Path) -> None:
    forge(folder, "algorithm.safetensors", tensor_file("{" + " " * (64 << 20) + "}"))


@attack
def header_that_is_a_list(root: Path, folder: Path) -> None:
    forge(folder, "algorithm.safetensors", tensor_file('[{"w":1}]'))


@attack
def overlapping_tensors(root: Path, folder: Path) -> None:
    forge_tensors(folder, {"w": entry(), "v": entry(offsets=(4, 12))}, bytes(12))


@attack
def same_bytes_for_all(root: Path, folder: Path) -> None:
    forge_tensors(folder, {f"w{number}": entry() for number in range(20_000)})


@attack
def hole_between_tensors(root: Path, folder: Path) -> None:
    forge_tensors(folder, {"w": entry(), "v": entry(offsets=(1 << 20, (1 << 20) + 8))}, bytes((1 << 20) + 8))


@attack
def bytes_after_the_tensors(root: Path, folder: Path) -> None:
    forge_tensors(folder, {"w": entry()}, bytes(8) + b"#!/bin/sh\n")


@attack
def shape_that_overflows(root: Path, folder: Path) -> None:
    forge_tensors(folder, {"w": entry(shape=[1 << 62, 1 << 62, 4], offsets=(0, 0))}, b"")


@attack
def shape_that_overflows_to_its_size(root: Path, folder: Path) -> None:
    # 4 * (2^62 + 2) is 8 in 64 bits.
    forge_tensors(folder, {"w": entry(shape=[(1 << 62) + 2])})


@attack
def empty_shape_with_huge_strides(root: Path, folder: Path) -> None:
    forge_tensors(folder, {"w": entry(shape=[0, 1 << 61, 1 << 61], offsets=(0, 0))}, b"")


@attack
def shape_of_a_terabyte(root: Path, folder: Path) -> None:
    forge_tensors(folder, {"w": entry(shape=[1 << 38], offsets=(0, 1 << 40))})


@attack
def shape_of_100000_dimensions(root: Path, folder: Path) -> None:
    forge_tensors(folder, {"w": entry(shape=[1] * 100_000, offsets=(0, 4))}, bytes(4))


@attack
def negative_offsets(root: Path, folder: Path) -> None:
    forge_tensors(folder, {"w": entry(offsets=(-8, 0))})


@attack
def negative_shape(root: Path, folder: Path) -> None:
    forge_tensors(folder, {"w": entry(shape=[-2], offsets=(8, 0))})


@attack
def fractional_shape(root: Path, folder: Path) -> None:
    forge_tensors(folder, {"w": entry(shape=[2.0])})


@attack
def truth_value_as_shape(root: Path, folder: Path) -> None:
    forge_tensors(folder, {"w": entry(shape=[True], offsets=(0, 4))}, bytes(4))


@attack
def unknown_type(root: Path, folder: Path) -> None:
    forge_tensors(folder, {"w": entry(dtype="object")})


@attack
def list_as_type(root: Path, folder: Path) -> None:
    forge_tensors(folder, {"w": entry(dtype=["F32"])})


@attack
def neither_true_nor_false(root: Path, folder: Path) -> None:
    forge_tensors(folder, {"w": entry(dtype="BOOL", shape=[8])}, b"\x02" * 8)


@attack
def duplicate_tensor_in_header(root: Path, folder: Path) -> None:
    one = json.dumps(entry())
    forge_tensors(folder, f'{{"w":{one},"w":{one}}}')


@attack
def duplicate_key_in_state(root: Path, folder: Path) -> None:
    forge(folder, "state.json", (folder / "state.json").read_bytes()[:-1] + b',"progress":{"step":9}}')


@attack
def duplicate_key_in_manifest(root: Path, folder: Path) -> None:
    forge_manifest(folder, '{"format": 1,' + (folder / "manifest.json").read_text()[1:])


@attack
def nested_100000_deep(root: Path, folder: Path) -> None:
    forge(folder, "state.json", b'{"progress":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


@attack
def nested_deep_in_header(root: Path, folder: Path) -> None:
    forge_tensors(folder, '{"w":' + "[" * 100_000 + "]" * 100_000 + "}")


@attack
def nested_just_within_the_parser(root: Path, folder: Path) -> None:
    # The parser of Python takes this much; what walks through the result might not.
    forge(folder, "state.json", b'{"progress":' + b'{"$tuple":[' * 480 + b"]}" * 480 + b"}")


@attack
def integer_of_a_million_digits(root: Path, folder: Path) -> None:
    forge(folder, "state.json", b'{"progress":' + b"9" * 1_000_000 + b"}")


@attack
def integer_of_a_million_digits_as_shape(root: Path, folder: Path) -> None:
    forge_tensors(folder, '{"w":{"dtype":"F32","shape":[' + "9" * 1_000_000 + '],"data_offsets":[0,8]}}')


@attack
def number_beyond_all_bounds(root: Path, folder: Path) -> None:
    forge(folder, "state.json", b'{"progress":{"step":1e999}}')


@attack
def nan_in_state(root: Path, folder: Path) -> None:
    forge(folder, "state.json", b'{"progress":{"step":NaN}}')


@attack
def state_that_unfolds_in_memory(root: Path, folder: Path) -> None:
    # Each three bytes become a list of 56.
    forge(folder, "state.json", b'{"progress":[' + b"[]," * (10 << 20) + b"0]}")


@attack
def state_of_many_objects(root: Path, folder: Path) -> None:
    forge(folder, "state.json", b'{"progress":[' + b'{"":0},' * 500_000 + b"0]}")


@attack
def largest_state_that_is_parsed(root: Path, folder: Path) -> None:
    objects = b'{"":0},' * 99_000
    numbers = b"99999," * ((MAX_STATE - len(objects) - 99) // 6)
    forge(folder, "state.json", b'{"progress":[' + objects + numbers + b'{"$code":0}]}')


@attack
def most_keys_that_are_parsed(root: Path, folder: Path) -> None:
    keys = b",".join(b'"%x":0' % number for number in range(MAX_STATE // 11))
    forge(folder, "state.json", b'{"progress":{"x":{"$code":0},' + keys + b"}}")


@attack
def largest_header_that_is_parsed(root: Path, folder: Path) -> None:
    one = len(json.dumps({"w" * 81: entry((0,), (0, 0))}))
    forge_tensors(folder, {f"w{n:080}": entry((0,), (0, 0)) for n in range(MAX_HEADER // one)}, b"!")


@attack
def state_names_missing_tensors(root: Path, folder: Path) -> None:
    forge(folder, "state.json", b'{"algorithm":{"w":{"$tensor":"nowhere"}}}')


@attack
def state_names_a_tensor_twice(root: Path, folder: Path) -> None:
    forge(folder, "state.json", b'{"algorithm":[{"$tensor":"w"},{"$tensor":"w"}]}')


@attack
def state_hides_a_tensor(root: Path, folder: Path) -> None:
    forge(folder, "state.json", b'{"algorithm":{}}')


@attack
def state_with_unknown_marker(root: Path, folder: Path) -> None:
    forge(folder, "state.json", b'{"algorithm":{"$import":"os"}}')


@attack
def part_that_climbs_out(root: Path, folder: Path) -> None:
    forge(folder, "state.json", b'{"../../outside":{"w":{"$tensor":"w"}}}')


@attack
def manifest_that_climbs_out(root: Path, folder: Path) -> None:
    content = (folder / "algorithm.safetensors").read_bytes()
    (root.parent / "outside.safetensors").write_bytes(content)
    forge(folder, "../../outside.safetensors", bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


@attack
def manifest_with_absolute_path(root: Path, folder: Path) -> None:
    forge(folder, "/etc/passwd", bytes=1, sha256="0" * 64)


@attack
def manifest_with_null_byte(root: Path, folder: Path) -> None:
    forge(folder, "algorithm\0.safetensors", bytes=1, sha256="0" * 64)


@attack
def manifest_with_look_alike_letters(root: Path, folder: Path) -> None:
    forge(folder, "\u0430lgorithm.safetensors", (folder / "algorithm.safetensors").read_bytes())


@attack
def manifest_with_reversed_writing(root: Path, folder: Path) -> None:
    forge(folder, "\u202esrosnetefas.safetensors", (folder / "algorithm.safetensors").read_bytes())


@attack
def manifest_that_claims_an_exabyte(root: Path, folder: Path) -> None:
    forge(folder, "algorithm.safetensors", bytes=1 << 60)
    forge(folder, "state.json", bytes=1 << 60)


@attack
def manifest_with_truth_value_as_size(root: Path, folder: Path) -> None:
    forge(folder, "algorithm.safetensors", bytes=True)


@attack
def manifest_without_state(root: Path, folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    del manifest["files"]["state.json"]
    forge_manifest(folder, json.dumps(manifest, indent=1) + "\n")


@attack
def manifest_of_64_megabytes(root: Path, folder: Path) -> None:
    forge_manifest(folder, (folder / "manifest.json").read_text() + " " * (64 << 20))


@attack
def file_nobody_listed(root: Path, folder: Path) -> None:
    (folder / "payload.pkl").write_bytes(pickle.dumps(Bomb(root.parent)))


@attack
def file_of_no_part(root: Path, folder: Path) -> None:
    forge(folder, "payload.safetensors", pickle.dumps(Bomb(root.parent)))


@attack
def linked_file(root: Path, folder: Path) -> None:
    (folder / "algorithm.safetensors").rename(root.parent / "outside")
    (folder / "algorithm.safetensors").symlink_to(root.parent / "outside")


@attack
def linked_state_to_a_device(root: Path, folder: Path) -> None:
    (folder / "state.json").unlink()
    (folder / "state.json").symlink_to("/dev/zero")


@attack
def linked_folder(root: Path, folder: Path) -> None:
    folder.rename(root.parent / "outside")
    folder.symlink_to(root.parent / "outside")


@attack
def linked_pointer(root: Path, folder: Path) -> None:
    (root / "latest").rename(root.parent / "outside")
    (root / "latest").symlink_to(root.parent / "outside")


@attack
def pipe_as_file(root: Path, folder: Path) -> None:
    (folder / "algorithm.safetensors").unlink()
    os.mkfifo(folder / "algorithm.safetensors")


@attack
def pipe_as_pointer(root: Path, folder: Path) -> None:
    (root / "latest").unlink()
    os.mkfifo(root / "latest")


@attack
def folder_as_file(root: Path, folder: Path) -> None:
    (folder / "state.json").unlink()
    (folder / "state.json").mkdir()


@attack
def pointer_that_climbs_out(root: Path, folder: Path) -> None:
    (root / "latest").write_text(f"../../etc {'0' * 64}\n")


@attack
def pointer_with_foreign_digits(root: Path, folder: Path) -> None:
    name = "checkpoint-" + "\u0660" * 7 + "\u0661"
    folder.rename(root / name)
    forge_manifest(root / name, (root / name / "manifest.json").read_bytes(), name)


@attack
def pointer_of_64_megabytes(root: Path, folder: Path) -> None:
    (root / "latest").write_bytes(b"a" * (64 << 20))


def build_root(root: Path) -> Path:
    """A small valid checkpoint; returns its folder."""
    return save_checkpoint(root, {"algorithm": {"w": torch.ones(2)}, "progress": {"step": 1}})


def build_all(target: Path) -> dict[str, Path]:
    """Build every attack in a folder; returns their roots by name, and that of a harmless one as "harmless"."""
    roots = {name: target / name / "checkpoints" for name in ("harmless", *ATTACKS)}
    for name, root in roots.items():
        folder = build_root(root)
        if name != "harmless":
            ATTACKS[name](root, folder)
    return roots


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to build them; must not exist")
    options = parser.parse_args()
    if options.folder.exists():
        sys.exit(f"{options.folder} exists")
    print(f"{len(build_all(options.folder)) - 1} attacks in {options.folder}")


if __name__ == "__main__":
    main()
