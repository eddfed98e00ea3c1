"""The words of a UAI file, one after the other, and where each of them stands."""

import os
import re
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import NoReturn

from circuits.errors import FormatError

_MAX_BYTES = 1 << 28
_PIECE = 1 << 16
_COMMENT = re.compile(r"^[ \t]*c[^\n]*|#[^\n]*", re.MULTILINE)
_FOREIGN = re.compile(r"[^0-9eE+\-. \t\n\f\v]")
_PART = "0123456789eE+-."
_SPACE = re.compile(r"[ \t\n\f\v]")
_INTEGER = re.compile(r"\+?[0-9]{1,18}")


def file_text(path: str | os.PathLike[str]) -> tuple[str, str]:
    """Return the text of a file and its name; a byte order mark at the start is dropped.

    Raises:
        FormatError: the file is not text, or it is too long.
        OSError: the file cannot be read.
    """
    name = os.fspath(path)
    if os.path.getsize(name) > _MAX_BYTES:
        raise FormatError(f"{name}:1:1: the file has more than {_MAX_BYTES:,} bytes.")
    content = Path(name).read_bytes()
    try:
        return content.decode("utf-8-sig"), name
    except UnicodeDecodeError as problem:
        # The codec that drops the mark counts from behind it.
        start = problem.start + (3 if content.startswith(b"\xef\xbb\xbf") else 0)
        line = content.count(b"\n", 0, start) + 1
        column = start - content.rfind(b"\n", 0, start)
        raise FormatError(f"{name}:{line}:{column}: this is not a text file.") from None


class Words:
    """Numbers separated by white space, after an optional first word; comments do not count.

    A comment runs from # to the end of its line, or is a whole line that begins with c. Lines end with LF, CRLF or CR.
    All words are counted at the start, so that a promise can be compared with what follows before memory is taken;
    the words themselves are made when they are taken, and a position is worked out only when something is wrong.

    Args:
        text: the whole file.
        name: how messages call the file.
        header: words that the file must begin with, one of them in any case; none means that there are only numbers.

    Raises:
        FormatError: the header is missing, or a character cannot be part of a number.
    """

    def __init__(self, text: str, name: str, header: tuple[str, ...] = ()) -> None:
        lines = text.replace("\r\n", "\n").replace("\r", "\n")
        if "#" in lines or "c" in lines:
            lines = _COMMENT.sub(lambda comment: " " * len(comment.group()), lines)
        self._text, self._name = lines, name
        self._total = sum(map(len, _pieces(lines)))
        self._stream = chain.from_iterable(_pieces(lines))
        self.taken = 0
        start = 0
        if header:
            first = next(self._stream, "")
            if not first.isascii() or first.upper() not in header:
                self.fail(0, f"the file begins with {_shown(first)}; it must begin with {' or '.join(header)}.")
            start = lines.index(first) + len(first)
            self.taken = 1
        if foreign := _FOREIGN.search(lines, start):
            before = lines[max(start, foreign.start() - 20) : foreign.start()]
            place = foreign.start() - len(before) + len(before.rstrip(_PART))
            word = _SPACE.split(lines[place : place + 60], maxsplit=1)[0]
            self._fail_at(place, f"{_shown(word)} is not a number.")

    @property
    def left(self) -> int:
        """How many words follow."""
        return self._total - self.taken

    def take(self, count: int, what: str) -> list[str]:
        """Return the next words; `what` they are is for the message when the file ends before."""
        if count > self.left:
            self.fail(self.taken, f"{what}: {count:,} numbers must follow, but there are {self.left:,}.")
        words = list(islice(self._stream, count))
        self.taken += count
        return words

    def integers(self, count: int, what: str) -> list[int]:
        """Return the next words as whole numbers of at least 0."""
        words = self.take(count, what)
        for i, word in enumerate(words):
            if not _INTEGER.fullmatch(word):
                self.fail(
                    self.taken - count + i,
                    f"{what} is {_shown(word)}; it must be a whole number, at least 0 and of at most 18 digits.",
                )
        return [int(word) for word in words]

    def integer(self, what: str) -> int:
        """Return the next word as a whole number of at least 0."""
        if not self.left:
            self.fail(self.taken, f"the file ends before {what}.")
        return self.integers(1, what)[0]

    def end(self) -> None:
        """Raise when a word is left."""
        if self.left:
            self.fail(self.taken, f"the file should end here, but {self.left:,} more words follow.")

    def lines_of(self, count: int) -> list[int]:
        """Return the line of each of the first words of the file; slow."""
        places = islice(re.finditer(r"\S+", self._text), count)
        return [self._text.count("\n", 0, place.start()) + 1 for place in places]

    def fail(self, index: int, message: str) -> NoReturn:
        """Raise a FormatError at a word, counted from 0 at the start of the file; past the last word, at the end."""
        place = next(islice(re.finditer(r"\S+", self._text), index, None), None)
        self._fail_at(place.start() if place else len(self._text.rstrip()), message)

    def _fail_at(self, offset: int, message: str) -> NoReturn:
        line = self._text.count("\n", 0, offset) + 1
        column = offset - self._text.rfind("\n", 0, offset)
        raise FormatError(f"{self._name}:{line}:{column}: {message}")


def _pieces(text: str) -> Iterator[list[str]]:
    """Yield the words of one piece of the text after the other, so that never all of them are held."""
    start = 0
    while start < len(text):
        gap = _SPACE.search(text, start + _PIECE)
        end = gap.start() if gap else len(text)
        yield text[start:end].split()
        start = end


def _shown(word: str) -> str:
    """Write a word for a message, long ones cut."""
    return repr(word if len(word) <= 40 else word[:40] + "...") if word else "nothing"
