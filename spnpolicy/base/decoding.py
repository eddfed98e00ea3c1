"""Turn plain JSON values into frozen config dataclasses and back, strictly: nothing is guessed or dropped."""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, TypeVar

from spnpolicy.base.errors import ConfigError
from spnpolicy.base.ranges import Range

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Checked:
    """A record whose fields are what their annotations say, types and ranges, however it is made."""

    def __post_init__(self) -> None:
        for name, kind in _hints(type(self)).items():
            _decode(kind, getattr(self, name), name)


def encode(value: Any) -> Any:
    """Return a config dataclass as JSON values: dataclasses become objects, tuples lists, nan and infinities words."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        # JSON has no such numbers; `with_numbers` reads these words
        return str(value)
    return value


def with_numbers(value: Any) -> Any:
    """Return the same with numbers for the words nan, inf and -inf, in lists and objects too."""
    if isinstance(value, Mapping):
        return {key: with_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_numbers(item) for item in value]
    # always the same nan, so that records that hold it are equal
    return _NOT_IN_JSON.get(str(value), value) if isinstance(value, str | float) else value


_NOT_IN_JSON = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def decode(kind: type[T], value: Any, *, path: str) -> T:
    """Build `kind` (usually a dataclass) from JSON values.

    Args:
        kind: a dataclass, bool, int, float, str, None, Any, Literal, union, tuple, list or dict of these, a number also
            `Annotated` with its `Range`.
        value: what JSON gave; tuples and ready dataclasses are taken as well.
        path: where the value sits, for messages, such as "config.train".

    Raises:
        ConfigError: unknown or missing field, wrong type, or a number that is not finite or out of its range; names
            path and value.
    """
    return _decode(kind, value, path)


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings with dotted names; an empty mapping stays a value."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        is_nested = isinstance(value, Mapping) and value
        found |= flat(value, f"{prefix}{name}.") if is_nested else {f"{prefix}{name}": value}
    return found


def nearest_name(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the known name that is most like a given one; None if none is more like it than `cutoff`, in [0, 1]."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Return the message for a name that is not among the known ones, with the nearest of these."""
    known = sorted(known)
    nearest = nearest_name(name, known)
    hint = f"Did you mean {nearest!r}?" if nearest else f"Known: {', '.join(known)}."
    return f"unknown {what} {_short(name)}. {hint}"


def require(condition: bool, name: str, value: object, rule: str) -> None:
    """Raise a ConfigError "name is value, but must be rule." unless the condition holds."""
    if not condition:
        raise ConfigError(f"{name} is {value!r}, but must be {rule}.")


def _decode(kind: Any, value: Any, path: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin is typing.Annotated:
        number = _decode(arguments[0], value, path)
        for rule in arguments[1:]:
            if isinstance(rule, Range):
                rule.check(number, path)
        return number
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, path)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(arguments, value, path)
    if origin is typing.Literal:
        # Compared with the type, because True == 1 and 1.0 == 1.
        if (type(value), value) in [(type(choice), choice) for choice in arguments]:
            return value
        raise ConfigError(f"{path} is {_short(value)}, but must be one of {', '.join(map(repr, arguments))}.")
    if origin is tuple:
        return _decode_tuple(arguments, value, path)
    if origin is list and isinstance(value, list):
        return [_decode(arguments[0], item, f"{path}[{index}]") for index, item in enumerate(value)]
    if origin is dict and isinstance(value, Mapping):
        return {
            _decode(arguments[0], key, f"{path} key"): _decode(arguments[1], item, f"{path}.{_plain(key)}")
            for key, item in value.items()
        }
    return _decode_plain(origin or kind, value, path)


def _decode_plain(kind: Any, value: Any, path: str) -> Any:
    if kind is float and type(value) in (int, float):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise ConfigError(f"{path} is not a finite number.")
        return number
    # Exact types: bool is a subclass of int, and True must not pass as 1.
    if type(value) is kind:
        return value
    name = getattr(kind, "__name__", str(kind))
    raise ConfigError(f"{path} is {_short(value)}, but must be of type {name}.")


def _decode_dataclass(kind: Any, value: Any, path: str) -> Any:
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path} is {_short(value)}, but must be an object with named fields.")
    hints = _hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    for key in value:
        if key not in fields:
            raise ConfigError(f"{path}: " + unknown_name("setting", str(key), fields))
    for name, field in fields.items():
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if name not in value and not optional:
            raise ConfigError(f"{path}: setting {name!r} is missing.")
    return kind(**{key: _decode(hints[key], item, f"{path}.{key}") for key, item in value.items()})


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    """Return the annotations of a record's fields, with their ranges."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}


def _decode_union(arguments: tuple[Any, ...], value: Any, path: str) -> Any:
    problems: list[str] = []
    for option in arguments:
        try:
            return _decode(option, value, path)
        except ConfigError as problem:
            problems.append(str(problem))
    raise ConfigError(problems[0])


def _decode_tuple(arguments: tuple[Any, ...], value: Any, path: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{path} is {_short(value)}, but must be a list.")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise ConfigError(f"{path} has {len(value)} entries, but must have {len(arguments)}.")
    return tuple(
        _decode(kind, item, f"{path}[{index}]") for index, (kind, item) in enumerate(zip(arguments, value, strict=True))
    )


def _plain(key: object) -> str:
    # A key may be long, or hold line breaks and codes that a terminal obeys.
    text = str(key)
    return text if text.isprintable() and len(text) <= 60 else _short(text)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
