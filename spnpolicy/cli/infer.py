"""`spnpolicy infer`: log Z, marginals and the most probable assignment of a UAI model."""

import argparse
import json
import math
import platform
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spnpolicy.cli.command import FILE, Command, add_json, add_threads, offer
from spnpolicy.cli.failures import IMPOSSIBLE
from spnpolicy.cli.options import CommandLine, Parser, known_name, parse_value, whole_number

if TYPE_CHECKING:
    from factor_q import Factors
    from factor_q.inference import Answer, Fit, LogZ, Marginals, Maximum

STRUCTURES = (
    "auto", "keep_set", "thin_junction_tree", "clique_tree", "mean_field", "markov_chain", "tree", "selective",
    "decision_diagram", "cutset",
)  # fmt: skip
"""Names for --structure: those of `factor_q.variational.FITTED_STRUCTURES`, which cannot be imported here."""
MAX_ENTRIES = 2**26
"""Default of --max-entries: that of exact elimination in factor_q."""
_MOST_SECONDS = 10_000_000
_NAMES = {"log_z": "log Z", "maximum": "MAP"}
"""What the text calls some of the questions."""
_SHOWN_VARIABLES = 20
_SHOWN_ASSIGNMENT = 200
_FULL_ROW = 8
"""Variables with more values show only the likeliest three."""
_LINE = 110
_ROUNDED_AWAY = 5e-5
"""Probabilities closer to 0 or 1 would look certain with four decimals."""

_DESCRIPTION = """\
The model is a product of tables over discrete variables, observed ones held at their values.

what the numbers mean
  log Z          natural log of the sum of that product over all assignments that agree with the evidence. For a
                 Bayesian network this is log P(evidence).
  MAP            the assignment where the product is largest; its value is the log of the product there.
  marginals      probability of each value of each variable, given the evidence.
  width          how many other variables a table depends on, at most, when variables are summed out one by one.
  nats           natural logarithms; log10 Z is beside them.

exact or bounded
  Everything is exact where elimination stays within --max-entries table entries held at once (8 bytes each) and 2^34
  entries made in all. Where that helps, a few variables are fixed to one of at most 1,024 assignments after the other.
  Otherwise log Z comes as [lower, upper]. Both are proved, up to rounding of float64: the lower one is the exact
  evidence lower bound of a circuit fitted to the model (without --structure the better of a keep_set and a thin
  junction tree), or the value of one assignment where that is more; the upper one is by weighted mini-buckets.
  Marginals are then those of the fitted circuit, an approximation, and MAP is the best assignment found, with a proved
  upper bound of the maximum.
  With --structure the fit is made in any case; beside its lower bound stand the exact log Z and the gap between the
  two, where exact elimination is possible, and the marginals are those of the fit.
  Where the time limit ends a fit, another run may end at another point: only then can numbers differ between runs.

files
  MODEL.uai      MARKOV or BAYES; number of variables; their numbers of values; number of tables; for each table its
                 number of variables and which; for each table its number of entries and these, last variable fastest.
  evidence       count, then that many pairs: variable value. Both are counted from 0.
  White space separates words; # starts a comment, and so does c at the start of a line.

--json prints one object: file, variables, cardinalities, factors, width, evidence, log_z (exact, lower, upper, method),
map (value, is_exact, upper, assignment), marginals (is_exact, method, values), fit, versions. What is unknown is null.
JSON has no infinities: minus infinity is the string "-inf", which Python's float() reads.

When no assignment is possible, log Z = -inf is printed, and the exit code is 6; --json prints the same."""


