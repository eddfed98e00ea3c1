"""The pictures of a report: learning curves, scores with intervals, profiles, probability of improvement."""

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from circuits.draw.style import FAINT, INK
from spnpolicy.experiments.media.animation import OnPicture, untold
from spnpolicy.experiments.media.figures import new_axes, plain, save_figure, series_style
from spnpolicy.experiments.media.lines import draw_lines
from spnpolicy.experiments.reports.numbers import LESS_IS_BETTER, NORMALISED, Comparison, Numbers, TaskNumbers
from spnpolicy.experiments.reports.words import MEASURE_NAMES, counted
from spnpolicy.experiments.statistics.bootstrap import Interval

_LONGEST_NAME = 60
_FULL = (-0.02, 1.04)


class Picture(NamedTuple):
    """A picture and what it shows."""

    path: Path
    label: str
    """Label of the task, or "all tasks"."""
    title: str


def draw_pictures(comparison: Comparison, folder: Path, on_picture: OnPicture = untold) -> list[Picture]:
    """Write all pictures into a folder; an algorithm has the same colour in all of them."""
    drawers: Sequence[tuple[str, Callable[[Numbers, str, Mapping[str, int], Path], str | None]]] = (
        ("scores", _draw_scores),
        ("profiles", _draw_profiles),
        ("improvement", _draw_improvement),
    )
    total = len(comparison.tasks) + len(drawers) * len(comparison.parts)
    parts = count()
    pictures: list[Picture] = []
    measure = comparison.measure
    styles = _styles(comparison.parts)
    for number, task in enumerate(comparison.tasks, start=1):
        title = f"{task.label}: during training, interquartile mean and 95 % interval over runs"
        path = folder / f"curves{_suffix(number, len(comparison.tasks))}.png"
        on_picture("drawing", next(parts), total)
        limits = _limits(task) if measure in NORMALISED else None
        draw_lines(
            path,
            task.curves,
            title=title,
            ylabel=MEASURE_NAMES[measure],
            styles=styles,
            limits=limits,
            ticks=task.stage_changes,
        )
        pictures.append(Picture(path, task.label, title))
    for name, draw in drawers:
        for number, numbers in enumerate(comparison.parts, start=1):
            path = folder / f"{name}{_suffix(number, len(comparison.tasks))}.png"
            on_picture("drawing", next(parts), total)
            title = draw(numbers, measure, styles, path)
            if title is not None:
                pictures.append(Picture(path, numbers.label, title))
    return pictures


def _draw_scores(numbers: Numbers, measure: str, styles: Mapping[str, int], path: Path) -> str:
    """Draw a bar per algorithm from low to high with its estimate, and every run as a dot."""
    title = f"{numbers.label}: interquartile mean, its 95 % interval, and every run"
    rows = {name: row["iqm"] for name, row in numbers.aggregates.items()}
    figure, axes = new_axes(title=title, xlabel=MEASURE_NAMES[measure], ylabel="", height=_height(len(rows)))
    for place, (name, interval) in enumerate(rows.items()):
        color, _ = series_style(styles[name])
        _draw_interval(axes, place, interval, color)
        runs = np.concatenate(numbers.scores[name])
        axes.plot(runs, np.full(len(runs), place + 0.27), "o", color=color, markersize=3.5, alpha=0.55, linewidth=0)
    _name_rows(axes, [f"{name}  ({counted(numbers.runs(name), 'run')})" for name in rows])
    save_figure(figure, path)
    return title


def _draw_profiles(numbers: Numbers, measure: str, styles: Mapping[str, int], path: Path) -> str | None:
    if all(numbers.runs(name) == 1 for name in numbers.scores):
        return None  # nothing but steps from 1 to 0
    what = "share of runs that take more steps" if measure in LESS_IS_BETTER else "share of runs that score more"
    title = f"{numbers.label}: performance profiles, {what} than a threshold, with 95 % intervals"
    figure, axes = new_axes(title=title, xlabel=f"threshold: {MEASURE_NAMES[measure]}", ylabel=what)
    thresholds = numbers.profiles.thresholds
    for name, band in numbers.profiles.bands.items():
        color, style = series_style(styles[name])
        # A share changes where a run's score is, and not between.
        axes.step(
            thresholds, band.estimate, where="post", color=color, linestyle=style, linewidth=2.0,
            label=plain(name, _LONGEST_NAME),
        )  # fmt: skip
        axes.fill_between(thresholds, band.low, band.high, step="post", color=color, alpha=0.13, linewidth=0)
    axes.set_ylim(*_FULL)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
    axes.set_xlim(float(thresholds[0]), float(thresholds[-1]))
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9.5, labelcolor=INK)
    save_figure(figure, path)
    return title


def _draw_improvement(numbers: Numbers, measure: str, styles: Mapping[str, int], path: Path) -> str | None:
    if not numbers.pairs:
        return None
    title = f"{numbers.label}: probability that a run of the first is better than one of the second"
    figure, axes = new_axes(
        title=title, xlabel="probability of improvement, with 95 % interval", ylabel="",
        height=_height(len(numbers.pairs)),
    )  # fmt: skip
    for place, pair in enumerate(numbers.pairs):
        color, _ = series_style(styles[pair.first])
        _draw_interval(axes, place, pair.probability, color)
    axes.axvline(0.5, color=INK, linewidth=0.9, linestyle=(0, (1, 2)))
    axes.set_xlim(*_FULL)
    _name_rows(axes, [f"{pair.first}  >  {pair.second}" for pair in numbers.pairs])
    save_figure(figure, path)
    return title


def _draw_interval(axes: Axes, place: int, interval: Interval, color: Any) -> None:
    if not np.isnan(interval.low):
        # An interval of no width is still there to be seen.
        axes.plot([interval.low, interval.high], [place, place], color=color, linewidth=9, alpha=0.35,
                  solid_capstyle="butt")  # fmt: skip
    axes.plot([interval.estimate] * 2, [place - 0.17, place + 0.17], color=color, linewidth=2.5)


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [plain(name, _LONGEST_NAME) for name in names], fontsize=9.5, color=INK)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x", color=FAINT, linewidth=0.6)
    axes.spines["left"].set_visible(False)


def _styles(parts: Sequence[Numbers]) -> dict[str, int]:
    # The ranks over all tasks come last, and should have the first colours.
    names = dict.fromkeys(name for numbers in reversed(parts) for name in numbers.scores)
    return {name: number for number, name in enumerate(names)}


def _limits(task: TaskNumbers) -> tuple[float, float]:
    """Return limits that show 0 to 1, and more where there is more: a fraction of the optimum may be negative."""
    values = np.concatenate([curve.values.ravel() for curve, _ in task.curves.values()])
    return min(_FULL[0], float(values.min())), max(_FULL[1], float(values.max()))


def _height(rows: int) -> float:
    return 1.7 + 0.5 * rows


def _suffix(number: int, tasks: int) -> str:
    if tasks == 1:
        return ""
    return "-all" if number > tasks else f"-{number}"
