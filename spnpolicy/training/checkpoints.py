"""Checkpoints that survive a crash at any moment and run no code when read.

A root folder holds one folder per checkpoint and a file `latest` with the name of the newest complete one:

    checkpoint-00000007/<part>.safetensors    the tensors of one part, such as `algorithm`
    checkpoint-00000007/state.json            everything else, see `state_tree`
    checkpoint-00000007/manifest.json         size and SHA-256 of each of the other files
    latest

Folders are written under a hidden name, synced to the disk and renamed, so a visible folder is complete.
Nothing is ever unpickled: a file that looks like a pickle or a torch archive is refused by its first bytes.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from spnpolicy.errors import CheckpointError, DiskError
from spnpolicy.training.files import replace_file, sync_folder, write_durably
from spnpolicy.training.state_tree import flatten, unflatten
from spnpolicy.training.strict_json import dump_json, parse_json

FORMAT = 1
_CHECKPOINT_NAME = re.compile(r"checkpoint-(\d{8,12})")
_PART_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_TEMPORARY_PREFIXES = (".writing-", ".removing-")
_SMALL_FILE_LIMIT = 1 << 16


def save_checkpoint(root: Path, state: Mapping[str, Any], *, keep: int = 2) -> Path:
    """Write a new checkpoint, make it the latest and remove all but the last `keep`.

    A crash or a full disk at any moment leaves the previous checkpoint in place and readable.

    Args:
        root: folder of all checkpoints of a run; made if missing. One writer at a time.
        state: named parts, each a nest of plain values, tensors and arrays. Each part gets a file for its
            tensors.
        keep: number of checkpoints to keep, at least 1.

    Returns:
        The folder of the new checkpoint.

    Raises:
        CheckpointError: a part has no exact plain form.
        DiskError: the disk refuses; the message has path and free space.
    """
    files = _to_files(state)
    try:
        root.mkdir(parents=True, exist_ok=True)
        remove_leftovers(root)
        existing = _complete_checkpoints(root)
        number = _number(existing[-1]) + 1 if existing else 1
        final = root / f"checkpoint-{number:08d}"
        temporary = root / f".writing-{final.name}-{os.getpid()}"
        temporary.mkdir()
        for name, content in files.items():
            write_durably(temporary / name, content)
        sync_folder(temporary)
        os.rename(temporary, final)
        sync_folder(root)
        replace_file(root / "latest", f"{final.name}\n".encode())
        for old in [*existing, final][:-keep]:
            _remove_checkpoint(old)
    except OSError as problem:
        free = shutil.disk_usage(root).free if root.exists() else 0
        raise DiskError(
            f"cannot write a checkpoint in {root}: {problem.strerror}; {free} bytes are free. "
            "The last complete checkpoint is untouched."
        ) from problem
    return final


def load_checkpoint(root: Path) -> dict[str, Any]:
    """Read the latest checkpoint of a root folder, or the one whose folder is given.

    Every file is compared with its SHA-256 before any of it is used.

    Returns:
        The parts as they were given to `save_checkpoint`; tensors are on the CPU.

    Raises:
        CheckpointError: none is there, or a file is missing, damaged or not safe to read; names the file.
    """
    folder = root if (root / "manifest.json").exists() else _latest_folder(root)
    manifest = _read_manifest(folder / "manifest.json")
    contents = {name: _read_verified(folder / name, facts) for name, facts in manifest.items()}
    if "state.json" not in contents:
        _refuse(folder / "manifest.json", "does not list state.json")
    trees = parse_json(contents.pop("state.json"), source=str(folder / "state.json"), error=CheckpointError)
    if not isinstance(trees, dict):
        _refuse(folder / "state.json", "is not a JSON object")
    state: dict[str, Any] = {}
    for part, tree in trees.items():
        name = f"{part}.safetensors"
        tensors = _parse_tensors(folder / name, contents.pop(name)) if name in contents else {}
        state[part] = unflatten(tree, tensors)
    return state


def remove_leftovers(root: Path) -> int:
    """Delete what writes that crashed have left in a root folder; return how many things that were."""
    leftovers = [path for path in root.iterdir() if path.name.startswith(_TEMPORARY_PREFIXES)]
    for path in leftovers:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return len(leftovers)


def _to_files(state: Mapping[str, Any]) -> dict[str, bytes]:
    trees: dict[str, Any] = {}
    files: dict[str, bytes] = {}
    for part, value in state.items():
        if not _PART_NAME.fullmatch(part):
            raise CheckpointError(f"{part!r} cannot name a part: use letters, digits, '-' and '_' only.")
        trees[part], tensors = flatten(value)
        if tensors:
            files[f"{part}.safetensors"] = safetensors.torch.save(tensors)
    files["state.json"] = dump_json(trees).encode()
    facts = {name: {"bytes": len(data), "sha256": _sha256(data)} for name, data in files.items()}
    files["manifest.json"] = dump_json({"format": FORMAT, "files": facts}).encode()
    return files


def _latest_folder(root: Path) -> Path:
    pointer = root / "latest"
    if not pointer.is_file():
        raise CheckpointError(f"{root} has no checkpoint: the file 'latest' is missing.")
    name = _read_small(pointer).decode("utf-8", "replace").removesuffix("\n")
    if not _CHECKPOINT_NAME.fullmatch(name):
        _refuse(pointer, f"names {name[:80]!r}, which is not a checkpoint")
    if (root / name).is_symlink():
        _refuse(root / name, "is a symbolic link")
    if not (root / name / "manifest.json").exists():
        _refuse(root / name / "manifest.json", "is missing")
    return root / name


def _read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    content = _read_small(path)
    manifest = parse_json(content, source=str(path), error=CheckpointError)
    # The manifest has no checksum of its own. It has one spelling only, so that no changed byte goes
    # unnoticed.
    try:
        canonical = dump_json({"format": FORMAT, "files": manifest["files"]}).encode()
        well_formed = all(
            set(facts) == {"bytes", "sha256"} and type(facts["bytes"]) is int for facts in manifest["files"].values()
        )
    except (KeyError, TypeError, AttributeError):
        _refuse(path, "does not have the form of a manifest")
    if canonical != content or not well_formed:
        _refuse(path, f"is damaged, or was written in another format than {FORMAT}")
    for name in manifest["files"]:
        if name != "state.json" and not (
            name.endswith(".safetensors") and _PART_NAME.fullmatch(name.removesuffix(".safetensors"))
        ):
            _refuse(path, f"lists {name[:80]!r}, which is not a file of a checkpoint")
    return manifest["files"]


def _read_verified(path: Path, facts: dict[str, Any]) -> bytes:
    if path.is_symlink():
        _refuse(path, "is a symbolic link")
    if not path.is_file():
        _refuse(path, "is missing")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(16)
        if path.suffix == ".safetensors":
            _check_first_bytes(path, start)
        if size != facts["bytes"]:
            _refuse(path, f"has {size} bytes, but {facts['bytes']} were written")
        content = start + file.read(size)
    if _sha256(content) != facts["sha256"]:
        _refuse(path, "does not match its SHA-256: it was changed or damaged after it was written")
    return content


def _check_first_bytes(path: Path, start: bytes) -> None:
    if start[:4] == b"PK\x03\x04":
        _refuse(path, "is a zip archive (as torch.save writes), which can run code when opened; it was not read")
    if start[:1] == b"\x80" and start[8:9] != b"{":
        _refuse(path, "looks like a pickle, which can run code when opened; it was not read")
    header = int.from_bytes(start[:8], "little")
    if start[8:9] != b"{" or header > path.stat().st_size - 8:
        _refuse(path, "is not a safetensors file, or its start is damaged")


def _parse_tensors(path: Path, content: bytes) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(content)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as problem:
        _refuse(path, f"is not a valid safetensors file: {problem}")


def _read_small(path: Path) -> bytes:
    if path.is_symlink() or not path.is_file() or path.stat().st_size > _SMALL_FILE_LIMIT:
        _refuse(path, "is not a small regular file")
    return path.read_bytes()


def _complete_checkpoints(root: Path) -> list[Path]:
    found = [path for path in root.iterdir() if _CHECKPOINT_NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=_number)


def _number(folder: Path) -> int:
    return int(folder.name.removeprefix("checkpoint-"))


def _remove_checkpoint(folder: Path) -> None:
    # Renamed first: a crash in the middle must not leave a folder that looks complete.
    hidden = folder.with_name(f".removing-{folder.name}")
    os.rename(folder, hidden)
    shutil.rmtree(hidden)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _refuse(path: Path, problem: str) -> NoReturn:
    raise CheckpointError(f"{path} {problem}.")
