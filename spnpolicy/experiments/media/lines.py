"""Learning curves: evaluations against env steps, one line and one band each, named at their ends."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from circuits.draw.style import INK
from spnpolicy.experiments.media.figures import new_axes, plain, save_figure, series_style
from spnpolicy.experiments.statistics.bootstrap import Band
from spnpolicy.experiments.statistics.curves import Curve

_LABEL_GAP = 0.052
_TOP = 1.0
_LONGEST_NAME = 44
_TICK = 0.035
"""Height of a tick, of the whole picture's."""


def draw_lines(
    path: Path,
    curves: Mapping[str, tuple[Curve, Band]],
    *,
    title: str,
    ylabel: str,
    levels: Mapping[str, float] | None = None,
    styles: Mapping[str, int] | None = None,
    limits: tuple[float, float] | None = None,
    ticks: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Write a PNG with a line and a band for each curve; lines differ in colour and dashes and are named at their ends.

    Args:
        path: where to write it.
        curves: evaluations and what was made of them, by name.
        title: one or two lines above.
        ylabel: what is measured.
        levels: horizontal lines by name.
        styles: number of each curve's style, for the same colours in several pictures; None to count.
        limits: of the vertical axis; None for what the lines need.
        ticks: env steps, by name of the curve, at which curricula of its runs went on: short lines at the bottom.
    """
    # Said where they are, so that nobody has to guess what they are.
    meaning = "; a short line at the bottom: the next stage of a run's curriculum" if ticks else ""
    figure, axes = new_axes(title=title, xlabel=f"env steps{meaning}", ylabel=ylabel)
    ends: list[tuple[float, str, Any]] = []
    for number, (name, (curve, band)) in enumerate(curves.items()):
        color, style = series_style(number if styles is None else styles[name])
        # One evaluation makes no line: it is a dot.
        marker = "o" if len(curve.steps) == 1 else ""
        axes.plot(curve.steps, band.estimate, color=color, linewidth=2.0, linestyle=style, marker=marker)
        if len(curve.values) > 1:
            axes.fill_between(curve.steps, band.low, band.high, color=color, alpha=0.16, linewidth=0)
        ends.append((float(band.estimate[-1]), name, color))
        changes = (ticks or {}).get(name, ())
        axes.vlines(changes, 0.0, _TICK, transform=axes.get_xaxis_transform(), color=color, linewidth=1.0, alpha=0.7)
    for name, level in (levels or {}).items():
        axes.axhline(level, color=INK, linewidth=0.9, linestyle=(0, (1, 2)))
        ends.append((level, name, INK))
    axes.set_xlim(0, max(1, *(int(curve.steps[-1]) for curve, _ in curves.values())))
    if limits is not None:
        axes.set_ylim(*limits)
    axes.xaxis.set_major_formatter(FuncFormatter(_short_number))
    _name_the_ends(axes, ends)
    save_figure(figure, path)


def draw_intervals(axes: Axes, x: Sequence[float], rows: Sequence[Mapping[str, Any]], name: str, label: str) -> None:
    """Draw what columns "name", "name low" and "name high" of a table hold (`Interval.columns`): a line and a band."""
    axes.plot(x, [row[name] for row in rows], marker="o", label=label)
    low, high = ([row[f"{name} {bound}"] for row in rows] for bound in ("low", "high"))
    axes.fill_between(x, low, high, alpha=0.2)


def _name_the_ends(axes: Axes, ends: list[tuple[float, str, Any]]) -> None:
    """Write names to the right of the plot, moved apart where they would overlap."""
    bottom, top = axes.get_ylim()
    ends = sorted(ends, key=lambda end: end[0])
    places = _spread(np.array([(level - bottom) / (top - bottom) for level, _, _ in ends]))
    for place, (level, name, color) in zip(places, ends, strict=True):
        axes.annotate(
            f"{plain(name, _LONGEST_NAME)}  {level:.4g}", xy=(1.0, level), xycoords=axes.get_yaxis_transform(),
            xytext=(1.035, place), textcoords="axes fraction", color=color, fontsize=9.5, va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-", "color": color, "linewidth": 0.7, "shrinkA": 2, "shrinkB": 0, "relpos": (0.0, 0.5),
            },
        )  # fmt: skip


def _spread(levels: Float[np.ndarray, " labels"]) -> Float[np.ndarray, " labels"]:
    """Return places for labels in rising order: near their levels, a line apart, inside the height of the plot.

    Where there are more than fit, they come closer, down to the lower edge.
    """
    places = levels.copy()
    gap = min(_LABEL_GAP, _TOP / max(1, len(places) - 1))
    for lower in range(len(places) - 1):
        places[lower + 1] = max(places[lower + 1], places[lower] + gap)
    places[-1] = min(places[-1], _TOP)
    for upper in range(len(places) - 1, 0, -1):
        places[upper - 1] = min(places[upper - 1], places[upper] - gap)
    return places


def _short_number(value: float, _: object) -> str:
    if value >= 1e6:
        return f"{value / 1e6:g} M"
    return f"{value / 1e3:g} k" if value >= 1e3 else f"{value:g}"
