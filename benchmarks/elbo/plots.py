"""Draw the gaps: of all models at a glance, against time, and against the number of weights."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.elbo.results import Point, Row
from benchmarks.elbo.verdict import OURS, PUBLISHED, by_model, is_ours, ours, tightest

FLOOR = 1e-9
COLORS = {
    OURS: "#0072b2",
    "fit_structure": "#0072b2",
    "keep_set": "#56b4e9",
    "clique_tree": "#009e73",
    "published": "#d55e00",
    "published, annealed": "#e69f00",
    "mean_field": "0.55",
    "structured_mean_field": "#cc79a7",
    "loopy_bp": "black",
}
KEEP_SET_SHADES = ("#0072b2", "#56b4e9", "#004166", "#88ccee")
MARKERS = {
    OURS: "o",
    "clique_tree": "*",
    "published": "s",
    "published, annealed": "D",
    "mean_field": "^",
    "structured_mean_field": "v",
    "loopy_bp": "x",
}
OVERVIEW = (OURS, "published", "structured_mean_field", "mean_field", "loopy_bp")
LEGEND = {
    OURS: "ours, the best circuit",
    "published": "published construction, the better training",
    "structured_mean_field": "structured mean field",
    "mean_field": "mean field",
    "loopy_bp": "loopy BP, |error| (no bound)",
}
POINTS = ("mean_field", "structured_mean_field", "clique_tree", "loopy_bp")
"""Methods drawn as points: the time they took in all, and what they found."""
PANEL_ROWS = 32
MOST_PANELS = 8


def draw_all(rows: Mapping[str, Sequence[Row]], curves: Sequence[Point], folder: Path) -> None:
    """Draw the three pictures into a folder; one without data is left out."""
    measured = [row for group in ("ising", "uai") for row in rows[group]]
    if measured:
        draw_overview(measured, folder / "gap_overview.png")
    if curves:
        draw_time(measured, curves, folder / "gap_against_time.png")
    if rows["weights"]:
        draw_weights(rows["weights"], folder / "gap_against_weights.png")


def color_of(method: str, keep_sets: Sequence[str] = ()) -> str:
    """Return the colour of a method; several keep_set circuits have shades of one."""
    if len(keep_sets) > 1 and method in keep_sets:
        return KEEP_SET_SHADES[list(keep_sets).index(method) % len(KEEP_SET_SHADES)]
    return COLORS.get(method, COLORS.get(method.split()[0], "black"))


def _shown(found: dict[str, Row], method: str) -> float | None:
    """Return the gap to draw: the floor for what is exact, inf for what failed, None for what was not run."""
    if method == OURS:
        ran, row = any(is_ours(name) for name in found), ours(found)
    elif method == "published":
        ran, row = any(name in found for name in PUBLISHED), tightest(found.values(), lambda r: r.method in PUBLISHED)
    else:
        ran, row = method in found, found.get(method)
    if not ran:
        return None
    if row is None or not row.is_usable:
        return math.inf
    return None if row.gap is None else max(FLOOR, abs(row.gap))


def draw_overview(rows: Sequence[Row], path: Path) -> None:
    """Draw one line per model with a marker per method, on a logarithmic scale."""
    models = by_model(rows)
    panels = _panels(models)
    finite = [g for found in models.values() for m in OVERVIEW if (g := _shown(found, m)) is not None and g < math.inf]
    end = 10 ** (math.ceil(math.log10(max([1.0, *finite]))) + 1)
    longest = max(len(panel) for panel in panels)
    figure, axes = plt.subplots(
        1, len(panels), figsize=(max(9.0, 5.4 * len(panels)), 0.26 * longest + 2.2), squeeze=False, layout="constrained"
    )
    for axis, names in zip(axes[0], panels, strict=True):
        for method in OVERVIEW:
            points = [(_shown(models[name], method), place) for place, name in enumerate(names)]
            places = [(min(gap, end), place) for gap, place in points if gap is not None]
            color, is_hollow = COLORS[method], method in (OURS, "mean_field")
            paint = {"c": color} if method == "loopy_bp" else {"facecolors": "none" if is_hollow else color}
            edges = {} if method == "loopy_bp" else {"edgecolors": color}
            look = {"marker": MARKERS[method], "s": 52 if method == OURS else 24, "linewidths": 1.1, **paint, **edges}
            xs, ys = zip(*places, strict=True) if places else ((), ())
            axis.scatter(xs, ys, label=LEGEND[method], zorder=3, clip_on=False, **look)
        _dress_overview(axis, names, end, longest)
    handles, texts = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    label = "gap to log Z in nats; exact: at most 1e-9; -inf: a bound of -inf, or the method failed"
    figure.supxlabel(label, fontsize=9)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _panels(models: dict[str, dict[str, Row]]) -> list[list[str]]:
    """Split the models into columns: Ising grids first, then the others in even parts."""
    group_of = {name: next(iter(found.values())).group for name, found in models.items()}
    panels: list[list[str]] = []
    for group in dict.fromkeys(group_of.values()):
        names = [name for name in models if group_of[name] == group]
        parts = math.ceil(len(names) / PANEL_ROWS)
        size = math.ceil(len(names) / parts)
        panels += [names[i : i + size] for i in range(0, len(names), size)]
    return panels


def _dress_overview(axis: Any, names: Sequence[str], end: float, longest: int) -> None:
    axis.set_xscale("log")
    axis.set_xlim(FLOOR / 2, end * 2)
    powers = range(-9, round(math.log10(end)), 3)
    axis.set_xticks([*(10.0**power for power in powers), end], ["exact", *(f"1e{p}" for p in powers[1:]), "-inf"])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_ylim(longest - 0.4, -0.6)
    axis.set_yticks(range(len(names)), names)
    axis.grid(color="0.92", lw=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)


def draw_time(rows: Sequence[Row], curves: Sequence[Point], path: Path) -> None:
    """Draw the gap against time: lines for circuits, one point for the others, one panel per model."""
    names = _interesting(by_model(rows), {point.model for point in curves})
    columns = min(4, len(names))
    lines = math.ceil(len(names) / max(1, columns))
    if not names:
        return
    figure, axes = plt.subplots(
        lines, columns, figsize=(3.6 * columns, 2.9 * lines + 0.8), squeeze=False, layout="constrained"
    )
    keep_sets = _by_labels(curves, "keep_set")
    handles: dict[str, Any] = {}
    for axis, name in zip(axes.flat, names, strict=False):
        for method in [*_by_labels(curves, "fit_structure"), *keep_sets, *PUBLISHED]:
            own = [(p.seconds, p.gap) for p in curves if (p.model, p.method) == (name, method) and p.gap is not None]
            if own := [(seconds, max(FLOOR, gap)) for seconds, gap in own if gap < math.inf]:
                xs, ys = zip(*own, strict=True)
                (handles[method],) = axis.step(xs, ys, where="post", lw=1.6, color=color_of(method, keep_sets))
                axis.plot(xs[-1], ys[-1], "o", ms=4, color=color_of(method, keep_sets))
        for row in by_model(rows)[name].values():
            if row.method in POINTS and row.is_usable and row.gap is not None and abs(row.gap) < math.inf:
                handles[row.method] = axis.scatter(
                    [max(1e-3, row.seconds)], [max(FLOOR, abs(row.gap))], marker=MARKERS[row.method], s=36,
                    color=COLORS[row.method], zorder=3,
                )  # fmt: skip
        _dress(axis, name, "seconds")
    for axis in list(axes.flat)[len(names) :]:
        axis.set_visible(False)
    for row_of_axes in axes:
        row_of_axes[0].set_ylabel("gap to log Z (nats)")
    texts = [f"{name}, |error|" if name == "loopy_bp" else name.replace("_", " ") for name in handles]
    figure.legend(handles.values(), texts, loc="outside lower center", ncols=min(5, len(handles)), frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _by_labels(curves: Sequence[Point], family: str) -> list[str]:
    """Return the methods of a family, fewest labels first."""
    found = {point.method for point in curves if point.method.startswith(family)}
    return sorted(found, key=lambda method: int(method.split()[1]))


def _interesting(models: dict[str, dict[str, Row]], drawn: Iterable[str]) -> list[str]:
    """Return the models where the gap of our fitted circuits is largest: at most four grids, then others."""
    gaps: dict[str, float] = {}
    for name in drawn:
        found = models.get(name, {})
        best = tightest(found.values(), lambda row: row.method.startswith(("keep_set", "fit_structure")))
        if best is not None and best.gap is not None and best.gap < math.inf:
            gaps[name] = best.gap
    order = sorted(gaps, key=lambda name: -gaps[name])
    grids = [name for name in order if name.startswith("ising ")]
    others = [name for name in order if not name.startswith("ising ")]
    half = MOST_PANELS // 2
    most = max(half, MOST_PANELS - len(others)), max(half, MOST_PANELS - len(grids))
    return [*grids[: most[0]], *others[: most[1]]]


def draw_weights(rows: Sequence[Row], path: Path) -> None:
    """Draw the gap against the number of weights, the labels or copies written beside the points."""
    names = list(dict.fromkeys(row.model for row in rows))
    figure, axes = plt.subplots(1, len(names), figsize=(4.8 * len(names), 4.0), squeeze=False, layout="constrained")
    for axis, name in zip(axes[0], names, strict=True):
        for family, marker, above in (("keep_set", "o", False), ("published", "s", True)):
            own = [row for row in rows if row.model == name and row.method.startswith(family) and row.gap is not None]
            own = sorted((row for row in own if row.is_usable), key=lambda row: row.parameters or 0)
            xs, ys = [row.parameters or 1 for row in own], [max(FLOOR, row.gap or 0.0) for row in own]
            axis.plot(xs, ys, marker + "-", ms=5, lw=1.6, color=COLORS[family], label=family)
            for row, x, y in zip(own, xs, ys, strict=True):
                axis.annotate(row.method.split()[1], (x, y), textcoords="offset points", fontsize=8,
                              xytext=(0, 7 if above else -13), ha="center", color=COLORS[family])  # fmt: skip
        _dress(axis, name, "weights (beside the points: labels or copies)")
        axis.margins(0.12)
    axes[0][0].set_ylabel("gap to log Z (nats)")
    axes[0][0].legend(frameon=False, fontsize=9, loc="lower left")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _dress(axis: Any, title: str, label: str) -> None:
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(label, fontsize=9)
    axis.xaxis.set_major_locator(_locator(axis.get_xlim()))
    lowest, highest = axis.get_ylim()
    if lowest < 2 * FLOOR:
        axis.set_yticks([10.0**power for power in range(-9, math.ceil(math.log10(highest)), 3)])
    else:
        axis.yaxis.set_major_locator(_locator((lowest, highest)))
    axis.xaxis.set_major_formatter(FuncFormatter(_tick))
    axis.yaxis.set_major_formatter(FuncFormatter(_tick))
    axis.minorticks_off()
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.grid(color="0.92", lw=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)


def _locator(limits: tuple[float, float]) -> LogLocator:
    """Return where labels stand: at powers of ten, and at twice and five times them on a short axis."""
    decades = math.log10(limits[1] / limits[0])
    return LogLocator(subs=(1.0,) if decades > 2.5 else (1.0, 2.0, 5.0), numticks=7)


def _tick(value: float, _: int) -> str:
    """Return the label of a power of ten; the floor is where exact results stand."""
    if value <= FLOOR:
        return "exact" if value == FLOOR else ""
    return f"{value:,g}" if 1e-3 <= value < 1e6 else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
