"""Files that are on the disk, whole, when the function returns: what every writer ends with."""

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple


class FileFacts(NamedTuple):
    """What was written into a file."""

    bytes: int
    """Its size."""
    sha256: str
    """Its SHA-256, in hexadecimal."""


def replace_file(path: Path, content: bytes) -> None:
    """Put `content` under `path` so that a crash leaves either the old content or the new."""
    with replacing(path) as temporary:
        write_durably(temporary, [content])


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a hidden name beside `path` to write and sync a file under; when the block ends well it becomes `path`."""
    temporary = path.with_name(f".writing-{path.name}-{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def write_durably(path: Path, pieces: Iterable[bytes | memoryview]) -> FileFacts:
    """Write a new file piece by piece and wait until it is on the disk.

    Args:
        path: the file; what is there is overwritten.
        pieces: its content, each piece a row of bytes. No more than one of them has to exist at a time.

    Returns:
        Size and SHA-256 of all pieces together.
    """
    digest, size = hashlib.sha256(), 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        for piece in pieces:
            view = memoryview(piece)
            digest.update(view)
            size += len(view)
            # A nearly full disk takes a part of what it is given and refuses the rest only when asked again.
            while len(view):
                view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return FileFacts(size, digest.hexdigest())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk: a new one must survive a power cut too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
