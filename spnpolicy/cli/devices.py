"""The device that a command runs on, checked before anything is written."""

import torch

from spnpolicy.cli.options import UsageError


def checked_device(name: str) -> str:
    """Return the name of a device that is present; "auto" stands for a GPU where there is one.

    Args:
        name: auto, cpu, cuda or cuda:N.

    Raises:
        UsageError: there is no such device here; the message names those there are.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if count else "cpu"
    present = ["cpu", *(["cuda"] if count else []), *(f"cuda:{number}" for number in range(count))]
    if name not in present:
        none = "" if count else "; torch sees no GPU here"
        raise UsageError(f"--device is {name[:60]!r}, but must be one of auto, {', '.join(present)}{none}.")
    return name
