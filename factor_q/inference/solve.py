"""Everything about one model: exactly where that is possible, otherwise between proved bounds."""

import math
import time
from collections.abc import Collection
from dataclasses import replace
from typing import NamedTuple

import torch

from circuits.errors import ImpossibleEvidenceError, NotTractableError, StructureError
from circuits.evidence import EvidenceLike
from factor_q.elimination.ordering import elimination_width, largest_table
from factor_q.factors import Factors
from factor_q.inference.answer import ELIMINATION, Answer, Effort, Fit, LogZ, Marginals, Maximum, Progress
from factor_q.inference.approximation import Approximation, OnProgress
from factor_q.inference.exact import exact_log_partition, exact_marginals, exact_maximum, own_values
from factor_q.temperature import require_factors

QUESTIONS = ("log_z", "maximum", "marginals")


def solve(
    model: Factors,
    evidence: EvidenceLike | None = None,
    *,
    questions: Collection[str] = QUESTIONS,
    effort: Effort | None = None,
    generator: torch.Generator | None = None,
    on_progress: OnProgress | None = None,
) -> Answer:
    """Return log Z, the maximum and the marginals of one model, exact or with certified bounds.

    The exact part is variable elimination, with cutsets where these make it fit. Where it is refused, log Z lies
    between the exact evidence lower bound of a fitted circuit (or the value of one assignment, where that is more) and
    the bound of weighted mini-buckets; the maximum is the best assignment found, beside a proved upper bound; the
    marginals are those of the fitted circuit, an approximation. All bounds hold up to rounding of float64.

    Args:
        model: tables as log-potentials, without a batch; -inf entries are forbidden.
        evidence: what was observed, in any form that `Factors.condition` takes.
        questions: some of `QUESTIONS`. log Z is always worked out, because it says whether anything is possible.
        effort: limits, and what to fit; None for the defaults.
        generator: source of the random starts; torch's global generator when None.
        on_progress: called at the start of each stage and after each iteration.

    Returns:
        The answer. That no assignment is possible is no error: then log Z is -inf.

    Raises:
        StructureError: the model has a batch, an unknown question, or a structure for a model without variables.
        NotTractableError: a table of all values of all variables exceeds `effort.max_entries`, or no circuit of the
            named structure fits the limits.
    Cost: `effort.seconds`, and exact elimination: at most `factor_q.inference.exact.MOST_WORK` entries per question.

    Example:
        >>> import factor_q
        >>> model = factor_q.parse_uai("MARKOV 2 2 2 1 2 0 1 4 1 2 3 4")
        >>> answer = solve(model, {0: 1})
        >>> round(math.exp(answer.log_z.exact), 6), answer.maximum.assignment
        (7.0, [1, 1])
    """
    effort, report = effort or Effort(), on_progress or (lambda progress: None)
    _check(model, questions, effort)
    factors = model.detach().to(dtype=torch.float64)
    if evidence is not None:
        factors = factors.condition(evidence)
    with torch.no_grad():
        exact = _exactly(factors, questions, effort, report)
        found = Approximation(factors, effort, generator, report)
        answer = _impossible(ELIMINATION, exact.seconds) if exact.log_z == -math.inf else _completed(exact, found)
    return replace(answer, width=elimination_width(factors.graph), largest_table=largest_table(factors.graph))


class _Exact(NamedTuple):
    """What elimination has found; None where it was refused, or not asked."""

    log_z: float | None
    seconds: float
    """Those of log Z."""
    maximum: tuple[float, list[int]] | None = None
    marginals: list[list[float]] | None = None
    refused: tuple[str, ...] = ()


def _exactly(factors: Factors, questions: Collection[str], effort: Effort, report: OnProgress) -> _Exact:
    report(Progress("log Z by elimination", None))
    begin = time.monotonic()
    log_z = exact_log_partition(factors, effort.max_entries)
    seconds = time.monotonic() - begin
    if log_z == -math.inf:
        return _Exact(log_z, seconds)
    maximum = marginals = None
    if "maximum" in questions:
        report(Progress("maximum by elimination", None))
        maximum = exact_maximum(factors, effort.max_entries)
    if "marginals" in questions:
        report(Progress("marginals by elimination", None))
        marginals = exact_marginals(factors, effort.max_entries)
    known = {"log_z": log_z, "maximum": maximum, "marginals": marginals}
    asked = {"log_z", *questions}
    refused = tuple(name for name, result in known.items() if result is None and name in asked)
    return _Exact(log_z, seconds, maximum, marginals, refused)


