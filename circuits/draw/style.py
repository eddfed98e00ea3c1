"""What the pictures of circuits share: colours, names of variables and values, numbers as text, and files."""

import io
import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from circuits.errors import StructureError
from circuits.evidence import Evidence, EvidenceLike
from circuits.files import replace_file
from circuits.variables import variables_of

if TYPE_CHECKING:
    import matplotlib.figure

INK = "#2d313a"
FAINT = "#c9c6bd"
PAPER = "#f6f4ef"
BAND = "#efece3"
USED = "#2f7f79"
"""Colour of what is certain; what is impossible is as pale as paper."""

_DPI = 130
_MAX_PIXELS = 12_000
_FEWEST_DPI = 16
"""With fewer, letters are less than two pixels high, which not every font can be."""
_LIFT = 0.75


class Labels:
    """Names of variables and values, checked against the circuit.

    Args:
        cardinalities: number of values of each variable.
        names: one per variable; x0, x1, ... when None.
        value_names: one list for all variables, or one list per variable; 0, 1, ... when None.

    Raises:
        StructureError: too few or too many names.
    """

    def __init__(self, cardinalities: Sequence[int], names: Any = None, value_names: Any = None) -> None:
        self.cardinalities, count = cardinalities, len(cardinalities)
        self.has_names = names is not None
        self.variables = [f"x{i}" for i in range(count)] if names is None else _texts("names", names)
        if len(self.variables) != count:
            raise StructureError(f"names has {len(self.variables)} entries, but there are {count} variables.")
        self.values = [[str(value) for value in range(k)] for k in cardinalities]
        if value_names is None:
            return
        lists = list(value_names)
        shared = all(isinstance(name, str) for name in lists)
        self.values = [_texts("value_names", each) for each in ([lists] * count if shared else lists)]
        if len(self.values) != count:
            raise StructureError(f"value_names has {len(self.values)} lists, but there are {count} variables.")
        for variable, (texts, cardinality) in enumerate(zip(self.values, cardinalities, strict=True)):
            if len(texts) < cardinality or (len(texts) > cardinality and not shared):
                raise StructureError(
                    f"value_names gives variable {variable} {len(texts)} names, but it has {cardinality} values."
                )

    def equation(self, variable: int, values: Sequence[int]) -> str:
        """Return "name = value", or "name in {values}" for several."""
        texts = [self.values[variable][value] for value in values]
        if len(texts) == 1:
            return f"{self.variables[variable]} = {texts[0]}"
        return f"{self.variables[variable]} \N{ELEMENT OF} {{{', '.join(texts)}}}"

    def scope(self, scope: int) -> str:
        """Return the variables of a bit mask in a short text; runs of unnamed variables become ranges."""
        members = list(variables_of(scope))
        parts: list[str] = []
        for _, neighbours in groupby(enumerate(members), lambda place: place[1] - place[0]):
            run = [variable for _, variable in neighbours]
            if len(run) > 2 and (not self.has_names or len(members) > 4):
                parts.append(f"{self.variables[run[0]]}\N{EN DASH}{self.variables[run[-1]]}")
            else:
                parts.extend(self.variables[variable] for variable in run)
        if len(parts) > 5:
            return ", ".join(parts[:4]) + f", \N{HORIZONTAL ELLIPSIS} ({len(members)} variables)"
        return ", ".join(parts)

    def evidence(self, evidence: EvidenceLike) -> str:
        """Return what the evidence says about each variable, in one line."""
        table = Evidence.of(evidence, self.cardinalities).log_weights
        if table.dim() > 2:
            raise StructureError(f"evidence has batch shape {tuple(table.shape[:-2])}; draw one row of it at a time.")
        parts = [self._about(variable, table[variable, :k]) for variable, k in enumerate(self.cardinalities)]
        said = [part for part in parts if part]
        more = f", \N{HORIZONTAL ELLIPSIS} ({len(said)} variables)" if len(said) > 5 else ""
        return ", ".join(said[:5]) + more or "nothing"

    def _about(self, variable: int, weights: Tensor) -> str:
        if bool((weights == 0).all()):
            return ""
        allowed = (weights > -float("inf")).nonzero().flatten().tolist()
        if bool((weights[allowed] != weights[allowed[:1]]).any()) or not allowed or weights[allowed[0]] != 0:
            return f"soft evidence on {self.variables[variable]}"
        return self.equation(variable, allowed)


def _texts(what: str, names: Any) -> list[str]:
    texts = list(names)
    if isinstance(names, str) or not all(isinstance(text, str) for text in texts):
        raise StructureError(f"{what} holds {names!r}; it must hold texts.")
    return texts


def number(probability: float) -> str:
    """Return a probability in at most four characters."""
    if probability == 0:
        return "0"
    if probability < 0.005:
        return "<.01"
    if probability >= 1 - 1e-6:
        return "1"
    return ">.99" if probability > 0.995 else f"{probability:.2f}"[1:]


def shade(probability: float) -> tuple[float, ...]:
    """Return the colour of a probability, from paper at 0 to full at 1; small ones are lifted to be seen."""
    return tuple(shades(np.array(probability)).tolist())


def shades(probabilities: np.ndarray) -> np.ndarray:
    """Return what `shade` returns for each of many, on a new last axis."""
    from matplotlib.colors import to_rgb

    # Flows may exceed one in the last digits.
    part = np.clip(probabilities, 0.0, 1.0)[..., None] ** _LIFT
    paper, used = np.array(to_rgb(PAPER)), np.array(to_rgb(USED))
    return paper + (used - paper) * part


def ink_on(probability: float) -> str:
    """Return the colour of text that is readable on `shade(probability)`."""
    return PAPER if probability > 0.6 else INK


def new_figure(width: float, height: float) -> "matplotlib.figure.Figure":
    """Return an empty figure of that many inches on paper colour; huge ones get fewer dots per inch.

    Raises:
        StructureError: so few dots per inch would be left that nothing could be read.
    """
    from matplotlib.figure import Figure

    dpi = min(_DPI, _MAX_PIXELS / max(width, height))
    if dpi < _FEWEST_DPI:
        raise StructureError(
            f"the picture would be {width:,.0f} x {height:,.0f} inches large, and at most "
            f"{_MAX_PIXELS // _FEWEST_DPI:,} either way can be read; draw fewer variables or values."
        )
    figure = Figure(figsize=(width, height), dpi=dpi)
    figure.set_facecolor(PAPER)
    return figure


def save_figure(figure: "matplotlib.figure.Figure", path: str | os.PathLike[str]) -> None:
    """Write a figure in the format that the name ends in, so that equal pictures give equal files.

    Raises:
        StructureError: the ending is not png, svg or pdf.
    """
    import matplotlib

    # Vector formats hold the date, and ids drawn at random: both would make equal pictures different files.
    undated = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    ending = Path(path).suffix[1:].lower()
    if ending not in undated:
        raise StructureError(f"{os.fspath(path)}: a picture's name must end in .png, .svg or .pdf.")
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "circuits"}):
        figure.savefig(file, format=ending, facecolor=PAPER, metadata=undated[ending])
    replace_file(Path(path), file.getvalue())
