"""The published competitor: Shih and Ermon's selective circuit, trained by Adam from random starts."""

import math
import time
from collections.abc import Callable, Iterator

import torch

from circuits import Circuit, structures
from factor_q import Factors
from factor_q.variational import bound, terms_of

COPIES = 32
LEARNING_RATE = 0.05
RESTARTS = 5
STALLED_STEPS = 500
"""A restart ends when so many steps gain less than STALLED_GAIN nats."""
STALLED_GAIN = 1e-6
COLDEST = 0.1

Curve = list[tuple[float, float]]


def published_circuit(factors: Factors, copies: int = COPIES) -> Circuit:
    """Return the construction in the given order of the variables."""
    return structures.selective(factors.cardinalities, copies=copies, seed=None)


def train_as_published(
    factors: Factors, circuit: Circuit, *, seconds: float, generator: torch.Generator
) -> tuple[Curve, int]:
    """Return the best bound against time, and the steps made: Adam, rate 0.05, weights from U(0, 1), up to 5 restarts.

    A restart ends when it stalls, so that small models spend the time on the next one.
    """
    return _train(factors, circuit, seconds, generator, restarts=RESTARTS, scale=lambda elapsed: 1.0)


def train_annealed(
    factors: Factors, circuit: Circuit, *, seconds: float, generator: torch.Generator
) -> tuple[Curve, int]:
    """Return the same with the energy raised from a tenth to all of it during the first half of the time; one start."""

    def scale(elapsed: float) -> float:
        return min(1.0, COLDEST + (1.0 - COLDEST) * elapsed / max(1e-9, seconds / 2))

    return _train(factors, circuit, seconds, generator, restarts=1, scale=scale)


def _train(
    factors: Factors,
    circuit: Circuit,
    seconds: float,
    generator: torch.Generator,
    *,
    restarts: int,
    scale: Callable[[float], float],
) -> tuple[Curve, int]:
    """Climb until the time is up. A bound of -inf stays one, because Adam makes no weight zero: it ends the search."""
    begin = time.perf_counter()
    curve: Curve = []
    for _ in range(restarts):
        for found in _climb(factors, circuit, generator, lambda: scale(time.perf_counter() - begin)):
            curve.append((time.perf_counter() - begin, max(found, curve[-1][1] if curve else -math.inf)))
            if found == -math.inf or curve[-1][0] >= seconds:
                return curve, len(curve)
    return curve, len(curve)


def _climb(
    factors: Factors, circuit: Circuit, generator: torch.Generator, scale: Callable[[], float]
) -> Iterator[float]:
    """Yield the bound before each step of one restart, until 500 steps at full energy gain nothing."""
    terms, compiled = terms_of(factors), circuit.compiled
    free = torch.rand(circuit.num_parameters, dtype=torch.float64, generator=generator).log().requires_grad_()
    optimizer = torch.optim.Adam([free], lr=LEARNING_RATE)
    best, before, step = -math.inf, -math.inf, 0
    while step < STALLED_STEPS or best - before >= STALLED_GAIN:
        if step == STALLED_STEPS:
            before, step = best, 0
        share = scale()
        exact, target = bound(compiled, terms, free, share)
        best = max(best, float(exact))
        yield float(exact)
        (free.grad,) = torch.autograd.grad(-target, free)
        optimizer.step()
        step += share == 1.0
