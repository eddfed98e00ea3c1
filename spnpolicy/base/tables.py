"""Tables of text for people, and of CSV for programs."""

import csv
import io
from collections.abc import Iterable, Sequence


def aligned(rows: Iterable[Sequence[str]], *, indent: str = "") -> list[str]:
    """Return rows of cells as lines with aligned columns."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows)
    return [f"{indent}{line}".rstrip() for line in cells]


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as CSV; cells with commas, quotes or line ends are quoted."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
