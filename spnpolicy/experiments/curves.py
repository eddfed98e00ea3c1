"""Learning curves: fraction of the optimum against env steps, one line and one band per algorithm."""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from spnpolicy.experiments.picture import INK, PAPER, agent_color, save_figure
from spnpolicy.experiments.results import Results, interval_over_runs

_LINE_STYLES = ("-", "--", "-.", ":")
_LABEL_GAP = 0.052
_TOP = 1.04


def draw_curves(results: Results, path: Path) -> None:
    """Write a PNG with the interquartile mean over runs and its 95 % bootstrap interval.

    Lines differ in colour and in dashes, and are named where they end.
    """
    figure = Figure(figsize=(9.0, 5.2), dpi=130, layout="constrained")
    figure.set_facecolor(PAPER)
    axes = figure.add_subplot()
    ends: list[tuple[float, str, tuple[float, float, float] | str]] = []
    for number, (algorithm, curve) in enumerate(results.curves.items()):
        intervals = [interval_over_runs(point) for point in curve.fractions.T]
        middle, low, high = (np.array(values) for values in zip(*intervals, strict=True))
        color = agent_color(number)
        axes.plot(curve.steps, middle, color=color, linewidth=2.0, linestyle=_LINE_STYLES[number % 4])
        if len(curve.fractions) > 1:
            axes.fill_between(curve.steps, low, high, color=color, alpha=0.16, linewidth=0)
        ends.append((float(middle[-1]), algorithm, color))
    for level, name in _reference_lines(results):
        axes.axhline(level, color=INK, linewidth=0.9, linestyle=(0, (1, 2)))
        ends.append((level, name, INK))
    _name_the_ends(axes, ends)
    _dress(axes, results)
    save_figure(figure, path)


def _reference_lines(results: Results) -> list[tuple[float, str]]:
    fixed = results.references.fixed_fraction
    lines = [(1.0, "exact optimum")]
    return lines if fixed is None else [*lines, (float(fixed.mean()), "fixed goal per agent")]


def _name_the_ends(axes: Axes, ends: list[tuple[float, str, tuple[float, float, float] | str]]) -> None:
    """Write names to the right of the plot, moved apart where they would overlap."""
    ends = sorted(ends, key=lambda end: end[0])
    places = _spread(np.array([level for level, _, _ in ends]))
    for place, (level, name, color) in zip(places, ends, strict=True):
        axes.annotate(
            f"{name}  {level:.3f}", xy=(1.0, level), xycoords=axes.get_yaxis_transform(), xytext=(1.035, place),
            textcoords=axes.get_yaxis_transform(), color=color, fontsize=9.5, va="center", annotation_clip=False,
            arrowprops={
                "arrowstyle": "-", "color": color, "linewidth": 0.7, "shrinkA": 2, "shrinkB": 0, "relpos": (0.0, 0.5),
            },
        )  # fmt: skip


def _spread(levels: Float[np.ndarray, " labels"]) -> Float[np.ndarray, " labels"]:
    """Return places for labels in rising order: near their levels, a line apart, inside the height of the plot."""
    places = levels.copy()
    for lower in range(len(places) - 1):
        places[lower + 1] = max(places[lower + 1], places[lower] + _LABEL_GAP)
    places[-1] = min(places[-1], _TOP)
    for upper in range(len(places) - 1, 0, -1):
        places[upper - 1] = min(places[upper - 1], places[upper] - _LABEL_GAP)
    return places


def _dress(axes: Axes, results: Results) -> None:
    discount = results.plan.trials[0].train.discount
    axes.set_title(
        f"{results.plan.name}: greedy play during training, interquartile mean and 95 % interval over runs",
        loc="left", pad=14, fontsize=11, color=INK,
    )  # fmt: skip
    axes.set_xlabel("env steps", color=INK)
    axes.set_ylabel(f"discounted return ({discount:g}) as a fraction of the exact optimum", color=INK)
    axes.set_xlim(0, max(int(curve.steps[-1]) for curve in results.curves.values()))
    axes.set_ylim(0, _TOP)
    axes.xaxis.set_major_formatter(FuncFormatter(_short_number))
    axes.set_facecolor(PAPER)
    axes.grid(axis="y", color="#e4e1d9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _short_number(value: float, _: object) -> str:
    if value >= 1e6:
        return f"{value / 1e6:g} M"
    return f"{value / 1e3:g} k" if value >= 1e3 else f"{value:g}"
