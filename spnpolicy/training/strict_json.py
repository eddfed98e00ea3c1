"""JSON without surprises: duplicate keys, nan and endless nesting are refused."""

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from spnpolicy.errors import SpnPolicyError
from spnpolicy.training.files import replace_file


def parse_json(text: str | bytes, *, source: str, error: type[SpnPolicyError]) -> Any:
    """Parse JSON strictly.

    Args:
        text: the document, UTF-8 when bytes.
        source: what to call it in messages, usually the file name.
        error: class of the error to raise.

    Raises:
        error: the text is not JSON, or has a duplicate key, a number that is not finite, or too deep nesting.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        return json.loads(
            text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite_float
        )
    except json.JSONDecodeError as problem:
        raise error(f"{source}:{problem.lineno}:{problem.colno}: not valid JSON: {problem.msg}.") from None
    except RecursionError:
        raise error(f"{source}: nested too deeply.") from None
    except ValueError as problem:
        raise error(f"{source}: {problem}.") from None


def dump_json(value: Any) -> str:
    """Return readable JSON; the same value always gives the same text."""
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file so that a crash leaves either the old content or the new, never a part of it."""
    replace_file(path, dump_json(value).encode())


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"key {key!r} appears twice")
            seen.add(key)
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number that JSON allows")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large for a number")
    return value
