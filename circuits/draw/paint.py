"""Put boxes and lines on paper: curves, shades, labels that do not overlap, margins and a key."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from circuits.draw.boxes import Box, Edge
from circuits.draw.layout import Layout
from circuits.draw.style import BAND, FAINT, INK, PAPER, ink_on, new_figure, number, shade

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

_MARGIN = 0.35
_SMALLEST_WIDTH = 7.2
_GUTTER_CHARACTER = 0.068
_TITLE_LINE = 0.24
_KEY_HEIGHT = 0.5
_SAMPLES = 16
"""Points per step of a curve, for finding free places."""
_PREFERRED = (0.62, 0.7, 0.54, 0.46, 0.78, 0.38, 0.3, 0.66, 0.58, 0.5, 0.42, 0.74, 0.34, 0.26, 0.22, 0.82, 0.18)
"""Where a weight may stand on the line to the child, best first."""
_LABEL_SIZE = (0.27, 0.14)
_MAX_GUTTER = 3

_Lines = Sequence[np.ndarray]
"""Points (points, 2) of each edge."""


def paint(
    boxes: Sequence[Box], edges: Sequence[Edge], layout: Layout, titles: Sequence[str], *, has_numbers: bool
) -> "matplotlib.figure.Figure":
    """Return the figure; coordinates are inches from the lower left corner of the page."""
    margins = [_scopes_of(layer, boxes) for layer in layout.layers]
    gutter = _GUTTER_CHARACTER * max(len(line) for lines in margins for line in lines or [""])
    half = np.array([box.size for box in boxes]) / 2
    low, high = (layout.centers - half).min(0), (layout.centers + half).max(0)
    left = _MARGIN + gutter + (0.25 if gutter else 0.0)
    width = max(left + high[0] - low[0] + _MARGIN, _SMALLEST_WIDTH, 0.5 + 0.088 * max(map(len, titles)))
    bottom = _MARGIN + (_KEY_HEIGHT if has_numbers else 0.0)
    height = bottom + high[1] - low[1] + 0.42 + _TITLE_LINE * len(titles) + 0.1
    spare = width - left - _MARGIN - (high[0] - low[0])
    shift = np.array([left - low[0] + spare / 2, bottom - low[1]])
    figure = new_figure(width, height)
    # Axes over the whole page with its inches as coordinates: sizes of boxes and of text can then be compared.
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, width), ylim=(0, height))
    for position, title in enumerate(titles):
        y = height - 0.28 - _TITLE_LINE * position
        size = 12 if position == 0 else 9.5
        _write(axes, _MARGIN, y, title, size, gid="title")
    centers = layout.centers + shift
    for lines, layer in zip(margins, layout.layers, strict=True):
        if lines:
            y, half = float(centers[layer[0], 1]), max(0.21, 0.075 * len(lines) + 0.06)
            axes.axhspan(y - half, y + half, facecolor=BAND, linewidth=0, zorder=0)
            _write(axes, _MARGIN, y, "\n".join(lines), 8, alpha=0.75, gid="scope")
    _paint_edges(axes, boxes, edges, centers, [route + shift for route in layout.routes])
    for box, center in zip(boxes, centers, strict=True):
        _paint_box(axes, box, float(center[0]), float(center[1]))
    if has_numbers:
        weights = "; lines are as thick as their weight" if any(edge.weight is not None for edge in edges) else ""
        _paint_key(axes, "; a cell for each unit" if boxes[-1].kind == "region" else weights)
    return figure


def _write(axes: "matplotlib.axes.Axes", x: float, y: float, text: str, size: float, **look: Any) -> None:
    axes.text(x, y, text, fontsize=size, **{"color": INK, "va": "center", **look})


def _scopes_of(layer: Sequence[int], boxes: Sequence[Box]) -> list[str]:
    scopes = list(dict.fromkeys(boxes[index].scope for index in layer if boxes[index].scope))
    return scopes if len(scopes) <= _MAX_GUTTER else [*scopes[: _MAX_GUTTER - 1], f"and {len(scopes) - 2} more scopes"]


def _paint_edges(
    axes: "matplotlib.axes.Axes", boxes: Sequence[Box], edges: Sequence[Edge], centers: np.ndarray, routes: _Lines
) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    curves: list[np.ndarray] = []
    for edge, route in zip(edges, routes, strict=True):
        ends = route.copy()
        ends[0, 1] -= boxes[edge.parent].size[1] / 2
        ends[-1, 1] += boxes[edge.child].size[1] / 2
        points = [ends[0]]
        for upper, lower in pairwise(ends):
            # Control points straight below and above: curves leave and arrive upright, so pieces join without a corner.
            bend = np.array([0.0, 0.45 * (upper[1] - lower[1])])
            points += [upper - bend, lower + bend, lower]
        curves.append(np.array(points))
        codes = [Path.MOVETO, *[Path.CURVE4] * (len(points) - 1)]
        thickness = 1.0 if edge.weight is None else 0.5 + 3.2 * edge.weight
        dark = 0.55 if edge.flow is None else 0.13 + 0.77 * min(edge.flow, 1.0) ** 0.6
        look = {"facecolor": "none", "edgecolor": INK, "linewidth": thickness, "alpha": dark, "zorder": 2}
        axes.add_patch(PathPatch(Path(points, codes), capstyle="butt", gid="edge", **look))
    _paint_weights(axes, boxes, edges, centers, curves)


def _paint_weights(
    axes: "matplotlib.axes.Axes", boxes: Sequence[Box], edges: Sequence[Edge], centers: np.ndarray, curves: _Lines
) -> None:
    """Write each weight on its line where it covers nothing; where there is no room, thickness must do."""
    samples = [_sample(curve, np.linspace(0, 1, _SAMPLES)) for curve in curves]
    owner = np.repeat(np.arange(len(curves)), [len(sample) for sample in samples])
    everything = np.concatenate([*samples, np.zeros((0, 2))])
    size = np.array(_LABEL_SIZE)
    taken = [(center, (np.array(box.size) + size) / 2) for center, box in zip(centers, boxes, strict=True)]
    # A label fits where its centre is further from every taken centre than half of both sizes together, in x or in y.
    # Each label that is placed is taken for the next ones, so the order of the edges decides, the same for equal
    # pictures.
    blocks, reach = np.array([block for block, _ in taken]), np.array([half for _, half in taken])
    for position, edge in enumerate(edges):
        if edge.weight is None:
            continue
        places = _sample(curves[position], np.array(_PREFERRED), last=True)
        if len(curves[position]) > 4:
            places = np.concatenate([places, _sample(curves[position][:4], np.array(_PREFERRED))])
        # Of the free places the one that hides least of other lines; the line of the label may pass behind it.
        others = everything[owner != position]
        free = [place for place in places if not (np.abs(blocks - place) < reach).all(1).any()]
        if not free:
            continue
        crowd = [int((np.abs(others - place) < size / 2 + 0.02).all(1).sum()) for place in free]
        best = free[int(np.argmin(crowd))]
        blocks, reach = np.concatenate([blocks, best[None]]), np.concatenate([reach, size[None]])
        alpha = 1.0 if edge.flow is None or edge.flow > 0 else 0.45
        frame = {"boxstyle": "round,pad=0.12", "facecolor": PAPER, "linewidth": 0, "alpha": 0.9}
        _write(
            axes, best[0], best[1], number(edge.weight), 7, ha="center", zorder=4, alpha=alpha, gid="weight", bbox=frame
        )


def _sample(
    curve: Float[np.ndarray, "points 2"], where: Float[np.ndarray, " places"], *, last: bool = False
) -> Float[np.ndarray, "_ 2"]:
    """Return points of a chain of cubic curves: of every piece, or of the last one."""
    t = where[:, None]
    basis = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
    starts = [len(curve) - 4] if last else range(0, len(curve) - 1, 3)
    return np.concatenate([sum(b * curve[start + i] for i, b in enumerate(basis)) for start in starts])


def _paint_box(axes: "matplotlib.axes.Axes", box: Box, x: float, y: float) -> None:
    from matplotlib.patches import Circle, FancyBboxPatch

    flow = 0.0 if box.flow is None else box.flow
    filled = box.kind != "region" and not box.bars
    faint = box.flow is not None and box.flow <= 0
    face = shade(flow) if filled else PAPER
    look = {"facecolor": face, "edgecolor": FAINT if faint else INK, "linewidth": 1.0, "zorder": 3, "gid": box.kind}
    width, height = box.size
    if box.kind in ("sum", "product"):
        axes.add_patch(Circle((x, y), width / 2, **look))
    else:
        style = "round,pad=0,rounding_size=0.07"
        axes.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, boxstyle=style, **look))
    color = ink_on(flow) if filled else INK
    size = 8.0 if box.kind in ("input", "region") else 11.0
    top = y if not (box.bars or len(box.lines) > 1 or box.cells) else y + height / 2 - 0.14
    for position, line in enumerate(box.lines):
        look = {"color": color, "alpha": 0.5 if faint else 1.0, "ha": "center", "zorder": 5, "gid": f"{box.kind} label"}
        look["fontweight"] = "bold" if box.kind == "region" and position == 0 else "normal"
        look["va"] = "center_baseline" if size > 10 else "center"
        _write(axes, x, top - 0.16 * position, line, size, **look)
    if box.bars:
        _paint_bars(axes, box, x, top)
    if box.cells:
        _paint_cells(axes, box, x, y - height / 2 + 0.08)


def _paint_bars(axes: "matplotlib.axes.Axes", box: Box, x: float, top: float) -> None:
    """Write the values of an input below each other, with bars as long as their probabilities."""
    left, right = x - box.size[0] / 2 + 0.07, x + box.size[0] / 2 - 0.07
    flow = 1.0 if box.flow is None else box.flow
    places = top - 0.15 * np.arange(1, len(box.bars) + 1)
    lengths = [0.38 * weight for _, weight, _ in box.bars]
    axes.barh(places, lengths, 0.09, right - 0.68, color=shade(0.12 + 0.88 * flow), zorder=4)
    for y, (value, _, text) in zip(places, box.bars, strict=True):
        _write(axes, left, y, value, 7.5, zorder=5, gid="value")
        _write(axes, right, y, text, 7, ha="right", zorder=5, gid="probability")


def _paint_cells(axes: "matplotlib.axes.Axes", box: Box, x: float, bottom: float) -> None:
    """Show the units of a region as a row of cells, as dark as their use."""
    side = min(0.16, (box.size[0] - 0.16) / len(box.cells))
    places = x + side * (np.arange(len(box.cells)) - (len(box.cells) - 1) / 2)
    look = {"color": [shade(flow) for flow in box.cells], "edgecolor": FAINT, "linewidth": 0.6}
    axes.bar(places, 0.13, side, bottom, zorder=4, gid="unit", **look)


def _paint_key(axes: "matplotlib.axes.Axes", more: str) -> None:
    """Explain shades, and what more there is to explain, in the lower left corner."""
    step, y = 0.055, 0.27
    _write(axes, _MARGIN, y, "0", 8)
    cells = np.arange(20)
    axes.bar(_MARGIN + 0.14 + step * (cells + 0.5), 0.12, step + 0.005, y - 0.06, color=[shade(c / 19) for c in cells])
    _write(axes, _MARGIN + 0.2 + 20 * step, y, f"1   probability that a part is used{more}", 8, gid="key")
