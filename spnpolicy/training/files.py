"""Files that are on the disk, whole, when the function returns."""

import os
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Put `content` under `path` so that a crash leaves either the old content or the new.

    It is written under a hidden name beside it, synced to the disk and renamed; then the folder is synced.
    """
    temporary = path.with_name(f".writing-{path.name}-{os.getpid()}")
    write_durably(temporary, content)
    os.replace(temporary, path)
    sync_folder(path.parent)


def write_durably(path: Path, content: bytes) -> None:
    """Write a new file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
