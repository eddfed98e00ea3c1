"""Files that are on the disk, whole, when the function returns; and reading that opens regular files only."""

import contextlib
import hashlib
import io
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from spnpolicy.base.errors import SpnPolicyError


class FileFacts(NamedTuple):
    """What was written into a file."""

    bytes: int
    """Its size."""
    sha256: str
    """Its SHA-256, in hexadecimal."""


def replace_file(path: Path, content: bytes) -> None:
    """Put `content` under `path` so that a crash leaves either the old content or the new.

    It is written under a hidden name beside it, synced to the disk and renamed; then the folder is synced.
    """
    temporary = path.with_name(f".writing-{path.name}-{os.getpid()}")
    try:
        write_durably(temporary, [content])
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
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_bytes(path: Path) -> int:
    """Return the free space of the disk that holds `path`, or would hold it."""
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return 0


@contextlib.contextmanager
def open_folder(path: Path, *, error: type[SpnPolicyError]) -> Iterator[int]:
    """Open a folder that is not a symbolic link and give its descriptor, for `open_regular`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as problem:
        if path.is_symlink():
            raise error(f"{path} is a symbolic link.") from None
        raise error(f"{path} is missing or not a readable folder: {problem.strerror}.") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_regular(path: Path, *, folder: int | None = None, error: type[SpnPolicyError]) -> io.BufferedReader:
    """Open a file for reading if it is a regular one: no link is followed and no pipe or device waited for.

    Args:
        path: the file.
        folder: descriptor of the folder that holds it, from `open_folder`; with it, nobody can put another
            folder in between.
        error: class of the error to raise.

    Returns:
        The open file. Ask it, not the path, for its size.

    Raises:
        error: it is missing, cannot be read, or is something else than a regular file.
    """
    name = path if folder is None else Path(path.name)
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if stat.S_ISREG(mode):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            file = open(os.open(name, flags, dir_fd=folder), "rb")
            # Asked again: something else may have taken the name in between.
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_ISREG(mode):
                return file
            file.close()
    except FileNotFoundError:
        raise error(f"{path} is missing.") from None
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror}.") from None
    kind = "a symbolic link" if stat.S_ISLNK(mode) else "not a regular file"
    raise error(f"{path} is {kind}; it was not opened.")


def read_small(path: Path, limit: int, *, folder: int | None = None, error: type[SpnPolicyError]) -> bytes:
    """Read a regular file of at most `limit` bytes, see `open_regular`."""
    with open_regular(path, folder=folder, error=error) as file:
        size = os.fstat(file.fileno()).st_size
        content = b"" if size > limit else file.read(limit + 1)
    if max(size, len(content)) > limit:
        raise error(f"{path} has {size} bytes, more than the {limit} that such a file may have.")
    return content
