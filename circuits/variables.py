"""Discrete variables: how many values each has, and sets of them (scopes) as bit masks."""

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import accumulate
from typing import Any

from circuits.errors import CircuitError, EvidenceError, StructureError

MOST_VALUES = 2**22
"""Of all variables of a circuit together: each value is a number of Python's while it is built."""


def as_tuple(given: Any, what: str, example: str, error: type[CircuitError] = EvidenceError) -> tuple[Any, ...]:
    """Return a list, or whatever else can be walked through, as a tuple; what cannot is refused with an example."""
    try:
        items = iter(given)
    except TypeError:
        raise error(f"{what} is {given!r}; give a list, such as {example}.") from None
    return tuple(items)


def check_cardinalities(cardinalities: Iterable[int]) -> tuple[int, ...]:
    """Return the cardinalities as a tuple of positive ints, or say which one is wrong."""
    checked = as_tuple(cardinalities, "cardinalities", "[2, 3]", StructureError)
    if not checked:
        raise StructureError("a circuit needs at least one variable, but the list of cardinalities is empty.")
    for variable, cardinality in enumerate(checked):
        if isinstance(cardinality, bool) or not hasattr(cardinality, "__index__") or int(cardinality) < 1:
            raise StructureError(
                f"variable {variable} has cardinality {cardinality!r}; it must be an integer of at least 1."
            )
    if (total := sum(map(int, checked))) > MOST_VALUES:
        shown = f"{total:,}" if total < 10**15 else f"{Decimal(total):.3g}"
        raise StructureError(f"the variables have {shown} values in all, more than the {MOST_VALUES:,} that would fit.")
    return tuple(int(cardinality) for cardinality in checked)


def value_offsets(cardinalities: Sequence[int]) -> tuple[int, ...]:
    """Return where each variable starts when the values of all variables are laid out in one line.

    The last entry is the total number of values.
    """
    return tuple(accumulate(cardinalities, initial=0))


def scope_of(variables: Iterable[int]) -> int:
    """Return the bit mask of a set of variables."""
    mask = 0
    for variable in variables:
        mask |= 1 << variable
    return mask


def variables_of(scope: int) -> Iterator[int]:
    """Yield the variables of a bit mask in increasing order."""
    while scope:
        lowest = scope & -scope
        yield lowest.bit_length() - 1
        scope ^= lowest


def describe_scope(scope: int, limit: int = 8) -> str:
    """Return a scope as people read it, such as `{0, 1, 4}`."""
    variables = list(variables_of(scope))
    shown = ", ".join(map(str, variables[:limit]))
    return f"{{{shown}, ... {len(variables)} variables}}" if len(variables) > limit else f"{{{shown}}}"
