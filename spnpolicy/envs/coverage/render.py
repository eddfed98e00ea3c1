"""Pictures of the coverage gridworld."""

from functools import lru_cache
from math import ceil, sqrt

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from spnpolicy.envs.coverage.board import Board
from spnpolicy.envs.options import whole_number
from spnpolicy.envs.sprites import (
    BOARD,
    INK,
    OVERSAMPLING,
    Color,
    agent_color,
    agent_sprite,
    board_corner,
    draw_disc,
    empty_board,
    mix,
    shrunk,
    write_caption,
)

TARGET: Color = (96, 102, 114)


def render(board: Board, size: int, variant: str, *, cell: int) -> UInt8[np.ndarray, "height width 3"]:
    """Draw one game.

    Goals are grey targets, agents are numbered discs; those in one cell shrink and stand side by side. The
    cell of a claimed goal (variant "simultaneous": an occupied one) is filled in the colour of its agent.

    Args:
        board: a batch of one game.
        size: rows and columns of the grid.
        variant: the rules, for the caption.
        cell: side of a grid cell in pixels, 12 or more.

    Returns:
        RGB picture, shape (height, width, 3).

    Raises:
        ConfigError: `cell` is not a whole number of at least 12.
    """
    whole_number("render", "cell", cell, 12)
    picture = empty_board(size, size, cell).copy()
    left, top = board_corner(picture.width, size, cell)
    groups = _agents_by_cell(board)
    for goal, place in enumerate(board.goal_cells[0]):
        owner = _owner(board, groups.get(int(place), []), bool(board.goal_flags[0, goal]))
        row, column = divmod(int(place), size)
        sprite = _goal_sprite(cell, owner)
        picture.paste(sprite, (left + column * cell, top + row * cell), sprite)
    for place, agents in groups.items():
        row, column = divmod(place, size)
        for agent, (x, y, side) in zip(agents, _slots(len(agents), cell), strict=True):
            sprite = agent_sprite(side, agent, str(agent))
            picture.paste(sprite, (left + column * cell + x, top + row * cell + y), sprite)
    status = f"{int(board.goal_flags.sum())}/{board.goal_cells.shape[1]} goals    step {int(board.steps[0])}"
    write_caption(picture, size, cell, variant, status)
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


@lru_cache(maxsize=256)
def _goal_sprite(cell: int, owner: int | None) -> Image.Image:
    """Return a target; one with an owner is filled with a tint of the owner's colour."""
    side = cell * OVERSAMPLING
    color = TARGET if owner is None else agent_color(owner)
    sprite = Image.new("RGBA", (side, side), (*BOARD, 0))
    draw = ImageDraw.Draw(sprite)
    if owner is None:
        draw_disc(draw, side, 0.42, (*color, 255))
        draw_disc(draw, side, 0.365, (*mix(color, BOARD, 0.10), 255))
        draw_disc(draw, side, 0.235, (*mix(color, BOARD, 0.50), 255))
        draw_disc(draw, side, 0.175, (*mix(color, BOARD, 0.10), 255))
        draw_disc(draw, side, 0.075, (*color, 255))
    else:
        draw.rectangle((0, 0, side, side), (*mix(color, BOARD, 0.30), 255))
        draw_disc(draw, side, 0.465, (*mix(color, INK, 0.80), 255))
        draw_disc(draw, side, 0.405, (*BOARD, 255))
    return shrunk(sprite, cell)
