"""`spnpolicy infer`: log Z, marginals and the most probable assignment of a UAI model."""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from spnpolicy.cli.command import FILE, Command, add_json, add_threads, offer
from spnpolicy.cli.failures import IMPOSSIBLE
from spnpolicy.cli.options import CommandLine, Parser, known_name, parse_value, whole_number

STRUCTURES = (
    "auto", "keep_set", "thin_junction_tree", "clique_tree", "mean_field", "markov_chain", "tree", "selective",
    "decision_diagram", "cutset",
)  # fmt: skip
"""Names for --structure: those of `factor_q.variational.FITTED_STRUCTURES`, which cannot be imported here."""
MAX_ENTRIES = 2**26
"""Default of --max-entries: that of exact elimination in factor_q."""
_MOST_SECONDS = 10_000_000

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
    from spnpolicy.experiments.answers.models import answer_json, answer_text

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
        print(json.dumps(answer_json(options.model, model, evidence, answer), allow_nan=False))
    else:
        limit = options.max_entries
        print(answer_text(options.model, model, evidence, answer, max_entries=limit, show_all=options.all))
    return IMPOSSIBLE if answer.is_impossible else 0


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
