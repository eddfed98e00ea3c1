"""Answers about a UAI model, in words and as JSON."""

import math
import platform
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from factor_q import Factors
from factor_q.inference import Answer, Fit, LogZ, Marginals, Maximum, exact

Evidence = Mapping[int, int]
"""Variable -> observed value."""
_NAMES = {"log_z": "log Z", "maximum": "MAP"}
"""What the text calls some of the questions."""
_SHOWN_VARIABLES = 20
_SHOWN_ASSIGNMENT = 200
_FULL_ROW = 8
"""Variables with more values show only the likeliest three."""
_LINE = 110
_ROUNDED_AWAY = 5e-5
"""Probabilities closer to 0 or 1 would look certain with four decimals."""


def answer_json(path: Path, model: Factors, evidence: Evidence, answer: Answer) -> dict[str, Any]:
    """Return the answer as JSON values; infinities are words, because JSON has no numbers for them."""
    found = asdict(answer)
    content = {
        "file": str(path),
        "variables": len(model.cardinalities),
        "cardinalities": list(model.cardinalities),
        "factors": model.graph.num_factors,
        "width": answer.width,
        "evidence": {str(variable): value for variable, value in evidence.items()},
        "log_z": found["log_z"],
        "map": found["maximum"],
        "marginals": found["marginals"],
        "fit": found["fit"],
        "versions": {
            "spnpolicy": version("spnpolicy"),
            "torch": version("torch"),
            "python": platform.python_version(),
        },
    }
    return _finite(content)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and math.isinf(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value


def answer_text(
    path: Path, model: Factors, evidence: Evidence, answer: Answer, *, max_entries: int, show_all: bool
) -> str:
    """Return the answer in words.

    Args:
        path: the file of the model.
        model: its tables.
        evidence: what was observed.
        answer: what was found.
        max_entries: table entries that exact elimination might hold at once.
        show_all: leave no variable out.
    """
    parts = [_header(path, model, evidence, answer, max_entries), _log_z(answer.log_z)]
    if answer.is_impossible:
        parts.append(
            ["every assignment that agrees with the evidence is forbidden: there is no maximum and no distribution"]
        )
    if answer.fit is not None:
        parts.append(_fit(answer.fit))
    if answer.maximum is not None:
        parts.append(_best(answer.maximum, answer.log_z, show_all))
    if answer.marginals is not None:
        parts.append(_marginals(evidence, answer.marginals, show_all))
    if answer.refused:
        parts.append(_limits(max_entries, answer.refused))
    return "\n\n".join("\n".join(part) for part in parts)


def probability(value: float) -> str:
    """Return a probability with four decimals; what these would round to certainty says that it is not certain."""
    if value in (0.0, 1.0):
        return f"{value:.0f}"
    if value < _ROUNDED_AWAY:
        return f"{value:.0e}"
    return ">0.9999" if 1.0 - value < _ROUNDED_AWAY else f"{value:.4f}"


def _header(path: Path, model: Factors, evidence: Evidence, answer: Answer, max_entries: int) -> list[str]:
    cardinalities = model.cardinalities
    fewest, most = min(cardinalities, default=0), max(cardinalities, default=0)
    each = f"of {most} values" if fewest == most else f"of {fewest} to {most} values"
    observed = f"{len(evidence):,} observed" if evidence else "nothing observed"
    largest = f"largest table {_count(answer.largest_table)} entries; limit {max_entries:,} at once"
    return [
        f"file       {path}",
        f"variables  {len(cardinalities):,} {each}",
        f"factors    {model.graph.num_factors:,}",
        f"evidence   {observed}",
        f"width      {answer.width} ({largest})",
    ]


def _log_z(log_z: LogZ) -> list[str]:
    if log_z.exact is not None:
        return [
            f"log Z = {log_z.exact:.10f} nats (log10 Z = {log_z.exact / math.log(10):.10f}), exact",
            f"  by {log_z.method}, {log_z.seconds:.2f} s",
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


def _best(best: Maximum, log_z: LogZ, show_all: bool) -> list[str]:
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


def _marginals(evidence: Evidence, marginals: Marginals, show_all: bool) -> list[str]:
    if marginals.values is None:
        return ["marginals: none, because the fit found no distribution that avoids what is forbidden"]
    error = "" if marginals.largest_error is None else f"; at most {marginals.largest_error:.2g} from the exact ones"
    title = f"marginals: {'exact, by ' if marginals.is_exact else ''}{marginals.method}{error}"
    shown = marginals.values if show_all else marginals.values[:_SHOWN_VARIABLES]
    left = len(marginals.values) - len(shown)
    more = [f"  ... and {left:,} more variables (--all shows all)"] if left else []
    return [title, "  variable  likeliest  probability  probabilities", *_rows(evidence, shown), *more]


def _limits(max_entries: int, refused: Sequence[str]) -> list[str]:
    names = ", ".join(_NAMES.get(name, name) for name in refused)
    return [
        f"not exact: {names}. Exact elimination would be beyond its limits, of which --max-entries can be raised:",
        f"  {max_entries:,} table entries at once (--max-entries), {exact.MOST_WORK:,} in all, and "
        f"{exact.MOST_ASSIGNMENTS:,} assignments of fixed variables",
    ]


def _rows(evidence: Evidence, rows: Sequence[Sequence[float]]) -> Iterator[str]:
    for variable, row in enumerate(rows):
        if variable in evidence:
            yield f"  {variable:8}  {evidence[variable]:9}     observed"
            continue
        order = sorted(range(len(row)), key=lambda value: -row[value])
        first = f"  {variable:8}  {order[0]:9}  {probability(row[order[0]]):>11}  "
        if len(row) <= _FULL_ROW:
            yield first + " ".join(f"{probability(value):<7}" for value in row).rstrip()
        else:
            yield first + ", ".join(f"{value}: {probability(row[value])}" for value in order[:3]) + ", ..."


def _count(number: int) -> str:
    return f"{number:,}" if number < 10**12 else f"about 10^{math.log10(number):.0f}"
