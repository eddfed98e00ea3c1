"""Draw a marginal: bars for one variable, a heat map with its two margins for a pair; before and after evidence."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from circuits.distribution import CircuitDistribution, check_single
from circuits.draw.style import FAINT, INK, PAPER, USED, Labels, ink_on, new_figure, number, save_figure, shades
from circuits.errors import StructureError
from circuits.evidence import EvidenceLike
from circuits.queries.marginal import check_variables

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

_CELL = 0.52
_MARGIN_BARS = 0.75
_MAX_LABELLED = 20
"""Values of a variable up to which every cell has its number."""
_TITLE = 0.6
_GAP = 0.5


def draw_table(
    distribution: CircuitDistribution,
    variables: int | Sequence[int],
    *,
    given: EvidenceLike | None = None,
    names: Sequence[str] | None = None,
    value_names: Sequence[str] | Sequence[Sequence[str]] | None = None,
    path: str | os.PathLike[str] | None = None,
) -> "matplotlib.figure.Figure":
    """Draw the exact marginal of one or two variables, beside the conditional when evidence is given.

    One variable gives bars, grey before and coloured after the evidence. Two give a heat map with numbers, the first
    variable down and the second across, and both single marginals as bars at its sides; after the evidence a second
    map follows with the same colours.

    Args:
        distribution: no batch dimensions.
        variables: one or two distinct variables.
        given: evidence; see `Evidence.of`.
        names: of all variables; x0, x1, ... when None.
        value_names: one list for all variables, or one per variable; 0, 1, ... when None.
        path: where to write the picture, if anywhere; ends in .png, .svg or .pdf.

    Returns:
        A matplotlib figure, equal for equal arguments.

    Raises:
        StructureError: a distribution with batch rows, more than two variables, or wrong names.
        EvidenceError: a variable that does not exist or is named twice, or malformed evidence.
        ImpossibleEvidenceError: the evidence has probability zero.
    """
    cardinalities = check_single(distribution, "a picture shows").circuit.cardinalities
    chosen = check_variables([variables] if isinstance(variables, int) else variables, len(cardinalities))
    if len(chosen) not in (1, 2):
        raise StructureError(f"a picture shows one or two variables, not {len(chosen)}; draw pairs, or use marginal().")
    labels = Labels(cardinalities, names, value_names)
    tables = [_table(distribution, chosen)]
    about = ", ".join(labels.variables[variable] for variable in chosen)
    titles = [f"P({about})"]
    if given is not None:
        tables.append(_table(distribution.condition(given), chosen))
        titles.append(f"P({about} | {labels.evidence(given)})")
    figure = _bars(tables, titles, chosen[0], labels) if len(chosen) == 1 else _maps(tables, titles, chosen, labels)
    if path is not None:
        save_figure(figure, path)
    return figure


def _table(distribution: CircuitDistribution, variables: tuple[int, ...]) -> np.ndarray:
    return distribution.marginal(variables).detach().cpu().double().numpy()


def _bars(
    tables: Sequence[np.ndarray], titles: Sequence[str], variable: int, labels: Labels
) -> "matplotlib.figure.Figure":
    """Return bars of one variable, one colour for each table."""
    count = len(tables[0])
    names = labels.values[variable][:count]
    step = max(0.62 * len(tables), 0.1 * max(map(len, names)) + 0.1)
    width = max(4.6, 1.1 + step * count, 0.9 + 0.09 * max(map(len, titles)))
    figure = new_figure(width, 3.6 + 0.24 * len(titles))
    axes = figure.add_axes((0.6 / width, 0.14, 1 - 0.95 / width, 0.62 if len(titles) > 1 else 0.68))
    colors = [USED] if len(tables) == 1 else [FAINT, USED]
    thickness = 0.7 / len(tables)
    for position, (table, color) in enumerate(zip(tables, colors, strict=True)):
        places = np.arange(count) + thickness * (position - (len(tables) - 1) / 2)
        bars = axes.bar(places, table, thickness * 0.94, color=color, gid="bar")
        axes.bar_label(bars, [number(p) for p in table.tolist()], fontsize=8, color=INK, padding=1.5)
    axes.set_xticks(np.arange(count), names, fontsize=9, color=INK)
    top = 1.14 * max(float(table.max()) for table in tables)
    axes.set(ylim=(0, top), xlim=(-0.6, count - 0.4))
    axes.set_facecolor(PAPER)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(axis="x", length=0)
    axes.set_yticks([])
    for position, (title, color) in enumerate(zip(titles, colors, strict=True)):
        y = 1 - (0.32 + 0.28 * position) / figure.get_figheight()
        x = 0.35 / width
        figure.text(x, y, "\N{BLACK SQUARE}", color=color, fontsize=12, va="center_baseline")
        figure.text(x + 0.2 / width, y, title, color=INK, fontsize=11, va="center_baseline")
    return figure


def _maps(
    tables: Sequence[np.ndarray], titles: Sequence[str], variables: tuple[int, ...], labels: Labels
) -> "matplotlib.figure.Figure":
    """Return a heat map for each table, side by side, on one scale of colours."""
    rows, columns = tables[0].shape
    row_names = labels.values[variables[0]][:rows]
    column_names = labels.values[variables[1]][:columns]
    longest = max(map(len, column_names))
    is_steep = 0.085 * longest > _CELL
    left = 0.6 + 0.085 * max(map(len, row_names))
    below = 0.5 + (0.085 * longest if is_steep else 0.15)
    cell = max(min(_CELL, 8.0 / max(rows, columns)), 0.06)
    core = max(cell * columns, 1.2), max(cell * rows, 1.2)
    panel = left + core[0] + _MARGIN_BARS + _GAP
    panel = max(panel, 0.2 + 0.095 * max(map(len, titles)))
    width, height = panel * len(tables) + 0.3, _TITLE + _MARGIN_BARS + core[1] + below + 0.25
    figure = new_figure(width, height)

    def place(left: float, bottom: float, across: float, up: float) -> "matplotlib.axes.Axes":
        return figure.add_axes((left / width, bottom / height, across / width, up / height))

    # One scale for all maps, or the same shade would mean different numbers before and after.
    largest = max(float(table.max()) for table in tables)
    for position, (table, title) in enumerate(zip(tables, titles, strict=True)):
        x = position * panel + 0.15
        figure.text((x + 0.2) / width, 1 - 0.35 / height, title, fontsize=11, color=INK, va="center")
        axes = place(x + left, below, *core)
        _heat(axes, table, largest)
        axes.set_xticks(range(columns), column_names, rotation=90 if is_steep else 0)
        axes.set_yticks(range(rows), row_names)
        axes.set_xlabel(labels.variables[variables[1]], color=INK, fontsize=9.5)
        axes.set_ylabel(labels.variables[variables[0]], color=INK, fontsize=9.5)
        if max(rows, columns) > _MAX_LABELLED:
            axes.set(xticks=[], yticks=[])
        above = place(x + left, below + core[1] + 0.06, core[0], _MARGIN_BARS - 0.1)
        beside = place(x + left + core[0] + 0.06, below, _MARGIN_BARS - 0.1, core[1])
        _margin(above, table.sum(0), is_vertical=True)
        _margin(beside, table.sum(1), is_vertical=False)
    return figure


def _heat(axes: "matplotlib.axes.Axes", table: np.ndarray, largest: float) -> None:
    colors = shades(table / (largest or 1.0))
    axes.imshow(colors, aspect="auto", interpolation="nearest", gid="table")
    rows, columns = table.shape
    axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
    axes.tick_params(which="both", length=0, labelsize=8.5, labelcolor=INK)
    axes.spines[:].set_visible(False)
    if max(rows, columns) > _MAX_LABELLED:
        return
    axes.grid(which="minor", color=PAPER, linewidth=1.5)
    for row, column in np.ndindex(*table.shape):
        p = float(table[row, column])
        color = FAINT if p == 0 else ink_on(p / largest)
        axes.text(column, row, number(p), ha="center", va="center", fontsize=8, color=color, gid="cell")


def _margin(axes: "matplotlib.axes.Axes", values: np.ndarray, *, is_vertical: bool) -> None:
    bars = (axes.bar if is_vertical else axes.barh)(range(len(values)), values, 0.8, color=FAINT, gid="margin")
    along, across = (-0.5, len(values) - 0.5), (0.0, 1.5 * max(float(values.max()), 1e-12))
    if is_vertical:
        axes.set(xlim=along, ylim=across)
    else:
        axes.set(xlim=across, ylim=along[::-1])
    if len(values) <= _MAX_LABELLED:
        axes.bar_label(bars, [number(p) for p in values.tolist()], fontsize=7.5, color=INK, padding=1.5)
    axes.set_axis_off()
