"""Draw the measured times: one picture for shared weights, one for weights of every state's own."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from benchmarks.circuit_speed.results import Result

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = "osD^vP"
FLOOR = "memory floor"


def draw(results: Sequence[Result], work: str, engines: Sequence[str], title: str, path: Path) -> None:
    """Draw time against the number of variables, a row per layer and a column per batch.

    With a floor, it is drawn too, and a last column shows how many times the floor our engine takes.
    """
    timed = [r for r in results if r.work == work and r.cpu_median is not None]
    layers = list(dict.fromkeys(r.layer for r in timed))
    batches = sorted({r.batch for r in timed})
    columns = len(batches) + any(r.floor for r in timed)
    figure, axes = plt.subplots(
        len(layers), columns, figsize=(3.1 * columns + 0.6, 2.7 * len(layers) + 1.0), squeeze=False, sharex=True
    )
    for row, layer in zip(axes, layers, strict=True):
        for axis, batch in zip(row, batches, strict=False):
            _times(axis, [r for r in timed if (r.layer, r.batch) == (layer, batch)], engines)
            axis.set_title(f"{layer}, batch {batch}", fontsize=10)
        if columns > len(batches):
            _ratios(row[-1], [r for r in timed if r.layer == layer and r.engine == engines[0]])
            row[-1].set_title(f"{layer}, {engines[0]} / floor", fontsize=10)
        row[0].set_ylabel("milliseconds")
    for axis in axes.flat:
        _dress(axis, sorted({r.size for r in timed}))
    for axis in axes[-1]:
        axis.set_xlabel("variables")
    handles = _handles(axes[:, : len(batches)].flat, [*engines, FLOOR])
    figure.suptitle(title, fontsize=11)
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=len(handles), frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _handles(axes: Iterable[Any], order: Sequence[str]) -> dict[str, Any]:
    found = {text: line for axis in axes for line, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    return {text: found[text] for text in order if text in found}


def _times(axis: Any, results: Sequence[Result], engines: Sequence[str]) -> None:
    for name, color, marker in zip(engines, COLORS, MARKERS, strict=False):
        own = [r for r in results if r.engine == name]
        if own:
            axis.plot(
                [r.size for r in own], [r.cpu_median for r in own], marker + "-", ms=4, lw=1.4, color=color, label=name
            )
    floor = {r.size: r.floor for r in results if r.floor}
    if floor:
        axis.plot(list(floor), list(floor.values()), "--", lw=1.0, color="0.4", label=FLOOR)


def _ratios(axis: Any, results: Sequence[Result]) -> None:
    for batch, style in zip(sorted({r.batch for r in results}), (":", "--", "-", "-.") * 3, strict=False):
        own = [r for r in results if r.batch == batch]
        ratios = [r.ratio_to_floor for r in own]
        axis.plot([r.size for r in own], ratios, "o" + style, ms=4, lw=1.4, color=COLORS[0], label=f"batch {batch}")
    axis.legend(frameon=False, fontsize=8)


def _dress(axis: Any, sizes: Sequence[int]) -> None:
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value < 1 else f"{value:,.0f}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.grid(color="0.9", lw=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
