"""The answer of `spnpolicy infer` in words."""

import math
import textwrap
from collections.abc import Iterator, Sequence

from spnpolicy.cli.infer_exact import MOST_ASSIGNMENTS, MOST_WORK
from spnpolicy.cli.infer_question import Question
from spnpolicy.cli.infer_results import ELIMINATION, Answer, Best, Fit, LogZ, Marginals

_SHOWN_VARIABLES = 20
_SHOWN_ASSIGNMENT = 200
_FULL_ROW = 8
"""Variables with more values show only the likeliest three."""
_LINE = 110
_ROUNDED_AWAY = 5e-5
"""Probabilities closer to 0 or 1 would look certain with four decimals."""


def in_words(question: Question, answer: Answer, *, show_all: bool) -> str:
    """Return the whole text; `show_all` leaves no variable out."""
    parts = [_header(question), _log_z(answer.log_z)]
    if answer.is_impossible:
        parts.append(
            ["every assignment that agrees with the evidence is forbidden: there is no maximum and no distribution"]
        )
    if answer.fit is not None:
        parts.append(_fit(answer.fit))
    if answer.best is not None:
        parts.append(_best(answer.best, answer.log_z, show_all))
    if answer.marginals is not None:
        parts.append(_marginals(question, answer.marginals, show_all))
    if answer.refused:
        parts.append(_limits(question, answer.refused))
    return "\n\n".join("\n".join(part) for part in parts)


def probability(value: float) -> str:
    """Return a probability with four decimals; what these would round to certainty says that it is not certain."""
    if value in (0.0, 1.0):
        return f"{value:.0f}"
    if value < _ROUNDED_AWAY:
        return f"{value:.0e}"
    return ">0.9999" if 1.0 - value < _ROUNDED_AWAY else f"{value:.4f}"


def _header(question: Question) -> list[str]:
    cardinalities = question.factors.cardinalities
    fewest, most = min(cardinalities, default=0), max(cardinalities, default=0)
    each = f"of {most} values" if fewest == most else f"of {fewest} to {most} values"
    observed = f"{len(question.evidence):,} observed" if question.evidence else "nothing observed"
    largest = f"largest table {_count(question.largest_table)} entries; limit {question.max_entries:,} at once"
    return [
        f"file       {question.path}",
        f"variables  {len(cardinalities):,} {each}",
        f"factors    {question.num_factors:,}",
        f"evidence   {observed}",
        f"width      {question.width} ({largest})",
    ]


def _log_z(log_z: LogZ) -> list[str]:
    if log_z.exact is not None:
        return [
            f"log Z = {log_z.exact:.10f} nats (log10 Z = {log_z.exact / math.log(10):.10f}), exact",
            f"  by {ELIMINATION}, {log_z.seconds:.2f} s",
        ]
    lower, upper = log_z.lower, log_z.upper
    decimal = f"[{lower / math.log(10):.10f}, {upper / math.log(10):.10f}]"
    return [
        f"log Z in [{lower:.10f}, {upper:.10f}] nats (log10 Z in {decimal}), certified bounds",
        f"  {log_z.method}; {log_z.seconds:.2f} s",
    ]


def _fit(fit: Fit) -> list[str]:
    end = "converged" if fit.converged else "not converged"
    gap = "" if fit.gap is None else f"; {fit.gap:.3g} below the exact log Z"
    return [
        f"fit: log Z >= {fit.lower_bound:.10f} nats, certified{gap}",
        f"  by {fit.circuit}: {fit.parameters:,} parameters, {fit.steps:,} steps, {end}, {fit.seconds:.2f} s",
    ]


def _best(best: Best, log_z: LogZ, show_all: bool) -> list[str]:
    if best.assignment is None:
        return [f"MAP: no allowed assignment found; no value is above {best.upper:.10f} nats", f"  by {best.method}"]
    if best.is_exact:
        chance = "" if log_z.exact is None else f"; its probability is {math.exp(best.value - log_z.exact):.4g}"
        title = f"MAP: value {best.value:.10f} nats, exact{chance}"
    else:
        title = f"MAP: best assignment found, value {best.value:.10f} nats; the maximum is at most {best.upper:.10f}"
    shown = best.assignment if show_all else best.assignment[:_SHOWN_ASSIGNMENT]
    left = len(best.assignment) - len(shown)
    more = [f"  ... and {left:,} more (--all shows all)"] if left else []
    values = textwrap.wrap(" ".join(map(str, shown)), _LINE, initial_indent="  ", subsequent_indent="  ")
    return [title, f"  by {best.method}; values of variables 0, 1, ...:", *values, *more]


def _marginals(question: Question, marginals: Marginals, show_all: bool) -> list[str]:
    if marginals.values is None:
        return ["marginals: none, because the fit found no distribution that avoids what is forbidden"]
    error = "" if marginals.largest_error is None else f"; at most {marginals.largest_error:.2g} from the exact ones"
    title = f"marginals: {'exact, by ' if marginals.is_exact else ''}{marginals.method}{error}"
    shown = marginals.values if show_all else marginals.values[:_SHOWN_VARIABLES]
    left = len(marginals.values) - len(shown)
    more = [f"  ... and {left:,} more variables (--all shows all)"] if left else []
    return [title, "  variable  likeliest  probability  probabilities", *_rows(question, shown), *more]


def _limits(question: Question, refused: Sequence[str]) -> list[str]:
    return [
        f"not exact: {', '.join(refused)}. Exact elimination would be beyond its limits, of which --max-entries can be "
        "raised:",
        f"  {question.max_entries:,} table entries at once (--max-entries), {MOST_WORK:,} in all, and "
        f"{MOST_ASSIGNMENTS:,} assignments of fixed variables",
    ]


def _rows(question: Question, rows: Sequence[Sequence[float]]) -> Iterator[str]:
    for variable, row in enumerate(rows):
        if variable in question.evidence:
            yield f"  {variable:8}  {question.evidence[variable]:9}     observed"
            continue
        order = sorted(range(len(row)), key=lambda value: -row[value])
        first = f"  {variable:8}  {order[0]:9}  {probability(row[order[0]]):>11}  "
        if len(row) <= _FULL_ROW:
            yield first + " ".join(f"{probability(value):<7}" for value in row).rstrip()
        else:
            yield first + ", ".join(f"{value}: {probability(row[value])}" for value in order[:3]) + ", ..."


def _count(number: int) -> str:
    return f"{number:,}" if number < 10**12 else f"about 10^{math.log10(number):.0f}"
