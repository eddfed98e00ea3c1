"""A picture of an answer: the state beside every agent's marginals, before and after."""

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from circuits.draw.style import FAINT, INK, PAPER, new_figure
from spnpolicy.experiments.media.boards import Frame, board_of, draws
from spnpolicy.experiments.media.figures import agent_color, save_figure

_MAX_ROWS = 4
_BOARD_PIXELS = 300
_SMALLEST_CELL = 24
_KEY = "probability of each action; grey: before, coloured: given the evidence"


def draw_answer(
    path: Path,
    *,
    board: Frame | None,
    before: Float[np.ndarray, "agents actions"],
    after: Float[np.ndarray, "agents actions"] | None,
    action_names: Sequence[str],
    cardinalities: Sequence[int],
    title: str,
    notes: Mapping[int, str] | None = None,
) -> None:
    """Write a PNG with the state on the left and a bar chart per agent on the right.

    Args:
        path: where to write it.
        board: picture of the state, or None where there is none.
        before: marginals of the policy.
        after: marginals given the evidence; None to show one set of bars only.
        action_names: names of the actions.
        cardinalities: number of actions of each agent.
        title: one line above everything.
        notes: for some agents, a remark beside their name, such as "stuck".
    """
    agents = len(cardinalities)
    columns = ceil(agents / _MAX_ROWS)
    rows = ceil(agents / columns)
    board_width = 4.2 if board is not None else 0.0
    figure = new_figure(board_width + 4.3 * columns, max(4.4, 1.55 * rows + 1.2))
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
    figure.suptitle(title if after is None else f"{title}\n{_KEY}", color=INK, fontsize=11.5, linespacing=1.5)
    widths = ([board_width] if board is not None else []) + [4.3] * columns
    grid = figure.add_gridspec(rows, len(widths), width_ratios=widths)
    if board is not None:
        axes = figure.add_subplot(grid[:, 0])
        axes.imshow(board, interpolation="antialiased")
        axes.axis("off")
    for agent, cardinality in enumerate(cardinalities):
        axes = figure.add_subplot(grid[agent % rows, agent // rows + (board is not None)])
        new = None if after is None else after[agent, :cardinality]
        _show_bars(axes, agent, before[agent, :cardinality], new, action_names)
        axes.set_title(f"agent {agent}{(notes or {}).get(agent, '')}", loc="left", fontsize=10, color=INK)
    save_figure(figure, path)


def state_of(env: Any, index: int = 0) -> Frame | None:
    """Return the picture that an environment draws of a state, None where it draws none."""
    return board_of(env, index, side=_BOARD_PIXELS, smallest=_SMALLEST_CELL) if draws(env) else None


def _show_bars(axes: Axes, agent: int, before: Any, after: Any, names: Sequence[str]) -> None:
    places = np.arange(len(before))
    if after is None:
        _labelled_bars(axes, places, before, 0.7, agent_color(agent))
    else:
        _labelled_bars(axes, places - 0.21, before, 0.4, FAINT)
        _labelled_bars(axes, places + 0.21, after, 0.4, agent_color(agent))
    axes.set_xticks(places, list(names[: len(before)]), fontsize=9, color=INK)
    axes.set_ylim(0, 1.22)
    axes.set_yticks([0, 0.5, 1], ["0", "", "1"], fontsize=8, color=INK)
    axes.set_facecolor(PAPER)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", length=0)


def _labelled_bars(axes: Axes, places: Any, heights: Any, width: float, color: Any) -> None:
    bars = axes.bar(places, heights, width, color=color)
    texts = [f"{height:.2f}".replace("0.", ".", 1) if height >= 0.01 else "" for height in heights]
    axes.bar_label(bars, texts, fontsize=7.5, color=INK, padding=1)
