"""Restarts: climb again from new random starts, as long as there is time and it brings something."""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from circuits import Circuit, CircuitDistribution
from factor_q.factors import Factors
from factor_q.variational.budget import Budget
from factor_q.variational.maximize import Progress, VariationalFit, maximize_elbo

_PATIENCE = 5
"""So many rounds that bring nothing end the search."""


Starts = Sequence[str | Tensor]


def climb_with_restarts(
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