def _completed(exact: _Exact, found: Approximation) -> Answer:
    """Return what is exact, and in place of what was refused bounds and what a fit says."""
    above, how_above = (exact.log_z, ELIMINATION) if exact.log_z is not None else found.upper_bound()
    if above == -math.inf:
        return _impossible(how_above, found.spent)
    needs_search = "maximum" in exact.refused
    if found.is_wanted or "log_z" in exact.refused or "marginals" in exact.refused:
        try:
            found.fit_circuit(needs_search=needs_search)
        except ImpossibleEvidenceError:
            return _impossible(f"exact {found.structure}", found.spent)
    maximum = found.search(above) if needs_search else None
    if exact.maximum is not None:
        value, assignment = exact.maximum
        maximum = Maximum(value, assignment, value, True, ELIMINATION)
    fit = found.report(exact.log_z)
    if exact.log_z is not None and not found.is_wanted:
        log_z = LogZ(exact.log_z, exact.log_z, exact.log_z, ELIMINATION, exact.seconds)
    else:
        log_z = _between(exact, fit, maximum, (above, how_above), found.spent)
    return Answer(log_z, maximum, _marginals(exact, found), fit, refused=exact.refused)


def _between(exact: _Exact, fit: Fit | None, best: Maximum | None, above: tuple[float, str], spent: float) -> LogZ:
    """Return log Z between the bound of the fit, or the value of an assignment where that is more, and above."""
    upper, how_above = above
    lower, how = (fit.lower_bound, f"{fit.circuit} fitted to the model") if fit else (-math.inf, "nothing")
    if exact.log_z is None and best is not None and best.value > lower:
        lower, how = best.value, "the value of the best assignment found"
    seconds = exact.seconds + (spent if exact.log_z is None else 0.0)
    return LogZ(exact.log_z, lower, upper, f"below: {how}; above: {how_above}", seconds)


def _marginals(exact: _Exact, found: Approximation) -> Marginals | None:
    """Return those of the fit if it was asked for or nothing else is known, otherwise the exact ones."""
    if exact.marginals is None and "marginals" not in exact.refused:
        return None
    if exact.marginals is not None and not found.is_wanted:
        return Marginals(exact.marginals, True, ELIMINATION, None)
    fit = found.fit
    if fit is None or float(fit.lower_bound) == -math.inf:
        how = "none found" if exact.marginals is None else ELIMINATION
        return Marginals(exact.marginals, exact.marginals is not None, how, None)
    circuit = fit.distribution.circuit
    values = own_values(fit.distribution.marginals(), circuit.cardinalities)
    error = None
    if exact.marginals is not None:
        pairs = zip(exact.marginals, values, strict=True)
        error = max(abs(p - q) for row, other in pairs for p, q in zip(row, other, strict=True))
    return Marginals(values, False, f"approximate, those of the fitted {circuit.name}", error)


def _impossible(method: str, seconds: float) -> Answer:
    return Answer(LogZ(-math.inf, -math.inf, -math.inf, method, seconds), None, None, None)


def _check(model: Factors, questions: Collection[str], effort: Effort) -> None:
    require_factors(model, "solve")
    cardinalities = model.cardinalities
    if model.batch_shape:
        raise StructureError(f"solve: takes one model, but these have batch shape {tuple(model.batch_shape)}.")
    for question in questions:
        if question not in QUESTIONS:
            raise StructureError(f"solve: {question!r} is not one of {', '.join(QUESTIONS)}.")
    if effort.structure is not None and not cardinalities:
        raise StructureError(f"solve: structure is {effort.structure!r}, but the model has no variables to fit it to.")
    # Evidence and marginals are tables (variables, most values): one variable with many values makes them huge.
    padded = len(cardinalities) * max(cardinalities, default=0)
    if padded > effort.max_entries:
        raise NotTractableError(
            f"solve: {len(cardinalities):,} variables of up to {max(cardinalities):,} values need a table of "
            f"{padded:,} marginals, but max_entries is {effort.max_entries:,}. Raise it if there is memory."
        )
