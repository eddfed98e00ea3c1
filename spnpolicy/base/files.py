"""Folders that are new or locked, files that are regular or refused, JSON that is whole or as it was."""

import contextlib
import fcntl
import io
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from circuits.files import replace_file
from spnpolicy.base.errors import ConfigError, SpnPolicyError
from spnpolicy.base.strict_json import dump_json


def free_bytes(path: Path) -> int:
    """Return the free space of the disk that holds `path`, or would hold it."""
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return 0


def checked_path(what: str, path: str | Path) -> Path:
    """Return a path that somebody has given as one, or as text; `what` says what it should lead to.

    Raises:
        ConfigError: it is something else.
    """
    if not isinstance(path, str | Path):
        raise ConfigError(f"{path!r} is not {what}: give its path, such as 'runs/x'.")
    return Path(path)


def make_new_folder(folder: Path) -> None:
    """Make a folder, or take an empty one.

    Raises:
        ConfigError: something is there already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "exists and is not empty" if folder.is_dir() else "is a file"
        raise ConfigError(f"{folder} {what}: choose another --out or remove it.")
    folder.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def locked(path: Path, *, way_out: str) -> Iterator[None]:
    """Keep the folder of a file to this process for the block.

    Raises:
        ConfigError: another process is at work there; the message ends with the way out.
    """
    with path.open("rb") as file:
        try:
            # The system drops this lock when the process ends, however it ends.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another process is at work in {path.parent}; wait for it or {way_out}.") from None
        yield


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


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file so that a crash leaves either the old content or the new, never a part of it."""
    replace_file(path, dump_json(value).encode())
