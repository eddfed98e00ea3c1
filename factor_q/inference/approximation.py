"""What can be said where exact inference is refused; everything shares one limit of time."""

import math
import time
from collections.abc import Callable

import torch

from factor_q.approximate import max_plus, mini_bucket_maximum, weighted_mini_bucket
from factor_q.factors import Factors
from factor_q.inference.answer import Effort, Fit, Maximum, Progress
from factor_q.variational import VariationalFit, fit_structure

DEFAULT_STRUCTURE = "auto"
"""What is fitted where exact elimination is refused and no structure was named."""
_SHARE_ABOVE, _SHARE_FIT = 0.3, 0.8
"""Of the time left: for the upper bound, and then for the fit where an assignment is still to be searched."""
_LEAST_ENTRIES, _TIGHTENED_ENTRIES = 2**12, 2**16
"""Of a mini-bucket: fewer save nothing, and with more a step of tightening takes long."""
_TIGHTENING_STEPS = 300

OnProgress = Callable[[Progress], None]


class Approximation:
    """Bounds, a fit and a search, begun when this is made and ended by `effort.seconds`."""

    def __init__(
        self, factors: Factors, effort: Effort, generator: torch.Generator | None, on_progress: OnProgress
    ) -> None:
        self._factors, self._effort, self._generator, self._on_progress = factors, effort, generator, on_progress
        self._begin = time.monotonic()
        self._fit_seconds = 0.0
        self.fit: VariationalFit | None = None
        self.is_wanted = effort.structure is not None
        """Whether a fit was asked for by name, whatever else is known."""
        self.structure = effort.structure or DEFAULT_STRUCTURE

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._begin

    def upper_bound(self) -> tuple[float, str]:
        """Return an upper bound of log Z and how it was found: from large tables once, from small ones tightened."""
        entries = self._mini_bucket_entries
        small = min(_TIGHTENED_ENTRIES, max(_LEAST_ENTRIES, entries // 4))
        seconds = self._share(_SHARE_ABOVE)
        on_step = self._stage("upper bound of log Z", seconds)
        wide = float(weighted_mini_bucket(self._factors, max_entries=entries).upper_bound)
        tight = weighted_mini_bucket(
            self._factors, max_entries=small, steps=_TIGHTENING_STEPS, seconds=seconds, on_step=on_step
        )
        method = "weighted mini-buckets of at most {:,} entries, {:,} steps"
        if wide <= (bound := float(tight.upper_bound)):
            return wide, method.format(entries, 0)
        return bound, method.format(small, tight.steps)

    def fit_circuit(self, *, needs_search: bool) -> None:
        """Fit the named structure or the default one, leaving time for a search of the maximum if that is needed."""
        effort, begin = self._effort, time.monotonic()
        seconds = self._share(_SHARE_FIT if needs_search else 1.0)
        self.fit = fit_structure(
            self._factors,
            self.structure,
            labels=effort.labels,
            max_parameters=effort.max_parameters,
            seconds=seconds,
            generator=self._generator,
            on_step=self._stage(f"fitting {self.structure}", seconds),
        )
        self._fit_seconds = time.monotonic() - begin

    def search(self, log_z_at_most: float) -> Maximum:
        """Return the best assignment that max-plus finds, starting from the most probable one of the fit."""
        start = None if self.fit is None else self.fit.distribution.map()[0]
        seconds = self._share(1.0)
        on_step = self._stage("search of the maximum", seconds)
        found = max_plus(self._factors, start=start, generator=self._generator, seconds=seconds, on_step=on_step)
        above = float(mini_bucket_maximum(self._factors, max_entries=self._mini_bucket_entries))
        value = float(found.value)
        # One term of the sum is at most the sum.
        upper = min(above, log_z_at_most)
        method = f"max-plus, {found.steps:,} steps"
        return Maximum(value, found.assignment.tolist() if value > -math.inf else None, upper, False, method)

    def report(self, exact: float | None) -> Fit | None:
        """Return the facts about the fit, None when there was none; `exact` is log Z where it is known."""
        if self.fit is None:
            return None
        bound = float(self.fit.lower_bound)
        circuit = self.fit.distribution.circuit
        return Fit(
            self.structure,
            circuit.name,
            self._effort.labels,
            circuit.num_parameters,
            self.fit.steps,
            self.fit.converged,
            self._fit_seconds,
            bound,
            None if exact is None else exact - bound,
        )

    @property
    def _mini_bucket_entries(self) -> int:
        """So many that all messages together take about as much as exact elimination may."""
        return max(_LEAST_ENTRIES, self._effort.max_entries // max(1, self._factors.graph.num_variables))

    def _share(self, share: float) -> float:
        return max(0.0, self._effort.seconds - self.spent) * share

    def _stage(self, name: str, seconds: float) -> Callable[[int, float], None]:
        """Announce a stage and return what its iterations call."""
        self._on_progress(Progress(name, seconds))
        return lambda step, value: self._on_progress(Progress(name, seconds, step, value))
