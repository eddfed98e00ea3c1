"""The style of all plots, in the colours of the boards, and how they are written."""

import textwrap
import warnings
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from circuits.draw import style
from circuits.draw.style import INK, PAPER
from spnpolicy.envs import sprites

_LINE = f"#{bytes(sprites.LINE).hex()}"
_LINE_STYLES = ("-", "--", "-.", ":")
_COLORS = 6


def new_axes(*, title: str, xlabel: str, ylabel: str, height: float = 5.2) -> tuple[Figure, Axes]:
    """Return a figure in the style of all plots, with its axes."""
    figure = style.new_figure(9.0, height)
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    # The figure's title and not that of the axes, which begins to the right of long names.
    figure.suptitle(textwrap.fill(plain(title), 100), x=0.012, ha="left", fontsize=11, color=INK)
    axes.set_xlabel(xlabel, color=INK)
    axes.set_ylabel(ylabel, color=INK)
    axes.set_facecolor(PAPER)
    axes.grid(axis="y", color=_LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def series_style(number: int) -> tuple[tuple[float, float, float], str]:
    """Return colour and dashes of the n-th line of a plot; the first 24 pairs differ."""
    return agent_color(number % _COLORS), _LINE_STYLES[(number + number // _COLORS) % len(_LINE_STYLES)]


def plain(text: str, longest: int | None = None) -> str:
    """Return text that is drawn as it is: dollar signs would start formulas."""
    shown = text if longest is None or len(text) <= longest else f"{text[: longest - 1]}…"
    return shown.replace("$", r"\$")


def agent_color(agent: int) -> tuple[float, float, float]:
    """Return the colour that an agent has on boards."""
    red, green, blue = sprites.agent_color(agent)
    return red / 255, green / 255, blue / 255


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure so that a crash leaves no half of it."""
    with warnings.catch_warnings():
        # A name may have letters that the font lacks: boxes in the picture say enough.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        style.save_figure(figure, path)
