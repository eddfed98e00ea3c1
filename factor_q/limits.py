"""Limits: how long an iterative approximation may work, and who is told about it."""

import time
from collections.abc import Callable, Iterator
from typing import TypedDict

from torch import Tensor

from circuits.errors import StructureError


class Limits(TypedDict, total=False):
    """Options that every iterative approximation of this folder takes by keyword."""

    steps: int
    """Most iterations."""
    seconds: float | None
    """Stop starting iterations after this much wall-clock time; at least one is always made."""
    tolerance: float
    """An iteration that changes less than this has converged."""
    on_step: Callable[[int, float], None] | None
    """Called after each iteration with its number and the current value, averaged over batch rows."""


class Rounds:
    """The iterations 1, 2, ... that the limits allow.

    Args:
        limits: what the caller asked for.
        steps: most iterations when the caller did not say.
        tolerance: likewise.

    Raises:
        TypeError: an option has an unknown name.
        StructureError: steps is negative, or seconds or tolerance is.
    """

    def __init__(self, limits: Limits, *, steps: int, tolerance: float = 1e-9) -> None:
        unknown = sorted(set(limits) - set(Limits.__annotations__))
        if unknown:
            raise TypeError(f"unexpected option {unknown[0]!r}; the limits are {', '.join(Limits.__annotations__)}.")
        self.steps = limits.get("steps", steps)
        self.tolerance = limits.get("tolerance", tolerance)
        self._seconds = limits.get("seconds")
        self._on_step = limits.get("on_step")
        self._begin = time.monotonic()
        if self.steps < 0 or self.tolerance < 0 or (self._seconds is not None and self._seconds < 0):
            raise StructureError(
                f"limits: steps is {self.steps}, tolerance {self.tolerance}, seconds {self._seconds}; "
                "none may be negative."
            )

    def __iter__(self) -> Iterator[int]:
        for step in range(1, self.steps + 1):
            if step > 1 and self.is_over():
                return
            yield step

    def is_over(self) -> bool:
        """Return whether the seconds are used up."""
        return self._seconds is not None and time.monotonic() - self._begin >= self._seconds

    def rest(self, steps: int) -> "Rounds":
        """Return limits for another method: its own number of steps, in the time that is left."""
        left = None if self._seconds is None else max(0.0, self._seconds - (time.monotonic() - self._begin))
        return Rounds(Limits(tolerance=self.tolerance, seconds=left, on_step=self._on_step), steps=steps)

    def report(self, step: int, values: Tensor) -> None:
        """Tell the caller the number of the iteration and the mean value."""
        if self._on_step is not None:
            self._on_step(step, float(values.detach().mean()) if values.numel() else 0.0)
