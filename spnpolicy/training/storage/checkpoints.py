"""Checkpoints that survive a crash at any moment and run no code when read.

A root folder holds one folder per checkpoint and a small file with the name of the newest complete one:

    checkpoint-00000007/<part>.safetensors    the tensors of one part, such as `algorithm`
    checkpoint-00000007/state.json            everything else, see `state_tree`
    checkpoint-00000007/manifest.json         size and SHA-256 of each of the other files
    latest                                    the name of the folder and the SHA-256 of its manifest
    best-00000003/..., best                   the same for the best policy so far

Folders are written under a hidden name, synced to the disk and renamed, so a visible folder is complete.
Nothing is ever unpickled: a file that looks like a pickle or a torch archive is refused by its first bytes.
No symbolic link is followed inside a root folder and nothing but regular files is opened.
"""

import contextlib
import hashlib
import logging
import math
import os
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn

from torch import Tensor

from circuits.files import FileFacts, replace_file, sync_folder, write_durably
from spnpolicy.base.decoding import require
from spnpolicy.base.errors import CheckpointError, DiskError
from spnpolicy.base.files import free_bytes, open_folder, open_regular, read_small
from spnpolicy.base.strict_json import MAX_CONTAINERS, dump_json, is_too_crowded, parse_json
from spnpolicy.training.storage.state_tree import flatten, unflatten
from spnpolicy.training.storage.tensor_files import read_tensors, tensor_pieces

FORMAT = 1
MAX_STATE = 4 << 20
"""Longest state.json in bytes; tensors and arrays are not part of it. To parse it takes less than 200 MB."""
_FOLDER_NAME = re.compile(r"(checkpoint|best)-([0-9]{8,12})")
_POINTER = re.compile(rb"((?:checkpoint|best)-[0-9]{8,12}) ([0-9a-f]{64})\n")
_PART_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_TEMPORARY_PREFIXES = (".writing-", ".removing-")
_SMALL_FILE_LIMIT = 1 << 16
_KIND = {"latest": "checkpoint", "best": "best"}

