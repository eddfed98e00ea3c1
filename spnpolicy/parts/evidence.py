"""Evidence: how much a learner has understood of its task, from the data that it learns from."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from spnpolicy.base.distributed import mean
from spnpolicy.data.protocol import Batch, Window

MEMORY = 0.98
"""Share of what was known that is kept in an update."""


class Evidence:
    """A number in [0, 1], smoothed over updates: the share of successes times the share of variance explained.

    Neither says much alone. Values that are nearly constant explain themselves, and an easy task is solved by chance;
    but where episodes end well and the critic knows which of them will, there is less to be found out by chance.
    Single transitions do not say how episodes end: there, what the critic explains counts alone.
    """

    def __init__(self) -> None:
        self.success, self.explained = 0.0, 0.0
        self._knows_success = False

    @property
    def value(self) -> float:
        """The evidence now."""
        return self.explained * (self.success if self._knows_success else 1.0)

    def observe(self, batch: Batch, target_t: Float[Tensor, "*batch"], error: float) -> None:
        """Count one update in.

        Args:
            batch: what was learned from.
            target_t: what the critic should have known.
            error: mean squared error of its values.
        """
        counts = slice(None) if batch.valid is None else batch.valid
        variance = float(target_t[counts].var(correction=0))
        explained = min(max(1.0 - error / variance, 0.0), 1.0) if variance > 0.0 else 0.0
        ended, paid = 0.0, 0.0
        if isinstance(batch, Window):
            assert batch.ended is not None, "a window has all fields"
            over = batch.ended[counts]
            ended = float(over.sum())
            paid = float((over & batch.terminated[counts] & (batch.reward.mean(-1)[counts] > 0.0)).sum())
        explained, ended, paid = mean(explained, ended, paid)
        self.explained = MEMORY * self.explained + (1.0 - MEMORY) * explained
        if ended > 0.0:
            self._knows_success = True
            self.success = MEMORY * self.success + (1.0 - MEMORY) * paid / ended

    def state_dict(self) -> dict[str, Any]:
        """Return what was seen."""
        return {"success": self.success, "explained": self.explained, "knows_success": self._knows_success}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.success, self.explained = state["success"], state["explained"]
        self._knows_success = state["knows_success"]
