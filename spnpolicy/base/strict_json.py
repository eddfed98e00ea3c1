"""JSON without surprises: duplicate keys, nan and endless nesting are refused."""

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from spnpolicy.base.errors import ConfigError, SpnPolicyError

MAX_DEPTH = 100
"""Most lists and objects inside each other. What is deeper could exhaust the stack of whoever walks through it."""

MAX_CONTAINERS = 100_000
"""Most lists and objects in a part of a checkpoint. Three bytes become an object of 64 or more in memory."""


def parse_json(text: str | bytes, *, source: str, error: type[SpnPolicyError]) -> Any:
    """Parse JSON strictly.

    Args:
        text: the document, UTF-8 when bytes.
        source: what to call it in messages, usually the file name.
        error: class of the error to raise.

    Raises:
        error: the text is not JSON, or has a duplicate key, a number that is not finite or has thousands of
            digits, or too deep nesting.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        value = json.loads(
            text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite_float
        )
    except json.JSONDecodeError as problem:
        raise error(f"{source}:{problem.lineno}:{problem.colno}: not valid JSON: {problem.msg}.") from None
    except RecursionError:
        raise error(f"{source}: nested too deeply.") from None
    except ValueError as problem:
        # Python's own words on such numbers advise to lift its limit.
        is_digits = str(problem).startswith("Exceeds the limit")
        raise error(f"{source}: {'a whole number has thousands of digits' if is_digits else problem}.") from None
    if is_too_deep(value):
        raise error(f"{source}: nested too deeply: {MAX_DEPTH} levels are allowed.")
    return value


def read_json(path: Path) -> Any:
    """Parse a file of settings strictly, see `parse_json`; what is wrong is a ConfigError."""
    return parse_json(path.read_bytes(), source=str(path), error=ConfigError)


def is_too_crowded(text: bytes) -> bool:
    """Tell whether JSON may hold more than MAX_CONTAINERS lists and objects, without parsing it."""
    return text.count(b"[") + text.count(b"{") > MAX_CONTAINERS


def is_too_deep(value: Any) -> bool:
    """Tell whether lists, tuples and dicts are nested in more than MAX_DEPTH levels."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [node for node in level if isinstance(node, (dict, list, tuple))]
        if not level:
            return False
        level = [child for node in level for child in (node.values() if isinstance(node, dict) else node)]
    return True


def dump_json(value: Any, *, compact: bool = False) -> str:
    """Return JSON, readable or else compact; the same value always gives the same text."""
    if compact:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"key {_short(key)} appears twice")
            seen.add(key)
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number that JSON allows")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:60]} is too large for a number")
    return value


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
