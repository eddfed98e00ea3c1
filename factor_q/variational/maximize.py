"""Variational inference: the distribution of a circuit's family that comes closest to exp(f / temperature).

One search from given starts, and searches from new starts while there is time.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import NamedTuple, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from circuits import Circuit, CircuitDistribution
from circuits.errors import StructureError
from circuits.numerics import NEGATIVE_INFINITY
from circuits.queries.entropy import require_deterministic
from factor_q.factors import Factors
from factor_q.limits import Limits, Rounds
from factor_q.temperature import Temperature, require_factors, tempered
from factor_q.variational.ascent import METHODS, Method, Point
from factor_q.variational.starts import STARTS
from factor_q.variational.terms import Terms, bound, terms_of

_COLDEST = 0.1
_PATIENCE = 5
"""So many rounds that bring nothing end the search."""

Starts = Sequence[str | Tensor]
"""Names of `STARTS`, or logits (*batch, parameters)."""


class Progress(NamedTuple):
    """How good the search was at some time."""

    seconds: float
    lower_bound: float
    """The best so far, averaged over batch rows, in nats."""


class VariationalFit(NamedTuple):
    """A distribution of the family, and what it proves."""

    distribution: CircuitDistribution
    """In float64, batch shape (*batch)."""
    lower_bound: Float[Tensor, "*batch"]
    """E[f / T] + H in nats: at most log Z, and log Z - lower_bound is the distribution's divergence from the target."""
    steps: int
    """Natural-gradient steps and sweeps, or steps of Adam."""
    converged: bool
    """Whether the last step changed less than the tolerance."""
    history: tuple[Progress, ...]


