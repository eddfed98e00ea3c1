"""Measured rows and curves, and the CSV files that keep them between two starts."""

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

TOLERANCE = 1e-9
"""Nats by which rounding may lift a lower bound above log Z, and a share of |log Z| when two bounds are compared."""
MOST_POINTS = 40


@dataclass(frozen=True)
class Row:
    """What one method found for one model."""

    group: str
    model: str
    variables: int
    factors: int
    log_z: float | None
    """Exact, in nats; None where nobody knows it."""
    method: str
    kind: str
    """exact, lower, upper or estimate."""
    budget: float
    """Seconds that the method was given."""
    seed: int
    """Of the method's random starts."""
    value: float | None = None
    """In nats; None when the method failed."""
    seconds: float = 0.0
    parameters: int | None = None
    """Weights of the circuit."""
    most_parameters: int | None = None
    """Weights of the published construction with 32 copies."""
    steps: int | None = None
    note: str = ""
    error: str = ""
    """Why there is no value, or what is wrong with it."""

    @property
    def key(self) -> tuple[str, str]:
        """What is measured once."""
        return self.model, self.method

    @property
    def gap(self) -> float | None:
        """Log Z minus a lower bound; the value minus log Z for what is no lower bound."""
        if self.value is None or self.log_z is None:
            return None
        return self.log_z - self.value if self.kind == "lower" else self.value - self.log_z

    @property
    def is_usable(self) -> bool:
        """Whether there is a value and nothing is wrong with it."""
        return self.value is not None and not self.error


@dataclass(frozen=True)
class Point:
    """The best lower bound of a method at some time."""

    model: str
    method: str
    seconds: float
    lower_bound: float
    gap: float | None


def violation(row: Row) -> str:
    """Say by how much a bound is on the wrong side of log Z; empty when it is not."""
    if row.gap is None or math.isnan(row.gap):
        return "the value is not a number" if row.gap is not None else ""
    wrong = abs(row.gap) if row.kind == "exact" else -row.gap
    allowed = TOLERANCE * max(1.0, abs(row.log_z or 0.0)) if row.kind == "exact" else TOLERANCE
    if row.kind == "estimate" or wrong <= allowed:
        return ""
    return f"VIOLATION: {row.value!r} is a wrong {row.kind} value for log Z = {row.log_z!r}, by {wrong:.3g} nats"


def thinned(curve: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Keep points where the bound rises, at most one for each of 40 steps of a logarithmic time axis, and the last."""
    if not curve:
        return []
    first, last = max(1e-3, curve[0][0]), max(2e-3, curve[-1][0])
    kept: dict[int, tuple[float, float]] = {}
    best = -math.inf
    for seconds, value in curve:
        if value > best:
            best = value
            place = int(MOST_POINTS * math.log(max(seconds, first) / first) / max(1e-9, math.log(last / first)))
            kept[place] = (seconds, value)
    return [*kept.values(), (curve[-1][0], best)] if best > -math.inf else []


class Table:
    """A CSV file of records of one kind, written anew after every change."""

    def __init__(self, path: Path, kind: type) -> None:
        self.path = path
        self._kind = kind
        self.records: list = _read(path, kind) if path.exists() else []

    def keep(self, records: Iterable) -> None:
        """Replace all records."""
        self.records = list(records)
        self._write()

    def add(self, records: Iterable) -> None:
        """Append records."""
        self.keep([*self.records, *records])

    def _write(self) -> None:
        extra = ["gap"] if self._kind is Row else []
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [*(field.name for field in fields(self._kind)), *extra])
            writer.writeheader()
            writer.writerows(
                asdict(record) | {name: getattr(record, name) for name in extra} for record in self.records
            )
        temporary.replace(self.path)


def _read(path: Path, kind: type) -> list:
    hints = get_type_hints(kind)
    with path.open(newline="", encoding="utf-8") as file:
        return [kind(**{name: _cell(hints[name], row[name]) for name in hints}) for row in csv.DictReader(file)]


def _cell(hint: Any, text: str) -> str | int | float | None:
    """Return what a cell says; empty is None where the field may be None."""
    options = get_args(hint) or (hint,)
    if text == "" and NoneType in options:
        return None
    return next(option for option in options if option is not NoneType)(text)
