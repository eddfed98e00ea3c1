"""Read and write the evidence files that go with UAI models: which variables were observed, and with what value."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from circuits.errors import EvidenceError
from circuits.files import replace_file
from factor_q.uai.words import Words, file_text


def read_uai_evidence(path: str | os.PathLike[str], cardinalities: Sequence[int] | None = None) -> dict[int, int]:
    """Read observed values from a .evid file; see `parse_uai_evidence`.

    Raises:
        FormatError: the file breaks the format; the message gives file, line and column.
        OSError: the file cannot be read.
    """
    text, name = file_text(path)
    return parse_uai_evidence(text, cardinalities, name=name)


def parse_uai_evidence(
    text: str, cardinalities: Sequence[int] | None = None, *, name: str = "<text>"
) -> dict[int, int]:
    """Return {variable: observed value} from a text `count variable value variable value ...`.

    The older form has the number of samples in front, which must be 1. An empty text is no evidence. White space and
    comments are as in `parse_uai`.

    Args:
        text: the whole file.
        cardinalities: number of values of each variable; None leaves the ranges unchecked.
        name: how messages call the file.

    Raises:
        FormatError: the text breaks the format, a variable is observed twice, or a variable or value is out of range;
            the message gives name, line and column.

    Example:
        >>> parse_uai_evidence("2  0 1  3 0"), parse_uai_evidence("1" + chr(10) + "2  0 1  3 0")
        ({0: 1, 3: 0}, {0: 1, 3: 0})
    """
    words = Words(text.removeprefix("\ufeff"), name)
    if not words.left:
        return {}
    if _begins_with_samples(words) and (samples := words.integer("the number of samples")) != 1:
        words.fail(0, f"the file should hold one sample, but it promises {samples:,}; write one file for each.")
    count = words.integer("the number of observed variables")
    if 2 * count != words.left:
        words.fail(
            words.taken - 1, f"{count:,} observed variables need {2 * count:,} words, but {words.left:,} follow."
        )
    evidence: dict[int, int] = {}
    for _ in range(count):
        variable = words.integer("an observed variable")
        if variable in evidence:
            words.fail(words.taken - 1, f"variable {variable} is observed twice.")
        value = words.integer(f"the value of variable {variable}")
        if cardinalities is not None:
            _check_range(words, variable, value, cardinalities)
        evidence[variable] = value
    return evidence


def write_uai_evidence(path: str | os.PathLike[str], evidence: Mapping[int, int]) -> None:
    """Write observed values to a .evid file, in one line `count variable value ...`.

    Raises:
        EvidenceError: a variable or a value is not a whole number of at least 0; then nothing is written.
    """
    for variable, value in evidence.items():
        for number in (variable, value):
            if not isinstance(number, int) or isinstance(number, bool) or number < 0:
                raise EvidenceError(
                    f"write_uai_evidence: variable {variable!r} has value {value!r}; both must be whole numbers of at "
                    "least 0."
                )
    numbers = [len(evidence), *(number for pair in evidence.items() for number in pair)]
    replace_file(Path(path), (" ".join(map(str, numbers)) + "\n").encode())


def _begins_with_samples(words: Words) -> bool:
    """Return whether the first number is that of samples: then the number of words is even, without it odd.

    Two words in one line are a pair that was cut, not one sample without observations.
    """
    return words.left % 2 == 0 and not (words.left == 2 and len(set(words.lines_of(2))) == 1)


def _check_range(words: Words, variable: int, value: int, cardinalities: Sequence[int]) -> None:
    """Raise when the two words just taken are out of range."""
    if variable >= len(cardinalities):
        words.fail(
            words.taken - 2, f"variable {variable} is observed, but the variables are 0 to {len(cardinalities) - 1}."
        )
    if value >= cardinalities[variable]:
        words.fail(
            words.taken - 1,
            f"variable {variable} is observed as {value}, but its values are 0 to {cardinalities[variable] - 1}.",
        )