def maximize_elbo(
    factors: Factors,
    circuit: Circuit,
    *,
    temperature: Temperature = 1.0,
    method: str = "natural_gradient",
    starts: Starts = ("closed_form", "mode", "mean_field", "random"),
    generator: torch.Generator | None = None,
    **limits: Unpack[Limits],
) -> VariationalFit:
    """Maximise the exact evidence lower bound E[f / T] + H over the weights of a deterministic circuit.

    Every start is a row of one batch; each batch row of the factors keeps the best distribution that any start ever
    reached, in float64. Where the circuit can hold exp(f / T), the closed-form start is already exact.

    Args:
        factors: tables of any arity, batch shape (*batch); -inf entries are forbidden.
        circuit: a deterministic circuit over the same variables, for example from `structures.keep_set`.
        temperature: positive and finite; one number, or a tensor that broadcasts to one per batch row.
        method: "natural_gradient" moves all weights at once towards their maximisers, by a step that is halved until
            the bound rises; "coordinate_ascent" maximises over one region after the other, exactly; "adam" follows
            the plain gradient. Where entries are forbidden, coordinate ascent follows: it can add to the support.
        starts: names from `factor_q.variational.STARTS`, repeated as you like (the random ones are annealed),
            or logits of your own, shape (*batch, parameters).
        generator: source of the random starts; torch's global generator when None.
        **limits: `steps` (500, 100 sweeps, or 1000 of Adam), `seconds`, `tolerance` in nats (1e-9), `on_step`.

    Returns:
        The fit. Its lower bound is -inf when no start avoids the forbidden entries.

    Raises:
        NotTractableError: the circuit is not deterministic.
        StructureError: circuit and factors differ in their variables, or an option has an unknown name.
    Cost: a natural step is about five passes over the circuit and the factors, one of Adam three; a sweep is two
        passes for each region.
    Source: this project; the bound is that of Shih and Ermon 2020.

    Example:
        >>> import factor_q, circuits
        >>> f = Factors(factor_q.ring([2] * 6), torch.randn(6, 2).unbind() + torch.randn(6, 2, 2).unbind())
        >>> fit = maximize_elbo(f, circuits.structures.keep_set([2] * 6, f.scopes, labels=4))
        >>> bool(torch.isclose(fit.lower_bound, f.log_partition().double()))
        True
    """
    _check(factors, circuit, method, starts)
    target = tempered(factors.detach().to(dtype=torch.float64), temperature, "maximize_elbo")
    rounds = Rounds(limits, steps=METHODS[method].steps)
    search = _Search(circuit, target, starts, generator)
    with torch.no_grad():
        steps, converged = search.run(METHODS[method], rounds)
        # No mixture of log weights revives a weight of zero; coordinate ascent sets weights anew, so it can.
        if search.terms.forbidden is not None and not rounds.is_over():
            search.drop_all_but_the_best()
            more, converged = search.run(
                METHODS["coordinate_ascent"], rounds.rest(min(METHODS["coordinate_ascent"].steps, rounds.steps - steps))
            )
            steps += more
    logits, best = search.best_rows()
    distribution = CircuitDistribution(circuit, logits.movedim(0, -1), validate_args=False)
    return VariationalFit(distribution, best, steps, converged, tuple(search.history))


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

    Without a limit on seconds there is one round. Each batch row keeps its own best. The target is at temperature 1,
    in float64; `fresh` returns the starts of a later round.
    """
    best = maximize_elbo(target, circuit, starts=starts, generator=budget.generator, **budget.left())
    idle, origin = 0, time.monotonic() - best.history[-1].seconds
    while idle < _PATIENCE and budget.left().get("seconds"):
        shift = time.monotonic() - origin
        other = maximize_elbo(target, circuit, starts=fresh(), generator=budget.generator, **budget.left())
        # Relative: the last digits of a large bound are rounding and no rise.
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


def _check(factors: Factors, circuit: Circuit, method: str, starts: Starts) -> None:
    require_factors(factors, "maximize_elbo")
    if not isinstance(circuit, Circuit):
        raise StructureError(f"maximize_elbo takes a Circuit to fit, not a {type(circuit).__name__}.")
    if tuple(circuit.cardinalities) != factors.cardinalities:
        raise StructureError(
            f"maximize_elbo: the factors are about variables with cardinalities {factors.cardinalities}, the circuit "
            f"has {circuit.cardinalities}."
        )
    if method not in METHODS:
        raise StructureError(f"maximize_elbo: the method {method!r} is not one of {', '.join(METHODS)}.")
    unknown = [name for name in starts if isinstance(name, str) and name not in STARTS]
    if unknown or not starts:
        raise StructureError(f"maximize_elbo: starts are some of {', '.join(STARTS)}, not {unknown or 'none'}.")
    blank = CircuitDistribution(circuit, torch.zeros(circuit.num_parameters), validate_args=False)
    require_deterministic(blank, "maximize_elbo", "whose entropy is exact")


class _Search:
    """All starts side by side, in one batch axis in front of the factors' own; keeps the best of each."""

    def __init__(self, circuit: Circuit, target: Factors, starts: Starts, generator: torch.Generator | None) -> None:
        self._begin = time.monotonic()
        self.compiled = circuit.compiled
        terms = terms_of(target)
        forbidden = None if terms.forbidden is None else terms.forbidden.unsqueeze(1)
        self.terms = Terms(terms.scopes, terms.finite.unsqueeze(1), forbidden)
        with torch.no_grad():
            self.best_logits = torch.stack([self._start(start, target, generator) for start in starts], 1)
            self.best = bound(self.compiled, self.terms, self.best_logits)[0]
        self.history = [self._progress()]
        first = [_COLDEST if isinstance(start, str) and start == "random" else 1.0 for start in starts]
        self._first_scale = target.flat.new_tensor(first).reshape(-1, *(1,) * len(target.batch_shape))

    def _start(self, start: str | Tensor, target: Factors, generator: torch.Generator | None) -> Tensor:
        if isinstance(start, str):
            return STARTS[start](self.compiled, target, generator)
        return start.detach().to(dtype=target.dtype, device=target.device).movedim(-1, 0).contiguous()

    def run(self, method: Method, rounds: Rounds) -> tuple[int, bool]:
        """Ascend from the best so far until the limits; returns the steps made and whether nothing changes any more."""
        anneals = method.annealed if bool((self._first_scale < 1).any()) else 0
        ascent = method.ascend(self.compiled, self.terms, self.best_logits, self._scales(anneals))
        previous = torch.full_like(self.best, NEGATIVE_INFINITY)
        step = 0
        for step in rounds:
            found = self._next_bound(ascent, rounds)
            self.history.append(self._progress())
            rounds.report(step, self.best.amax(0))
            if found is None:
                break
            # While the energy grows the target moves, so standing still means nothing yet.
            still = (found == previous) | ((found - previous).abs() <= rounds.tolerance)
            if method.settles and step > anneals and bool(still.all()):
                return step, True
            previous = found
        return step, False

    def drop_all_but_the_best(self) -> None:
        """Go on with one start per batch row."""
        logits, best = self.best_rows()
        self.best_logits, self.best = logits.unsqueeze(1), best.unsqueeze(0)
        self._first_scale = torch.ones_like(self._first_scale[:1])

    def best_rows(self) -> tuple[Tensor, Tensor]:
        """Return for each batch row the best start's logits (parameters, *batch) and bound (*batch)."""
        best, which = self.best.max(0)
        return self.best_logits.take_along_dim(which[None, None], 1).squeeze(1), best

    def _scales(self, steps: int) -> Iterator[Tensor]:
        """Yield the energy's scale for each step: annealed starts reach all of it after `steps`."""
        for step in count():
            share = min(1.0, step / steps) if steps else 1.0
            yield self._first_scale + (1.0 - self._first_scale) * share

    def _next_bound(self, ascent: Iterator[Point], rounds: Rounds) -> Tensor | None:
        """Ascend until a bound is known and note it; None when time is up in the middle of a sweep."""
        for logits, found in ascent:
            if found is None and rounds.is_over():
                found = bound(self.compiled, self.terms, logits)[0]
                self._note(logits, found)
                return None
            if found is not None:
                self._note(logits, found)
                return found
        return None

    def _note(self, logits: Tensor, found: Tensor) -> None:
        better = found > self.best
        self.best_logits = torch.where(better, logits, self.best_logits)
        self.best = torch.where(better, found, self.best)

    def _progress(self) -> Progress:
        best = self.best.amax(0)
        return Progress(time.monotonic() - self._begin, float(best.mean()) if best.numel() else math.nan)
