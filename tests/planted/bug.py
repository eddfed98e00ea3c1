"""What a planted bug is."""

from typing import NamedTuple


class Bug(NamedTuple):
    """A mistake that somebody could make in one place, and the tests that must notice."""

    name: str
    file: str
    """Path from the root of the checkout."""
    old: str
    """A piece of the source that occurs once in the file."""
    new: str
    """What stands there instead while the bug is planted."""
    tests: tuple[str, ...]
    """Arguments of pytest: the narrowest files or tests that should fail."""
