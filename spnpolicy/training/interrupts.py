"""Ctrl-C and SIGTERM as a polite request: finish the iteration, save, leave. A second one insists."""

import signal
import threading
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Catches stop signals: the first only sets `requested`, the second raises KeyboardInterrupt.

    Stopping in the middle of a gradient step would save parameters that match no optimiser state. In a thread
    other than the main one Python has no signals, and the block does nothing.
    """

    def __init__(self):
        self.requested = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
