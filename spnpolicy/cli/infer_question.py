"""What `spnpolicy infer` is asked: a model and what was observed, read from files."""

from dataclasses import dataclass
from pathlib import Path

from factor_q import (
    Factors,
    NotTractableError,
    elimination_width,
    largest_table,
    read_uai,
    read_uai_evidence,
)


@dataclass(frozen=True)
class Question:
    """A model, its evidence, and how hard it is."""

    path: Path
    evidence: dict[int, int]
    factors: Factors
    """Given the evidence; float64."""
    num_factors: int
    """Tables of the model over different sets of variables."""
    width: int
    largest_table: int
    """Entries of the largest joined table of elimination."""
    max_entries: int


def read_question(path: Path, evidence_path: Path | None, max_entries: int) -> Question:
    """Read the files.

    Raises:
        FormatError: a file breaks its format; the message gives file, line and column.
        OSError: a file cannot be read.
        NotTractableError: even a table of all values of all variables is too large.
    """
    model = read_uai(path)
    cardinalities = model.cardinalities
    evidence = {} if evidence_path is None else read_uai_evidence(evidence_path, cardinalities)
    padded = len(cardinalities) * max(cardinalities, default=0)
    if padded > max_entries:
        raise NotTractableError(
            f"{path}: {len(cardinalities):,} variables of up to {max(cardinalities):,} values need a table of "
            f"{padded:,} marginals, but --max-entries is {max_entries:,}. Raise it if there is memory."
        )
    factors = model.condition(evidence) if evidence else model
    width, largest = elimination_width(factors.graph), largest_table(factors.graph)
    return Question(path, evidence, factors, model.graph.num_factors, width, largest, max_entries)
