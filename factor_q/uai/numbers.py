"""Decimal text of a table entry to its natural logarithm and back, without loss."""

import decimal
import math
import re
import sys

_LARGEST_WORD = 1000
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_ZERO = re.compile(r"[+-]?[0.]+(?:[eE].*)?")
_SMALLEST, _LARGEST = sys.float_info.min, sys.float_info.max
_DIGITS = 17
"""Significant digits that a float64 can tell apart."""
_SHORT = _DIGITS + 1
"""A word of this length has no more than 17 digits and a point."""
_NEAR_ONE = (1 / 16, 16.0)
"""Between these the logarithm is small and has finer steps than float64 has near its exponential."""
_TRAPS = [decimal.InvalidOperation, decimal.Overflow, decimal.Underflow]
_AS_WRITTEN = decimal.Context(prec=_LARGEST_WORD, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN, traps=_TRAPS)
_ROUNDED = decimal.Context(prec=40, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN, traps=_TRAPS)


def logs_of(words: list[str]) -> list[float]:
    """Return log(number) of each word; zero gives -inf.

    A number is rounded to float64 first, unless that would lose something: numbers beyond float64's range, and
    numbers of more than 17 digits between 1/16 and 16, are turned into logarithms in decimal arithmetic.

    Raises:
        ValueError: some word is not a number of at least 0; `fault` says which and why.
    """
    numbers = list(map(float, words))
    return [
        math.log(number) if len(word) <= _SHORT and _SMALLEST <= number <= _LARGEST else _log_with_care(word, number)
        for word, number in zip(words, numbers, strict=True)
    ]


def fault(word: str) -> str | None:
    """Return what is wrong with the text of an entry, or None."""
    if len(word) > _LARGEST_WORD:
        return f"the number {word[:20]}... has {len(word):,} characters, more than {_LARGEST_WORD:,}."
    if not _NUMBER.fullmatch(word):
        return f"{word!r} is not a number."
    if word.startswith("-") and not _ZERO.fullmatch(word):
        return f"the entry {word} is negative; entries are factors of a probability, so they must be at least 0."
    try:
        _log_with_care(word, float(word))
    except ValueError:
        return f"the exponent of {word} is too large."
    return None


def _log_with_care(word: str, number: float) -> float:
    """Return the log of a number that is zero, long, or beyond the range of float64."""
    if len(word) > _LARGEST_WORD:
        raise ValueError("too long")
    near_one = _NEAR_ONE[0] < number < _NEAR_ONE[1]
    if _SMALLEST <= number <= _LARGEST and not (near_one and _count_digits(word) > _DIGITS):
        return math.log(number)
    if _ZERO.fullmatch(word):
        return -math.inf
    if word.startswith("-"):
        raise ValueError("negative")
    try:
        return float(_ROUNDED.ln(_AS_WRITTEN.create_decimal(word)))
    except decimal.DecimalException:
        raise ValueError("exponent") from None


def _count_digits(word: str) -> int:
    """Return the number of significant digits, zeros at the end included."""
    return len(re.split("[eE]", word)[0].lstrip("+-0.").replace(".", ""))


def word_of(log: float) -> str:
    """Return the shortest of a few decimal texts of exp(log) that `logs_of` turns back into this very float64.

    Requires: exp(log) within float64's range of full precision, see `is_writable`; or -inf, which gives 0.
    """
    if log == -math.inf:
        return "0"
    # At the ends of the range exp may fall just outside.
    number = min(max(math.exp(log), _SMALLEST), _LARGEST)
    up, down = math.nextafter(number, math.inf), math.nextafter(number, 0.0)
    for candidate in (number, up, down, math.nextafter(up, math.inf), math.nextafter(down, 0.0)):
        if _SMALLEST <= candidate <= _LARGEST and math.log(candidate) == log:
            return repr(candidate)
    # Close to 1 float64 is too coarse: the smaller the logarithm, the more digits its exponential needs.
    digits = _DIGITS + 3 + max(0, -math.frexp(log)[1]) * 3 // 10
    while True:
        word = str(decimal.Context(prec=digits).exp(decimal.Decimal(log)))
        if logs_of([word]) == [log]:
            return word
        digits += 2


def is_writable(log: float) -> bool:
    """Return whether exp(log) is zero or a float64 of full precision."""
    return log == -math.inf or math.log(_SMALLEST) <= log <= math.log(_LARGEST)
