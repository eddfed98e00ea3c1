"""Errors a caller may want to catch. Each message names the thing, the value, the rule and the way out."""

from collections.abc import Sequence

from torch import Tensor


class CircuitError(Exception):
    """Base class of every error that the circuit engine raises on purpose."""


class StructureError(CircuitError, ValueError):
    """A circuit, a factor graph or a structure request breaks a rule of construction."""


class NotTractableError(CircuitError):
    """A query needs a structural property that this circuit lacks, or more memory than allowed."""


class EvidenceError(CircuitError, ValueError):
    """Evidence has the wrong shape, an unknown variable or a value out of range."""


class ImpossibleEvidenceError(CircuitError):
    """The evidence has probability zero, so nothing can be conditioned on it."""


class FormatError(CircuitError, ValueError):
    """A file does not follow its format; the message gives file, line and column."""


def listed(items: Sequence[object], *, most: int = 8) -> str:
    """Return the first items as a message shows them, and how many there are where that is not all."""
    shown = ", ".join(map(str, items[:most]))
    return f"{shown}, ... ({len(items)} in all)" if len(items) > most else shown


def in_batch_rows(wrong: Tensor) -> str:
    """Return ` in batch rows 3, 7` for what is wrong there, shape (*batch); nothing where there is no batch."""
    rows = [tuple(row) if len(row) > 1 else row[0] for row in wrong.nonzero().tolist()] if wrong.dim() else []
    return f" in batch rows {listed(rows)}" if rows else ""
