"""Budget: how large a circuit may be, and how long its fit may take."""

import time
from typing import NamedTuple

import torch

from factor_q.limits import Limits


class Budget(NamedTuple):
    """What a fit may use."""

    labels: int
    max_parameters: int | None
    generator: torch.Generator | None
    limits: Limits
    begin: float
    """When the time began to run, on the monotonic clock."""

    def left(self, share: float = 1.0) -> Limits:
        """Return the limits with the seconds that are left of a share of the time."""
        seconds = self.limits.get("seconds")
        if seconds is None:
            return self.limits
        return Limits(**{**self.limits, "seconds": max(0.0, share * seconds - (time.monotonic() - self.begin))})

    def half(self) -> "Budget":
        """Return the same budget with half of the time that is left."""
        left = self.left()
        if (seconds := left.get("seconds")) is None:
            return self
        return self._replace(limits=Limits(**{**left, "seconds": seconds / 2}), begin=time.monotonic())

    def is_used(self, share: float) -> bool:
        """Return whether a share of the time has passed."""
        return self.left(share).get("seconds") == 0.0
