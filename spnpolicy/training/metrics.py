"""Metrics as a file of JSON lines: append-only, flushed line by line, readable after a crash."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from spnpolicy.base.errors import SpnPolicyError
from spnpolicy.base.files import checked_path
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


class RecordDigest:
    """The SHA-256 of records, but for the fields that tell the time: two runs that are the same have the same."""

    def __init__(self, records: Iterable[Mapping[str, Any]] = ()):
        self._sha256 = hashlib.sha256()
        for record in records:
            self.add(record)

    def add(self, record: Mapping[str, Any]) -> None:
        """Count in the next record."""
        timeless = {name: value for name, value in record.items() if name not in TIME_FIELDS}
        self._sha256.update(record_line(timeless).encode())

    def hex(self) -> str:
        """Return the digest so far."""
        return self._sha256.hexdigest()


class Metrics(NamedTuple):
    """What a metrics file holds."""

    records: list[dict[str, Any]]
    """All complete records, in order."""
    torn_lines: int
    """1 if the last line was cut off by a crash and has been dropped, else 0."""


def read_metrics(path: Path | str) -> Metrics:
    """Read a metrics file, dropping and counting a torn last line.

    Raises:
        SpnPolicyError: a line before the last one is damaged; the message has file and line.
    """
    path = checked_path("a metrics file", path)
    content = path.read_bytes()
    return Metrics(parse_records(content, path), int(content[-1:] not in (b"", b"\n")))


def stage_changes(records: Iterable[Mapping[str, Any]]) -> list[int]:
    """Return the env steps at which stages of a curriculum ended: each ends with a record of its own."""
    staged = [(record["stage"], record["step"]) for record in records if "stage" in record]
    return [step for (stage, step), (following, _) in pairwise(staged) if following != stage]


def parse_records(content: bytes, path: Path) -> list[dict[str, Any]]:
    """Return the records of the whole lines of a metrics file; a torn last line is dropped.

    Raises:
        SpnPolicyError: a whole line is damaged; the message has file and line.
    """
    lines = content.split(b"\n")[:-1]
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        record = parse_json(line, source=f"{path}, line {number}", error=SpnPolicyError)
        if not isinstance(record, dict):
            raise SpnPolicyError(f"{path}, line {number}: a record must be a JSON object.")
        records.append({key: _from_json(value) for key, value in record.items()})
    return records


def _to_json(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _from_json(value: Any) -> Any:
    return _SPECIAL.get(value, value) if isinstance(value, str) else value
