"""`spnpolicy infer`: log Z, marginals and the most probable assignment of a UAI model."""

import json
import math
import platform
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch

from factor_q.variational import FITTED_STRUCTURES
from spnpolicy.cli.infer_answer import find_answer
from spnpolicy.cli.infer_progress import InferenceProgress
from spnpolicy.cli.infer_question import Question, read_question
from spnpolicy.cli.infer_results import Answer, Effort
from spnpolicy.cli.infer_words import in_words
from spnpolicy.cli.options import CommandLine, UsageError, known_name

IMPOSSIBLE = 6
"""Exit code where every assignment is forbidden, that of numbers that are not finite."""


def run(line: CommandLine) -> int:
    """Read, find out everything, and only then print it, in words or as JSON."""
    options = line.options
    if options.structure is not None:
        known_name("structure", options.structure, list(FITTED_STRUCTURES))
    torch.set_num_threads(options.threads)
    question = read_question(options.model, options.evidence, options.max_entries)
    if options.structure is not None and not question.factors.cardinalities:
        raise UsageError(
            f"--structure {options.structure}: {options.model} has no variables, so nothing can be fitted."
        )
    effort = Effort(
        options.structure,
        options.labels,
        options.max_parameters,
        options.seconds,
        options.seed,
        options.max_entries,
    )
    with InferenceProgress() as progress, torch.no_grad():
        answer = find_answer(question.factors, effort, progress)
    if options.json:
        print(json.dumps(_finite(_as_json(question, answer)), allow_nan=False))
    else:
        print(in_words(question, answer, show_all=options.all))
    return IMPOSSIBLE if answer.is_impossible else 0


def _as_json(question: Question, answer: Answer) -> dict[str, Any]:
    log_z, best, marginals, fit = answer.log_z, answer.best, answer.marginals, answer.fit
    return {
        "file": str(question.path),
        "variables": len(question.factors.cardinalities),
        "cardinalities": list(question.factors.cardinalities),
        "factors": question.num_factors,
        "width": question.width,
        "evidence": {str(variable): value for variable, value in question.evidence.items()},
        "log_z": asdict(log_z),
        "map": None if best is None else asdict(best),
        "marginals": None if marginals is None else asdict(marginals),
        "fit": None if fit is None else asdict(fit),
        "versions": {
            "spnpolicy": version("spnpolicy"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def _finite(value: Any) -> Any:
    """Return JSON values with infinities as words, because JSON has no numbers for them."""
    if isinstance(value, float) and math.isinf(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value
