"""What is checked, or found a name for, before anything is written: files, folders, devices, optional packages."""

from itertools import count
from pathlib import Path

from spnpolicy.cli.options import UsageError


def first_free(path: Path) -> Path:
    """Return `path`, or path-2, path-3, ... if that is taken."""
    candidates = (path if number == 1 else path.with_name(f"{path.name}-{number}") for number in count(1))
    return next(candidate for candidate in candidates if not candidate.exists())


def check_new_file(flag: str, path: Path | None, suffix: str) -> None:
    """Refuse a file that exists, has another ending or lies in no folder; None is fine.

    Raises:
        UsageError: it cannot be written as a new file.
    """
    if path is None:
        return
    if path.suffix.lower() != suffix:
        raise UsageError(f"{flag} is {str(path)!r}, but must end in {suffix}.")
    if path.exists():
        raise UsageError(f"{flag}: {path} exists; choose another name or remove it.")
    if not path.parent.is_dir():
        raise UsageError(f"{flag}: there is no folder {path.parent}.")


def checked_device(name: str) -> str:
    """Return the name of a device that is present; "auto" stands for a GPU where there is one.

    Args:
        name: auto, cpu, cuda or cuda:N.

    Raises:
        UsageError: there is no such device here; the message names those there are.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if count else "cpu"
    present = ["cpu", *(["cuda"] if count else []), *(f"cuda:{number}" for number in range(count))]
    if name not in present:
        none = "" if count else "; torch sees no GPU here"
        raise UsageError(f"--device is {name[:60]!r}, but must be one of auto, {', '.join(present)}{none}.")
    return name
