"""All that `spnpolicy infer` finds out about a model: exactly where that is possible, otherwise between bounds."""

import math
import time

import torch

from factor_q import (
    Factors,
    ImpossibleEvidenceError,
    VariationalFit,
    fit_structure,
    max_plus,
    mini_bucket_maximum,
    weighted_mini_bucket,
)
from spnpolicy.cli.infer_exact import exact_log_partition, exact_marginals, exact_maximum, own_values
from spnpolicy.cli.infer_flags import DEFAULT_STRUCTURE
from spnpolicy.cli.infer_progress import InferenceProgress
from spnpolicy.cli.infer_results import ELIMINATION, Answer, Best, Effort, Fit, LogZ, Marginals

_SHARE_ABOVE, _SHARE_FIT = 0.3, 0.8
"""Of the time left: for the upper bound, and then for the fit where an assignment is still to be searched."""
_LEAST_ENTRIES, _TIGHTENED_ENTRIES = 2**12, 2**16
"""Of a mini-bucket: fewer save nothing, and with more a step of tightening takes long."""
_TIGHTENING_STEPS = 300


def find_answer(factors: Factors, effort: Effort, progress: InferenceProgress) -> Answer:
    """Work out everything, the exact parts first.

    Args:
        factors: one model in float64, given its evidence.
        effort: limits.
        progress: is told about every stage.

    Raises:
        NotTractableError: no circuit of the named structure fits the limits.
    """
    progress.stage("log Z by elimination")
    begin = time.monotonic()
    exact = exact_log_partition(factors, effort.max_entries)
    if exact == -math.inf:
        return _impossible(ELIMINATION, time.monotonic() - begin)
    seconds = time.monotonic() - begin
    progress.stage("maximum by elimination")
    best = exact_maximum(factors, effort.max_entries)
    progress.stage("marginals by elimination")
    marginals = exact_marginals(factors, effort.max_entries)
    found = _Approximation(factors, effort, progress)
    above, how_above = (exact, "") if exact is not None else found.upper_bound()
    if above == -math.inf:
        return _impossible(how_above, found.spent)
    if effort.structure is not None or exact is None or marginals is None:
        try:
            found.fit_circuit(needs_search=best is None)
        except ImpossibleEvidenceError:
            return _impossible(f"exact {found.structure}", found.spent)
    where = Best(*best, best[0], True, ELIMINATION) if best else found.search(above)
    log_z = LogZ(exact, exact, exact, ELIMINATION, seconds) if exact is not None else None
    fit = found.fitted(exact)
    if log_z is None or (effort.structure is not None and fit is not None):
        spent = found.spent if exact is None else 0.0
        log_z = _between(exact, fit, where, (above, how_above), seconds + spent)
    exactly = {"log Z": exact, "MAP": best, "marginals": marginals}
    refused = tuple(name for name, result in exactly.items() if result is None)
    return Answer(log_z, where, _shown_marginals(marginals, found, effort), fit, refused)