def _add_arguments(parser: Parser) -> None:
    offer(parser.add_argument("model", type=Path, metavar="MODEL.uai", help="file of the model"), FILE)
    evidence = "what was observed (default: nothing)"
    offer(parser.add_argument("--evidence", type=Path, metavar="FILE", help=evidence), FILE)
    structure = f"fit a circuit and report its bound; one of {', '.join(STRUCTURES)}"
    offer(parser.add_argument("--structure", metavar="NAME", help=structure), STRUCTURES)
    parser.add_argument(
        "--labels",
        type=whole_number(1),
        default=32,
        metavar="N",
        help="size of what is fitted: most labels per region of a keep_set, contexts of a thin junction tree or chain, "
        "copies, states, assignments of a cutset (default: 32)",
    )
    parser.add_argument(
        "--max-parameters", type=whole_number(1), metavar="N", help="fit no circuit with more (default: no limit)"
    )
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=60.0,
        metavar="S",
        help="for fit and bounds together, reading, exact elimination and the starting point of a fit not counted "
        "(default: 60)",
    )
    parser.add_argument(
        "--seed", type=whole_number(0, 2**32 - 1), default=0, metavar="N", help="of random starts (default: 0)"
    )
    parser.add_argument(
        "--max-entries",
        type=whole_number(1),
        default=MAX_ENTRIES,
        metavar="N",
        help=f"most table entries that exact elimination may hold (default: {MAX_ENTRIES:,})",
    )
    parser.add_argument("--all", action="store_true", help="show all variables, not only the first 20")
    add_json(parser)
    add_threads(parser)


def _seconds(text: str) -> float:
    value: Any = parse_value(text)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not 0 < value <= _MOST_SECONDS:
        rule = f"a number above 0, at most {_MOST_SECONDS:,}"
        raise argparse.ArgumentTypeError(f"is {text[:60]!r}, but must be {rule}")
    return float(value)


def run(line: CommandLine) -> int:
    """Read, find out everything, and only then print it, in words or as JSON."""
    import torch

    from factor_q import read_uai, read_uai_evidence
    from factor_q.inference import Effort, solve
    from spnpolicy.cli.progress import InferenceProgress

    options = line.options
    if options.structure is not None:
        known_name("structure", options.structure, STRUCTURES)
    torch.set_num_threads(options.threads)
    model = read_uai(options.model)
    evidence = {} if options.evidence is None else read_uai_evidence(options.evidence, model.cardinalities)
    effort = Effort(
        structure=options.structure,
        labels=options.labels,
        max_parameters=options.max_parameters,
        seconds=options.seconds,
        max_entries=options.max_entries,
    )
    generator = torch.Generator().manual_seed(options.seed)
    with InferenceProgress() as progress:
        answer = solve(model, evidence or None, effort=effort, generator=generator, on_progress=progress)
    if options.json:
        content = _facts(options.model, model, evidence, answer) | {"versions": _versions()}
        print(json.dumps(_finite(content), allow_nan=False))
    else:
        print(_text(options, model, evidence, answer))
    return IMPOSSIBLE if answer.is_impossible else 0


def _facts(path: Path, model: "Factors", evidence: Mapping[int, int], answer: "Answer") -> dict[str, Any]:
    found = asdict(answer)
    return {
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
    }


def _versions() -> dict[str, str]:
    return {"spnpolicy": version("spnpolicy"), "torch": version("torch"), "python": platform.python_version()}


