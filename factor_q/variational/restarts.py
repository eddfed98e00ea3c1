"""Restarts: how large a circuit may be and how long its fit may take, and new starts while there is time."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from circuits import Circuit, CircuitDistribution
from factor_q.factors import Factors
from factor_q.limits import Limits
from factor_q.variational.maximize import Progress, VariationalFit, maximize_elbo

_PATIENCE = 5
"""So many rounds that bring nothing end the search."""

Starts = Sequence[str | Tensor]


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


def maximize_with_restarts(
    target: Factors,
    circuit: Circuit,
    starts: Starts,
    budget: Budget,
    *,
    fresh: Callable[[], Starts] = lambda: ("mean_field", "random"),
) -> VariationalFit:
    """Maximise the bound from the given starts, then from new random ones until five rounds bring nothing.

    Without a limit on seconds there is one round. Each batch row keeps its own best.

    Args:
        target: factors at temperature 1, float64.
        circuit: a deterministic circuit.
        starts: of the first round.
        budget: what is left of the time, and the source of random starts.
        fresh: returns the starts of a later round.
    """
    best = maximize_elbo(target, circuit, starts=starts, generator=budget.generator, **budget.left())
    idle, origin = 0, time.monotonic() - best.history[-1].seconds
    while idle < _PATIENCE and budget.left().get("seconds"):
        shift = time.monotonic() - origin
        other = maximize_elbo(target, circuit, starts=fresh(), generator=budget.generator, **budget.left())
        rises = bool((other.lower_bound > best.lower_bound + 1e-9 * best.lower_bound.abs().clamp(min=1.0)).any())
        idle = 0 if rises else idle + 1
        best = _merged(best, other, shift)
    return best


def _merged(first: VariationalFit, second: VariationalFit, shift: float) -> VariationalFit:
    """Return for each batch row the better fit; the history goes on."""
    better = second.lower_bound > first.lower_bound
    logits = torch.where(better.unsqueeze(-1), second.distribution.logits, first.distribution.logits)
    value = torch.maximum(first.lower_bound, second.lower_bound)
    distribution = CircuitDistribution(first.distribution.circuit, logits, validate_args=False)
    now = Progress(shift + second.history[-1].seconds, float(value.mean()))
    converged = second.converged if bool(better.any()) else first.converged
    return VariationalFit(distribution, value, first.steps + second.steps, converged, (*first.history, now))