class _Approximation:
    """What can be said where exact inference is refused; all of it shares one limit of time."""

    def __init__(self, factors: Factors, effort: Effort, progress: InferenceProgress) -> None:
        self._factors, self._effort, self._progress = factors, effort, progress
        self._begin = time.monotonic()
        self._generator = torch.Generator().manual_seed(effort.seed)
        self._fit_seconds = 0.0
        self.fit: VariationalFit | None = None

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._begin

    def upper_bound(self) -> tuple[float, str]:
        """Return an upper bound of log Z and how it was found: from large tables once, from small ones tightened."""
        entries = self._mini_bucket_entries
        small = min(_TIGHTENED_ENTRIES, max(_LEAST_ENTRIES, entries // 4))
        seconds = self._share(_SHARE_ABOVE)
        self._progress.stage("upper bound of log Z", seconds)
        wide = float(weighted_mini_bucket(self._factors, max_entries=entries).upper_bound)
        tight = weighted_mini_bucket(
            self._factors,
            max_entries=small,
            steps=_TIGHTENING_STEPS,
            seconds=seconds,
            on_step=self._progress.step,
        )
        method = "weighted mini-buckets of at most {:,} entries, {:,} steps"
        if wide <= (bound := float(tight.upper_bound)):
            return wide, method.format(entries, 0)
        return bound, method.format(small, tight.steps)

    def fit_circuit(self, *, needs_search: bool) -> None:
        """Fit the named structure or the default one, leaving time for a search of the maximum if that is needed."""
        effort, begin = self._effort, time.monotonic()
        seconds = self._share(_SHARE_FIT if needs_search else 1.0)
        self._progress.stage(f"fitting {self.structure}", seconds)
        self.fit = fit_structure(
            self._factors,
            self.structure,
            labels=effort.labels,
            max_parameters=effort.max_parameters,
            seconds=seconds,
            generator=self._generator,
            on_step=self._progress.step,
        )
        self._fit_seconds = time.monotonic() - begin

    def search(self, log_z_at_most: float) -> Best:
        """Return the best assignment that max-plus finds, starting from the most probable one of the fit."""
        start = None if self.fit is None else self.fit.distribution.map()[0]
        seconds = self._share(1.0)
        self._progress.stage("search of the maximum", seconds)
        found = max_plus(
            self._factors, start=start, generator=self._generator, seconds=seconds, on_step=self._progress.step
        )
        above = float(mini_bucket_maximum(self._factors, max_entries=self._mini_bucket_entries))
        value = float(found.value)
        # One term of the sum is at most the sum.
        upper = min(above, log_z_at_most)
        method = f"max-plus, {found.steps:,} steps"
        return Best(value, found.assignment.tolist() if value > -math.inf else None, upper, False, method)

    def fitted(self, exact: float | None) -> Fit | None:
        """Return the report on the fit, None when there was none."""
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
    def structure(self) -> str:
        """What is fitted."""
        return self._effort.structure or DEFAULT_STRUCTURE

    @property
    def _mini_bucket_entries(self) -> int:
        """So many that all messages together take about as much as exact elimination may."""
        return max(_LEAST_ENTRIES, self._effort.max_entries // max(1, self._factors.graph.num_variables))

    def _share(self, share: float) -> float:
        return max(0.0, self._effort.seconds - self.spent) * share


def _impossible(method: str, seconds: float) -> Answer:
    return Answer(LogZ(-math.inf, -math.inf, -math.inf, method, seconds), None, None, None)


def _between(exact: float | None, fit: Fit | None, best: Best, above: tuple[float, str], seconds: float) -> LogZ:
    """Return log Z between the bound of the fit, or the value of an assignment where that is more, and above."""
    upper, how_above = above
    lower, how = (fit.lower_bound, f"{fit.circuit} fitted to the model") if fit else (-math.inf, "nothing")
    if exact is None and best.value > lower:
        lower, how = best.value, "the value of the best assignment found"
    return LogZ(exact, lower, upper, f"below: {how}; above: {how_above or ELIMINATION}", seconds)


def _shown_marginals(exact: list[list[float]] | None, found: _Approximation, effort: Effort) -> Marginals:
    """Return those of the fit if it was asked for or nothing else is known, otherwise the exact ones."""
    if exact is not None and effort.structure is None:
        return Marginals(exact, True, ELIMINATION, None)
    fit = found.fit
    if fit is None or float(fit.lower_bound) == -math.inf:
        return Marginals(exact, exact is not None, ELIMINATION if exact else "none found", None)
    circuit = fit.distribution.circuit
    method = f"approximate, those of the fitted {circuit.name}"
    values = own_values(fit.distribution.marginals(), circuit.cardinalities)
    error = None
    if exact is not None:
        pairs = zip(exact, values, strict=True)
        error = max(abs(p - q) for row, other in pairs for p, q in zip(row, other, strict=True))
    return Marginals(values, False, method, error)
