"""Pictures of the coverage gridworld, drawn at three times their size and averaged: edges come out smooth."""

from functools import lru_cache
from math import ceil, sqrt
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from spnpolicy.envs.board import Board
from spnpolicy.envs.checks import whole_number

if TYPE_CHECKING:
    from spnpolicy.envs.coverage import Coverage

Color = tuple[int, int, int]

OVERSAMPLING = 3
PAPER: Color = (246, 244, 239)
BOARD: Color = (255, 255, 255)
LINE: Color = (228, 225, 217)
BORDER: Color = (190, 186, 176)
INK: Color = (45, 49, 58)
FADED_INK: Color = (116, 118, 124)
TARGET: Color = (96, 102, 114)
AGENT_COLORS: tuple[Color, ...] = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
)
"""The palette of Okabe and Ito (2008) without black: told apart by people with any kind of colour vision."""


def render(
    env: "Coverage", index: int = 0, *, cell: int = 48, final: bool = False
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw one game of a batch.

    Goals are grey targets, agents are numbered discs; those in one cell shrink and stand side by side. The
    cell of a claimed goal (variant "simultaneous": an occupied one) is filled in the colour of its agent.

    Args:
        env: a coverage environment after `reset`.
        index: which game of the batch.
        cell: side of a grid cell in pixels, 12 or more.
        final: if that game ended on the latest step, draw what it reached instead of the new start.

    Returns:
        RGB picture, shape (height, width, 3).

    Raises:
        ConfigError: `cell` is not a whole number of at least 12.
        EnvError: the environment was not reset, or has no such game.
    """
    whole_number("render", "cell", cell, 12)
    board = env.board(index, final=final)
    picture = _empty_board(env.size, cell).copy()
    left = (picture.width - env.size * cell) // 2
    top = _margin(cell)
    groups = _agents_by_cell(board)
    for goal, place in enumerate(board.goal_cells[0]):
        owner = _owner(board, groups.get(int(place), []), bool(board.goal_flags[0, goal]))
        row, column = divmod(int(place), env.size)
        sprite = _goal_sprite(cell, owner)
        picture.paste(sprite, (left + column * cell, top + row * cell), sprite)
    for place, agents in groups.items():
        row, column = divmod(place, env.size)
        for agent, (x, y, side) in zip(agents, _slots(len(agents), cell), strict=True):
            sprite = _agent_sprite(side, agent)
            picture.paste(sprite, (left + column * cell + x, top + row * cell + y), sprite)
    _write_caption(picture, env, board, cell)
    return np.array(picture, np.uint8)


def _agents_by_cell(board: Board) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = {}
    for agent, place in enumerate(board.agent_cells[0].tolist()):
        groups.setdefault(place, []).append(agent)
    return groups


def _owner(board: Board, agents: list[int], is_reached: bool) -> int | None:
    """Return the agent whose colour a goal takes, None while the goal is free."""
    holders = [agent for agent in agents if board.agent_flags[0, agent]]
    return holders[0] if is_reached and holders else None


def _slots(count: int, cell: int) -> list[tuple[int, int, int]]:
    """Return (x, y, side) within a cell for each of several agents that share it."""
    if count == 1:
        return [(0, 0, cell)]
    columns = ceil(sqrt(count))
    rows = ceil(count / columns)
    # a disc fills only part of its square, so squares may overlap by a third and reach over the edge
    pitch = cell * 0.92 / columns
    side = round(pitch * 1.35)
    x_first = cell / 2 - pitch * (columns - 1) / 2 - side / 2
    y_first = cell / 2 - pitch * (rows - 1) / 2 - side / 2
    return [(round(x_first + i % columns * pitch), round(y_first + i // columns * pitch), side) for i in range(count)]


def _margin(cell: int) -> int:
    return max(8, cell // 3)


def _font(pixels: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=max(7.0, pixels))


def _caption_size(cell: int) -> int:
    return int(np.clip(cell * 0.34, 12, 22))


def _color(agent: int) -> Color:
    return AGENT_COLORS[agent % len(AGENT_COLORS)]


def _mix(color: Color, other: Color, share: float) -> Color:
    red, green, blue = (round(share * a + (1 - share) * b) for a, b in zip(color, other, strict=True))
    return red, green, blue


def _ink_on(color: Color) -> Color:
    """Return black or white, whichever is easier to read on a colour."""
    red, green, blue = color
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 150 else BOARD


@lru_cache(maxsize=8)
def _empty_board(size: int, cell: int) -> Image.Image:
    """Return paper, grid and room for the caption."""
    margin, scale, side = _margin(cell), OVERSAMPLING, size * cell
    caption = _caption_size(cell)
    width = max(side, 17 * caption) + 2 * margin
    height = margin + side + 3 * caption
    picture = Image.new("RGB", (width * scale, height * scale), PAPER)
    draw = ImageDraw.Draw(picture)
    left, top = (width - side) // 2 * scale, margin * scale
    right, bottom = left + side * scale, top + side * scale
    edge, radius = 2 * scale, max(2, cell // 8) * scale
    draw.rounded_rectangle((left - edge, top - edge, right + edge, bottom + edge), radius, BOARD, BORDER, edge // 2)
    for i in range(1, size):
        shift = i * cell * scale
        draw.line((left + shift, top, left + shift, bottom), LINE, scale)
        draw.line((left, top + shift, right, top + shift), LINE, scale)
    return picture.resize((width, height), Image.Resampling.BOX)


@lru_cache(maxsize=256)
def _goal_sprite(cell: int, owner: int | None) -> Image.Image:
    """Return a target; one with an owner is filled with a tint of the owner's colour."""
    side = cell * OVERSAMPLING
    color = TARGET if owner is None else _color(owner)
    sprite = Image.new("RGBA", (side, side), (*BOARD, 0))
    draw = ImageDraw.Draw(sprite)
    if owner is None:
        _disc(draw, side, 0.42, (*color, 255))
        _disc(draw, side, 0.365, (*_mix(color, BOARD, 0.10), 255))
        _disc(draw, side, 0.235, (*_mix(color, BOARD, 0.50), 255))
        _disc(draw, side, 0.175, (*_mix(color, BOARD, 0.10), 255))
        _disc(draw, side, 0.075, (*color, 255))
    else:
        draw.rectangle((0, 0, side, side), (*_mix(color, BOARD, 0.30), 255))
        _disc(draw, side, 0.465, (*_mix(color, INK, 0.80), 255))
        _disc(draw, side, 0.405, (*BOARD, 255))
    return _shrink(sprite, cell)


@lru_cache(maxsize=1024)
def _agent_sprite(cell: int, agent: int) -> Image.Image:
    """Return a numbered disc that throws a small shadow."""
    side = cell * OVERSAMPLING
    color = _color(agent)
    sprite = Image.new("RGBA", (side, side), (*BOARD, 0))
    draw = ImageDraw.Draw(sprite)
    _disc(draw, side, 0.375, (*INK, 60), shift=0.02)
    _disc(draw, side, 0.365, (*BOARD, 255))
    _disc(draw, side, 0.325, (*color, 255))
    number = str(agent)
    font = _font(side * (0.42, 0.36, 0.27)[min(len(number), 3) - 1])
    draw.text((side / 2, side / 2), number, fill=_ink_on(color), font=font, anchor="mm")
    return _shrink(sprite, cell)


def _disc(
    draw: ImageDraw.ImageDraw, side: int, radius: float, color: tuple[int, int, int, int], shift: float = 0.0
) -> None:
    """Draw a disc in the middle of a square; radius and downward shift are shares of its side."""
    x, y, r = side / 2, side * (0.5 + shift), side * radius
    draw.ellipse((x - r, y - r, x + r, y + r), color)


def _shrink(sprite: Image.Image, cell: int) -> Image.Image:
    """Return the sprite at its final size; premultiplied alpha keeps edges free of dark fringes."""
    return sprite.convert("RGBa").resize((cell, cell), Image.Resampling.LANCZOS).convert("RGBA")


def _write_caption(picture: Image.Image, env: "Coverage", board: Board, cell: int) -> None:
    size = _caption_size(cell)
    draw = ImageDraw.Draw(picture)
    side = env.size * cell
    width = max(side, 17 * size)
    left = (picture.width - width) // 2
    middle = _margin(cell) + side + 1.6 * size
    reached = int(board.goal_flags.sum())
    draw.text((left, middle), env.variant, fill=INK, font=_font(size), anchor="lm")
    status = f"{reached}/{env.goals} goals    step {int(board.steps[0])}"
    draw.text((left + width, middle), status, fill=FADED_INK, font=_font(size), anchor="rm")
