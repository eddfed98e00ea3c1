"""Variational inference: the distribution of a circuit's family that comes closest to exp(f / temperature)."""

import math
import time
from collections.abc import Iterator, Sequence
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
from factor_q.queries.temperature import Temperature, tempered
from factor_q.variational.climb import Point, adam, regions_of, sweeps
from factor_q.variational.starts import STARTS
from factor_q.variational.terms import bound, terms_of

_COLDEST = 0.1
_ANNEALED_SWEEPS = 6
_ADAM_STEPS = 1000
_MOST_REGIONS = 100


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
    """Sweeps over all regions, or steps of Adam."""
    converged: bool
    """Whether the last sweep changed less than the tolerance."""
    history: tuple[Progress, ...]


def maximize_elbo(
    factors: Factors,
    circuit: Circuit,
    *,
    temperature: Temperature = 1.0,
    method: str = "auto",
    starts: Sequence[str] = ("closed_form", "mean_field", "random"),
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
        method: "sweeps" maximises over one region after the other, exactly; "adam" steps along the exact gradient;
            "auto" takes sweeps for circuits of at most 100 regions, where a sweep is cheap.
        starts: names from `factor_q.variational.STARTS`; the random one is annealed.
        generator: source of the random starts; torch's global generator when None.
        **limits: `steps` (100 sweeps, or 1000 steps of Adam), `seconds`, `tolerance` in nats (1e-9), `on_step`.

    Returns:
        The fit. Its lower bound is -inf when no start avoids the forbidden entries.

    Raises:
        NotTractableError: the circuit is not deterministic.
        StructureError: circuit and factors differ in their variables, or an option has an unknown name.
    Cost: a step of Adam is two passes over the circuit and the factors; a sweep is that for each region.
    Source: this project; the bound is that of Shih and Ermon 2020.

    Example:
        >>> import factor_q, circuits
        >>> f = Factors(factor_q.ring([2] * 6), torch.randn(6, 2).unbind() + torch.randn(6, 2, 2).unbind())
        >>> fit = maximize_elbo(f, circuits.structures.keep_set([2] * 6, f.scopes, labels=4))
        >>> bool(torch.isclose(fit.lower_bound, f.log_partition().double()))
        True
    """
    _check(factors, circuit, method, starts)
    if method == "auto":
        method = "sweeps" if len(regions_of(circuit.compiled)) <= _MOST_REGIONS else "adam"
    rounds = Rounds(limits, steps=100 if method == "sweeps" else _ADAM_STEPS)
    target = tempered(factors.detach().to(dtype=torch.float64), temperature, "maximize_elbo")
    search = _Search(circuit, target, starts, generator)
    with torch.no_grad():
        steps, converged = search.run(method, rounds)
    logits, best = search.best_rows()
    distribution = CircuitDistribution(circuit, logits.movedim(0, -1), validate_args=False)
    return VariationalFit(distribution, best, steps, converged, tuple(search.history))


def _check(factors: Factors, circuit: Circuit, method: str, starts: Sequence[str]) -> None:
    if tuple(circuit.cardinalities) != factors.cardinalities:
        raise StructureError(
            f"maximize_elbo: the factors are about variables with cardinalities {factors.cardinalities}, the circuit "
            f"has {circuit.cardinalities}."
        )
    if method not in ("auto", "sweeps", "adam"):
        raise StructureError(f"maximize_elbo: the method {method!r} is not 'auto', 'sweeps' or 'adam'.")
    unknown = [name for name in starts if name not in STARTS]
    if unknown or not starts:
        raise StructureError(f"maximize_elbo: starts are some of {', '.join(STARTS)}, not {unknown or 'none'}.")
    blank = CircuitDistribution(circuit, torch.zeros(circuit.num_parameters), validate_args=False)
    require_deterministic(blank, "maximize_elbo", "whose entropy is exact")


class _Search:
    """All starts side by side, in one batch axis in front of the factors' own; keeps the best of each."""

    def __init__(
        self, circuit: Circuit, target: Factors, starts: Sequence[str], generator: torch.Generator | None
    ) -> None:
        self._begin = time.monotonic()
        self.compiled = circuit.compiled
        terms = terms_of(target)
        wide = (None if part is None else part.unsqueeze(1) for part in (terms.finite, terms.forbidden))
        self.terms = terms._replace(**dict(zip(("finite", "forbidden"), wide, strict=True)))
        with torch.no_grad():
            self.logits = torch.stack([STARTS[name](self.compiled, target, generator) for name in starts], 1)
            self.best = bound(self.compiled, self.terms, self.logits)[0]
        self.best_logits = self.logits
        self.history = [self._progress()]
        one_per_start = torch.tensor([_COLDEST if name == "random" else 1.0 for name in starts], dtype=target.dtype)
        self._first_scale = one_per_start.reshape(-1, *(1,) * len(target.batch_shape)).to(target.device)

    def run(self, method: str, rounds: Rounds) -> tuple[int, bool]:
        """Climb until the limits; returns the steps made and whether nothing changes any more."""
        if method == "sweeps":
            climb = sweeps(self.compiled, self.terms, self.logits, self._scales(_ANNEALED_SWEEPS))
        else:
            scales = self._scales(rounds.steps // 2)
            climb = adam(self.compiled, self.terms, self.logits, scales, learning_rate=0.05)
        previous = torch.full_like(self.best, NEGATIVE_INFINITY)
        step = 0
        for step in rounds:
            found = self._next_bound(climb, rounds)
            self.history.append(self._progress())
            rounds.report(step, self.best.amax(0))
            if found is None:
                break
            still = (found == previous) | ((found - previous).abs() <= rounds.tolerance)
            if method == "sweeps" and step > _ANNEALED_SWEEPS * self._anneals and bool(still.all()):
                return step, True
            previous = found
        return step, False

    def best_rows(self) -> tuple[Tensor, Tensor]:
        """Return for each batch row the best start's logits (parameters, *batch) and bound (*batch)."""
        best, which = self.best.max(0)
        index = which.expand(1, self.best_logits.shape[0], *which.shape).movedim(0, 1)
        return self.best_logits.gather(1, index).squeeze(1), best

    @property
    def _anneals(self) -> bool:
        return bool((self._first_scale < 1).any())

    def _scales(self, steps: int) -> Iterator[Tensor]:
        """Yield the energy's scale for each step: annealed starts reach all of it after `steps`."""
        step = 0
        while True:
            share = min(1.0, step / max(1, steps))
            yield self._first_scale + (1.0 - self._first_scale) * share
            step += 1

    def _next_bound(self, climb: Iterator[Point], rounds: Rounds) -> Tensor | None:
        """Climb until a bound is known and note it; None when time is up in the middle of a sweep."""
        for logits, found in climb:
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