_log = logging.getLogger(__name__)


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
        DiskError: the disk refuses; the message has path and free space. Nothing of the new checkpoint is left.
    """
    require(keep >= 1, "keep", keep, "at least 1")
    return _save(root, state, "latest", keep)


def save_best(root: Path, state: Mapping[str, Any], score: float, step: int) -> Path:
    """Write the best policy so far in place of the one before, as safely as `save_checkpoint`.

    Args:
        root: folder of all checkpoints of the run.
        state: the parts that acting needs.
        score: what makes it the best; larger is better. It is saved as `state["best"]["score"]`.
        step: env steps of training it has seen, saved as `state["best"]["step"]`.

    Returns:
        The folder of the new best.

    Raises:
        CheckpointError: a part has no exact plain form, is called "best", or the score is nan.
        DiskError: as in `save_checkpoint`.
    """
    if math.isnan(score) or "best" in state:
        raise CheckpointError("cannot save the best: its score must not be nan, and no part may be called 'best'.")
    return _save(root, {**state, "best": {"score": float(score), "step": int(step)}}, "best", 1)


def load_checkpoint(
    root: Path, which: Literal["latest", "best"] = "latest", *, parts: Collection[str] | None = None
) -> dict[str, Any]:
    """Read the latest checkpoint of a root folder, or its best, or the one whose folder is given.

    Every file is compared with its SHA-256 before any of it is used. A damaged checkpoint is never replaced by an
    older one without asking: the message says what to remove to have the newest whole one. Where the file `latest` is
    lost, there is nothing that says which one was meant, and the newest whole one is taken, with a warning.

    Args:
        root: folder of all checkpoints of a run, or of one of them.
        which: the latest, or the best.
        parts: the parts to read, of those there are; None for all.

    Returns:
        The parts as they were given to `save_checkpoint`; tensors are on the CPU.

    Raises:
        CheckpointError: none is there, or a file is missing, damaged or not safe to read; names the file.
    """
    if os.path.lexists(root / "manifest.json"):
        return _load_folder(root, None, parts)
    if which == "latest" and not os.path.lexists(root / "latest") and complete_checkpoints(root):
        return _load_newest_whole(root, parts)
    try:
        name, digest = _read_pointer(root / which)
        return _load_folder(root / name, digest, parts)
    except CheckpointError as problem:
        raise CheckpointError(f"{problem}{_way_out(root, which)}") from None


def complete_checkpoints(root: Path) -> list[Path]:
    """Return the folders of the checkpoints in a root folder, oldest first; `load_checkpoint` reads each.

    They were complete when they got their names; that no byte has changed since is seen only on reading.
    """
    return _folders(root, "checkpoint") if root.is_dir() else []


def remove_leftovers(root: Path) -> int:
    """Delete what writes that crashed have left in a root folder; return how many things that were."""
    leftovers = [path for path in root.iterdir() if path.name.startswith(_TEMPORARY_PREFIXES)]
    for path in leftovers:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return len(leftovers)


def _save(root: Path, state: Mapping[str, Any], pointer: str, keep: int) -> Path:
    state_json, tensors = _take_apart(state)
    kind = _KIND[pointer]
    final = temporary = root
    try:
        root.mkdir(parents=True, exist_ok=True)
        remove_leftovers(root)
        final = root / f"{kind}-{_next_number(root, kind):08d}"
        temporary = root / f".writing-{final.name}-{os.getpid()}"
        # The order is what survives a crash: files, their folder's names, the folder's own name, and only then the
        # pointer, which so never names what is not wholly on the disk.
        temporary.mkdir()
        digest = _write_files(temporary, state_json, tensors)
        os.rename(temporary, final)
        sync_folder(root)
        replace_file(root / pointer, f"{final.name} {digest}\n".encode())
    except BaseException as problem:
        _discard(root / pointer, final, temporary)
        if not isinstance(problem, OSError):
            raise
        raise DiskError(
            f"cannot write a checkpoint in {root}: {problem.strerror}; {free_bytes(root)} bytes are free. "
            "The last complete checkpoint is untouched."
        ) from problem
    # The new checkpoint is safe now. An old one that cannot be removed is tried again by the next save.
    with contextlib.suppress(OSError):
        for old in _folders(root, kind)[:-keep]:
            _remove_folder(old)
    return final


def _take_apart(state: Mapping[str, Any]) -> tuple[bytes, dict[str, dict[str, Tensor]]]:
    trees: dict[str, Any] = {}
    tensors: dict[str, dict[str, Tensor]] = {}
    for part, value in state.items():
        if not _PART_NAME.fullmatch(part):
            raise CheckpointError(f"{part!r} cannot name a part: use letters, digits, '-' and '_' only.")
        trees[part], found = flatten(value)
        if found:
            tensors[f"{part}.safetensors"] = found
    try:
        state_json = dump_json(trees, compact=True).encode()
    except ValueError as problem:
        raise CheckpointError(f"cannot save the state: {problem}.") from None
    if len(state_json) > MAX_STATE or is_too_crowded(state_json):
        raise CheckpointError(
            f"cannot save the state: without tensors it has {len(state_json)} bytes, but may have {MAX_STATE} and "
            f"{MAX_CONTAINERS} lists and objects. Put long lists of numbers into arrays."
        )
    return state_json, tensors


def _write_files(folder: Path, state_json: bytes, tensors: dict[str, dict[str, Tensor]]) -> str:
    """Write the files of a checkpoint and return the SHA-256 of its manifest."""
    facts = {name: write_durably(folder / name, tensor_pieces(found)) for name, found in tensors.items()}
    facts["state.json"] = write_durably(folder / "state.json", [state_json])
    files = {name: fact._asdict() for name, fact in facts.items()}
    manifest = write_durably(folder / "manifest.json", [dump_json({"format": FORMAT, "files": files}).encode()])
    sync_folder(folder)
    return manifest.sha256


def _discard(pointer: Path, final: Path, temporary: Path) -> None:
    """Remove what a save that failed has written, unless the pointer names it already."""
    if final == pointer.parent:
        return
    shutil.rmtree(temporary, ignore_errors=True)
    with contextlib.suppress(OSError, CheckpointError):
        if final.is_dir() and (not pointer.exists() or _read_pointer(pointer)[0] != final.name):
            _remove_folder(final)


def _read_pointer(path: Path) -> tuple[str, str]:
    if not os.path.lexists(path):
        raise CheckpointError(f"{path.parent} has no checkpoint: the file {path.name!r} is missing.")
    content = read_small(path, _SMALL_FILE_LIMIT, error=CheckpointError)
    match = _POINTER.fullmatch(content)
    name = match[1].decode() if match else ""
    if not match or not name.startswith(_KIND[path.name]):
        _refuse(path, f"holds {content[:30]!r}, which is not the name of a checkpoint and its SHA-256")
    return name, match[2].decode()


def _load_newest_whole(root: Path, parts: Collection[str] | None) -> dict[str, Any]:
    """Read the newest checkpoint that is whole, where the file that names the latest is lost."""
    problems: list[str] = []
    for folder in reversed(complete_checkpoints(root)):
        try:
            state = _load_folder(folder, None, parts)
        except CheckpointError as problem:
            problems.append(str(problem))
            continue
        _log.warning("%s is missing; the newest whole checkpoint is taken, %s.", root / "latest", folder.name)
        return state
    raise CheckpointError(f"{root} has no whole checkpoint, and the file 'latest' is missing: {problems[0]}")


def _load_folder(folder: Path, digest: str | None, parts: Collection[str] | None = None) -> dict[str, Any]:
    with open_folder(folder, error=CheckpointError) as descriptor:
        manifest = _read_manifest(folder / "manifest.json", descriptor, digest)
        for name in os.listdir(descriptor):
            # Hidden files are the marks of file systems and desktops; they are not opened.
            if name not in manifest and name != "manifest.json" and not name.startswith("."):
                _refuse(folder / ascii(name)[1:-1][:80], "is not listed in manifest.json: it was put there later")
        trees = _read_trees(folder / "state.json", descriptor, manifest.pop("state.json"))
        state: dict[str, Any] = {}
        for part, tree in trees.items():
            path, tensors = folder / f"{part}.safetensors", {}
            facts = manifest.pop(path.name, None)
            if parts is not None and part not in parts:
                continue
            if facts is not None:
                with open_regular(path, folder=descriptor, error=CheckpointError) as file:
                    tensors = read_tensors(file, path, facts)
            try:
                state[part] = unflatten(tree, tensors)
            except CheckpointError as problem:
                _refuse(folder / "state.json", f"does not fit {path.name}: {str(problem).removesuffix('.')}")
    for name in manifest:
        _refuse(folder / name, "belongs to no part in state.json")
    return state


def _read_manifest(path: Path, folder: int, digest: str | None) -> dict[str, FileFacts]:
    content = read_small(path, _SMALL_FILE_LIMIT, folder=folder, error=CheckpointError)
    if digest is not None and hashlib.sha256(content).hexdigest() != digest:
        _refuse(path, "does not match the SHA-256 in the file that names this checkpoint: one of them was changed")
    manifest = parse_json(content, source=str(path), error=CheckpointError)
    # Who reads a folder directly has no checksum for the manifest. It has one spelling only, so that no changed
    # byte goes unnoticed.
    try:
        canonical = dump_json({"format": FORMAT, "files": manifest["files"]}).encode()
        facts = {name: FileFacts(**entry) for name, entry in manifest["files"].items()}
        well_formed = all(type(fact.bytes) is int and type(fact.sha256) is str for fact in facts.values())
    except (KeyError, TypeError, AttributeError, ValueError):
        _refuse(path, "does not have the form of a manifest")
    if canonical != content or not well_formed:
        _refuse(path, f"is damaged, or was written in another format than {FORMAT}")
    for name in facts:
        if name != "state.json" and not (
            name.endswith(".safetensors") and _PART_NAME.fullmatch(name.removesuffix(".safetensors"))
        ):
            _refuse(path, f"lists {name[:80]!a}, which is not a file of a checkpoint")
    if "state.json" not in facts:
        _refuse(path, "does not list state.json")
    return facts


def _read_trees(path: Path, folder: int, facts: FileFacts) -> dict[str, Any]:
    content = read_small(path, MAX_STATE, folder=folder, error=CheckpointError)
    if len(content) != facts.bytes:
        _refuse(path, f"has {len(content)} bytes, but {facts.bytes} were written")
    if hashlib.sha256(content).hexdigest() != facts.sha256:
        _refuse(path, "does not match its SHA-256: it was changed or damaged after it was written")
    if is_too_crowded(content):
        _refuse(path, "has too many lists and objects")
    trees = parse_json(content, source=str(path), error=CheckpointError)
    if not isinstance(trees, dict):
        _refuse(path, "is not a JSON object")
    for part in trees:
        if not _PART_NAME.fullmatch(part):
            _refuse(path, f"has a part with the impossible name {part[:80]!a}")
    return trees


def _way_out(root: Path, which: str) -> str:
    """Return a sentence that says how to read the newest whole checkpoint, empty if there is none."""
    for folder in reversed(complete_checkpoints(root)):
        with contextlib.suppress(CheckpointError):
            _load_folder(folder, None)
            remedy = f"remove {root / which} to have it taken" if which == "latest" else "ask for the latest one"
            return f" The checkpoint {folder.name} is whole: {remedy}."
    return ""


def _folders(root: Path, kind: str) -> list[Path]:
    found = [path for path in root.iterdir() if path.is_dir() and not path.is_symlink()]
    return sorted((path for path in found if _number(path, kind) > 0), key=lambda path: _number(path, kind))


def _next_number(root: Path, kind: str) -> int:
    number = 1 + max((_number(path, kind) for path in root.iterdir()), default=0)
    if number >= 10**12:
        raise CheckpointError(f"cannot save another checkpoint in {root}: its number would have 13 digits.")
    return number


def _number(path: Path, kind: str) -> int:
    match = _FOLDER_NAME.fullmatch(path.name)
    return int(match[2]) if match and match[1] == kind else 0


def _remove_folder(folder: Path) -> None:
    # Renamed first: a crash in the middle must not leave a folder that looks complete.
    hidden = folder.with_name(f".removing-{folder.name}")
    os.rename(folder, hidden)
    shutil.rmtree(hidden)


def _refuse(path: Path, problem: str) -> NoReturn:
    raise CheckpointError(f"{path} {problem}.")
