"""Pictures of level-based foraging; the package's own pictures need a display."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageDraw

from spnpolicy.envs.sprites import (
    BOARD,
    INK,
    OVERSAMPLING,
    Color,
    agent_sprite,
    board_corner,
    draw_disc,
    empty_board,
    shrunk,
    write_caption,
    write_label,
)

BOARD_PIXELS = 240
SMALLEST_CELL = 12
APPLE: Color = (190, 44, 52)
LEAF: Color = (94, 140, 62)


def render_foraging(
    field: Int[np.ndarray, "rows columns"],
    agents: Sequence[tuple[int, int, int]],
    *,
    share: float,
    time: int,
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw one game: apples are food, coloured discs are agents, the number on each is its level.

    Args:
        field: the level of the food in every cell, 0 where there is none.
        agents: row, column and level of every agent.
        share: share of all food that has been collected, from 0 to 1.
        time: steps done.

    Returns:
        RGB picture, shape (height, width, 3).
    """
    rows, columns = field.shape
    cell = max(SMALLEST_CELL, BOARD_PIXELS // max(rows, columns))
    picture = empty_board(rows, columns, cell).copy()
    left, top = board_corner(picture.width, columns, cell)
    things = [(row, column, _food_sprite(cell, str(field[row, column]))) for row, column in np.argwhere(field).tolist()]
    things += [(row, column, agent_sprite(cell, i, str(level))) for i, (row, column, level) in enumerate(agents)]
    for row, column, sprite in things:
        picture.paste(sprite, (left + column * cell, top + row * cell), sprite)
    write_caption(picture, columns, cell, f"{share:.0%} collected", f"step {time}")
    return np.array(picture, np.uint8)


@lru_cache(maxsize=64)
def _food_sprite(cell: int, label: str) -> Image.Image:
    """Return an apple with a number."""
    side = cell * OVERSAMPLING
    sprite = Image.new("RGBA", (side, side), (*BOARD, 0))
    draw = ImageDraw.Draw(sprite)
    draw.line((side * 0.5, side * 0.28, side * 0.54, side * 0.07), INK, max(1, side // 18))
    draw.ellipse((side * 0.54, side * 0.07, side * 0.78, side * 0.20), LEAF)
    draw_disc(draw, side, 0.35, (*APPLE, 255), shift=0.08)
    write_label(draw, side, label, BOARD, shift=0.08)
    return shrunk(sprite, cell)
