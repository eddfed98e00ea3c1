"""What environments give and algorithms take, and where it is kept."""

from importlib import import_module
from typing import Any

_HOME = {"Batch": "protocol", "store_for": "stores"}

__all__ = ["Batch", "store_for"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    # Looked up late: the environments' half of this room does without torch, which takes seconds to import.
    if name not in _HOME:
        raise AttributeError(f"module 'spnpolicy.data' has no attribute {name!r}")
    return getattr(import_module(f"spnpolicy.data.{_HOME[name]}"), name)
