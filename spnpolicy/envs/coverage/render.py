"""Pictures of the coverage gridworld."""

from functools import lru_cache
from math import ceil, sqrt

import numpy as np
from jaxtyping import Float, Int, UInt8
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
DIRECTIONS = {1: (0, -1), 2: (0, 1), 3: (-1, 0), 4: (1, 0)}
"""Where moves lead in a picture: columns to the right, rows down."""
LEAST_CHANCE = 0.02
"""Less probable moves are not drawn."""


def render(
    board: Board,
    size: int,
    variant: str,
    *,
    cell: int,
    marginals: Float[np.ndarray, "agents actions"] | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw one game.

    Goals are grey targets, agents are numbered discs; those in one cell shrink and stand side by side. The
    cell of a claimed goal (variant "simultaneous": an occupied one) is filled in the colour of its agent. An agent that
    has broken down is crossed out.

    Args:
        board: a batch of one game.
        size: rows and columns of the grid.
        variant: the rules, for the caption.
        cell: side of a grid cell in pixels, 12 or more.
        marginals: how probable every action of every agent is. Then a wedge points out of each agent where it may go,
            the longer the more probable; one that is sure reaches a cell and a half.

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
    if marginals is not None:
        wedges = _wedges(picture.size, (left, top), board.agent_cells[0], size, cell, marginals)
        picture.paste(wedges, (0, 0), wedges)
    for place, agents in groups.items():
        row, column = divmod(place, size)
        for agent, (x, y, side) in zip(agents, _slots(len(agents), cell), strict=True):
            sprite = agent_sprite(side, agent, str(agent))
            corner = left + column * cell + x, top + row * cell + y
            picture.paste(sprite, corner, sprite)
            if board.broken[0, agent]:
                _cross_out(picture, corner, side)
    status = f"{int(board.goal_flags.sum())}/{board.goal_cells.shape[1]} goals    step {int(board.steps[0])}"
    write_caption(picture, size, cell, variant, status)
    return np.array(picture, np.uint8)


def _wedges(
    shape: tuple[int, int],
    corner: tuple[int, int],
    places: Int[np.ndarray, " agents"],
    size: int,
    cell: int,
    marginals: Float[np.ndarray, "agents actions"],
) -> Image.Image:
    """Return a layer with a wedge for every agent and direction."""
    width, height = shape
    layer = Image.new("RGBA", (width * OVERSAMPLING, height * OVERSAMPLING), (*BOARD, 0))
    draw = ImageDraw.Draw(layer)
    for agent, place in enumerate(places.tolist()):
        row, column = divmod(place, size)
        middle = np.array([corner[0] + (column + 0.5) * cell, corner[1] + (row + 0.5) * cell])
        for action, (x, y) in DIRECTIONS.items():
            chance = float(marginals[agent, action])
            if chance < LEAST_CHANCE:
                continue
            ahead, beside = np.array([x, y]), np.array([y, x])
            tip = middle + ahead * cell * (0.5 + chance)
            corners = (middle + beside * cell * 0.3, tip, middle - beside * cell * 0.3)
            color = (*mix(agent_color(agent), BOARD, 0.55), 255)
            draw.polygon([tuple(OVERSAMPLING * point) for point in corners], color)
    return layer.resize(shape, Image.Resampling.BOX)


def _cross_out(picture: Image.Image, corner: tuple[int, int], side: int) -> None:
    near, far = round(0.12 * side), round(0.88 * side)
    (x, y), draw, width = corner, ImageDraw.Draw(picture), max(2, side // 10)
    draw.line((x + near, y + near, x + far, y + far), INK, width)
    draw.line((x + near, y + far, x + far, y + near), INK, width)


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