def _finite(value: Any) -> Any:
    """Return JSON values with infinities as words, because JSON has no numbers for them."""
    if isinstance(value, float) and math.isinf(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value


def _text(options: argparse.Namespace, model: "Factors", evidence: Mapping[int, int], answer: "Answer") -> str:
    """Return the answer in words; --all leaves no variable out."""
    parts = [_header(options, model, evidence, answer), _log_z(answer.log_z)]
    if answer.is_impossible:
        parts.append(
            ["every assignment that agrees with the evidence is forbidden: there is no maximum and no distribution"]
        )
    if answer.fit is not None:
        parts.append(_fit(answer.fit))
    if answer.maximum is not None:
        parts.append(_best(answer.maximum, answer.log_z, options.all))
    if answer.marginals is not None:
        parts.append(_marginals(evidence, answer.marginals, options.all))
    if answer.refused:
        parts.append(_limits(options.max_entries, answer.refused))
    return "\n\n".join("\n".join(part) for part in parts)


def probability(value: float) -> str:
    """Return a probability with four decimals; what these would round to certainty says that it is not certain."""
    if value in (0.0, 1.0):
        return f"{value:.0f}"
    if value < _ROUNDED_AWAY:
        return f"{value:.0e}"
    return ">0.9999" if 1.0 - value < _ROUNDED_AWAY else f"{value:.4f}"


def _header(options: argparse.Namespace, model: "Factors", evidence: Mapping[int, int], answer: "Answer") -> list[str]:
    cardinalities = model.cardinalities
    fewest, most = min(cardinalities, default=0), max(cardinalities, default=0)
    each = f"of {most} values" if fewest == most else f"of {fewest} to {most} values"
    observed = f"{len(evidence):,} observed" if evidence else "nothing observed"
    largest = f"largest table {_count(answer.largest_table)} entries; limit {options.max_entries:,} at once"
    return [
        f"file       {options.model}",
        f"variables  {len(cardinalities):,} {each}",
        f"factors    {model.graph.num_factors:,}",
        f"evidence   {observed}",
        f"width      {answer.width} ({largest})",
    ]


def _log_z(log_z: "LogZ") -> list[str]:
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


def _fit(fit: "Fit") -> list[str]:
    end = "converged" if fit.converged else "not converged"
    gap = "" if fit.gap is None else f"; {fit.gap:.3g} below the exact log Z"
    return [
        f"fit: log Z >= {fit.lower_bound:.10f} nats, certified{gap}",
        f"  by {fit.circuit}: {fit.parameters:,} parameters, {fit.steps:,} steps, {end}, {fit.seconds:.2f} s",
    ]


def _best(best: "Maximum", log_z: "LogZ", show_all: bool) -> list[str]:
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


def _marginals(evidence: Mapping[int, int], marginals: "Marginals", show_all: bool) -> list[str]:
    if marginals.values is None:
        return ["marginals: none, because the fit found no distribution that avoids what is forbidden"]
    error = "" if marginals.largest_error is None else f"; at most {marginals.largest_error:.2g} from the exact ones"
    title = f"marginals: {'exact, by ' if marginals.is_exact else ''}{marginals.method}{error}"
    shown = marginals.values if show_all else marginals.values[:_SHOWN_VARIABLES]
    left = len(marginals.values) - len(shown)
    more = [f"  ... and {left:,} more variables (--all shows all)"] if left else []
    return [title, "  variable  likeliest  probability  probabilities", *_rows(evidence, shown), *more]


def _limits(max_entries: int, refused: Sequence[str]) -> list[str]:
    from factor_q.inference.exact import MOST_ASSIGNMENTS, MOST_WORK

    names = ", ".join(_NAMES.get(name, name) for name in refused)
    return [
        f"not exact: {names}. Exact elimination would be beyond its limits, of which --max-entries can be raised:",
        f"  {max_entries:,} table entries at once (--max-entries), {MOST_WORK:,} in all, and "
        f"{MOST_ASSIGNMENTS:,} assignments of fixed variables",
    ]


def _rows(evidence: Mapping[int, int], rows: Sequence[Sequence[float]]) -> Iterator[str]:
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


COMMAND = Command(
    "infer",
    "Answer questions about a UAI model: log Z, marginals, the most probable assignment.",
    "infer MODEL.uai [--evidence FILE] [--structure NAME] [flags]",
    _DESCRIPTION,
    (
        "infer model.uai",
        "infer model.uai --evidence model.uai.evid --all",
        "infer model.uai --structure keep_set --labels 64 --seconds 20 --seed 3",
        "infer model.uai --json",
    ),
    _add_arguments,
    run,
)
