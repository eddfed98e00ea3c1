"""Metrics as a file of JSON lines: append-only, flushed line by line, readable after a crash."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from spnpolicy.base.errors import SpnPolicyError
from spnpolicy.base.strict_json import parse_json

TIME_FIELDS = ("seconds",)
"""Fields that differ between two otherwise identical runs; compare metrics without them."""

_SPECIAL = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def record_line(record: Mapping[str, Any]) -> str:
    """Return a record of numbers, strings, booleans and None as one line of JSON.

    Numbers that are not finite have no JSON form: they are written as the strings "nan", "inf" and "-inf", and
    `read_metrics` turns these back into numbers.
    """
    return json.dumps({key: _to_json(value) for key, value in record.items()}, allow_nan=False) + "\n"


def seconds_of(line: bytes) -> float:
    """Return the time of a record since the start of the run; 0 if the line is damaged or empty."""
    try:
        return float(json.loads(line)["seconds"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0.0


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
