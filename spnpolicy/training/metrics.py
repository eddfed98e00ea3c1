"""Metrics as a file of JSON lines: append-only, flushed line by line, readable after a crash."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from spnpolicy.errors import SpnPolicyError
from spnpolicy.training.strict_json import parse_json

TIME_FIELDS = ("seconds",)
"""Fields that differ between two otherwise identical runs; compare metrics without them."""

_SPECIAL = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class MetricsWriter:
    """Appends records to a metrics file, one JSON object per line.

    Numbers that are not finite have no JSON form: they are written as the strings "nan", "inf" and "-inf",
    and `read_metrics` turns these back into numbers. A torn last line, left by a crash, is cut off on
    opening.
    """

    def __init__(self, path: Path):
        if path.exists():
            _cut_torn_line(path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record of numbers, strings, booleans and None; it is flushed at once."""
        plain = {key: _to_json(value) for key, value in record.items()}
        self._file.write(json.dumps(plain, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Metrics(NamedTuple):
    """What a metrics file holds."""

    records: list[dict[str, Any]]
    """All complete records, in order."""
    torn_lines: int
    """1 if the last line was cut off by a crash and has been dropped, else 0."""


def read_metrics(path: Path) -> Metrics:
    """Read a metrics file, dropping and counting a torn last line.

    Raises:
        SpnPolicyError: a line before the last one is damaged; the message has file and line.
    """
    lines = path.read_bytes().split(b"\n")
    torn = lines.pop() != b""
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        record = parse_json(line, source=f"{path}, line {number}", error=SpnPolicyError)
        if not isinstance(record, dict):
            raise SpnPolicyError(f"{path}, line {number}: a record must be a JSON object.")
        records.append({key: _from_json(value) for key, value in record.items()})
    return Metrics(records, int(torn))


def _to_json(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _from_json(value: Any) -> Any:
    return _SPECIAL.get(value, value) if isinstance(value, str) else value


def _cut_torn_line(path: Path) -> None:
    content = path.read_bytes()
    complete = content.rfind(b"\n") + 1
    if complete < len(content):
        with path.open("r+b") as file:
            file.truncate(complete)
