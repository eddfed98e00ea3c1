"""A text file that only grows, and that a full disk cannot stop a run with: what does not fit waits in memory."""

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from spnpolicy.base.errors import CheckpointError

_log = logging.getLogger(__name__)


class AppendOnlyFile:
    """Appends to a file, which is made with the first text.

    When the disk refuses, one warning is logged and the text is kept, in order, until a later attempt succeeds.
    """

    def __init__(self, path: Path):
        self.path = path
        self._waiting = b""
        self._descriptor: int | None = None
        self._has_warned = False

    def write(self, text: str) -> None:
        """Append a text; it is with the operating system when this returns, unless the disk refuses."""
        self._waiting += text.encode()
        self._write_waiting()

    def is_empty(self) -> bool:
        """Return whether nothing has been written yet."""
        return not self._waiting and not self._content()

    def state_dict(self) -> dict[str, Any]:
        """Return how many lines the file has, which are then on the disk, and what is still waiting.

        Lines, not bytes: two runs that are the same but for times then have the same state.
        """
        self._write_waiting()
        if self._descriptor is not None:
            os.fsync(self._descriptor)
        content = self._content()
        # A line of which the disk took only a part is kept as a whole: loading cuts that part off.
        waiting = content[content.rfind(b"\n") + 1 :] + self._waiting
        return {"lines": content.count(b"\n"), "waiting": np.frombuffer(waiting, np.uint8).copy()}

    def check(self, state: dict[str, Any]) -> None:
        """Refuse what `state_dict` returned if some of the file has been lost since, see `check_lines`."""
        check_lines(self.path, self._content().count(b"\n"), state["lines"])

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Cut off what was appended since `state_dict` returned this."""
        self.close()
        self._waiting = state["waiting"].tobytes()
        content = self._content()
        lines = content.splitlines(keepends=True)
        kept = sum(map(len, lines[: state["lines"]]))
        if kept < len(content):
            os.truncate(self.path, kept)

    def close(self) -> None:
        """Close the file after a last attempt to write what is waiting."""
        self._write_waiting()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _content(self) -> bytes:
        return self.path.read_bytes() if self.path.exists() else b""

    def _write_waiting(self) -> None:
        try:
            while self._waiting:
                if self._descriptor is None:
                    self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
                # A full disk may take a part; the rest then waits, so that no line is written twice or torn for good.
                self._waiting = self._waiting[os.write(self._descriptor, self._waiting) :]
        except OSError as problem:
            if not self._has_warned:
                self._has_warned = True
                _log.warning("cannot write %s: %s. Its lines are kept in memory and tried again.", self.path, problem)


def check_lines(path: Path, count: int, before: int) -> None:
    """Refuse a file that has fewer whole lines than it had when a checkpoint was written.

    Raises:
        CheckpointError: some are lost; the message says how many.
    """
    if count < before:
        raise CheckpointError(
            f"{path} has {count:,} lines, but had {before:,} at the checkpoint: some of it is lost. Put it back, or "
            "begin a new run with --config."
        )
