"""What pictures of grids are made of, drawn at three times their size and averaged: edges come out smooth."""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from circuits.draw import style
from spnpolicy.base.errors import ConfigError

Color = tuple[int, int, int]


class PictureTooLargeError(ConfigError):
    """A picture would not fit into memory; everything but the picture works."""


def _rgb(color: str) -> Color:
    red, green, blue = bytes.fromhex(color.removeprefix("#"))
    return red, green, blue


OVERSAMPLING = 3
MOST_PIXELS = 2**24
"""Of the picture of a board, which takes 27 times as many bytes while it is drawn."""
BOARD: Color = (255, 255, 255)
LINE: Color = (228, 225, 217)
BORDER: Color = (190, 186, 176)
FADED_INK: Color = (116, 118, 124)
PAPER, INK = (_rgb(color) for color in (style.PAPER, style.INK))
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


def agent_color(agent: int) -> Color:
    """Return the colour of an agent; after seven agents they come again."""
    return AGENT_COLORS[agent % len(AGENT_COLORS)]


def mix(color: Color, other: Color, share: float) -> Color:
    """Return a colour of which `share` is the first and the rest the second."""
    red, green, blue = (round(share * a + (1 - share) * b) for a, b in zip(color, other, strict=True))
    return red, green, blue


def ink_on(color: Color) -> Color:
    """Return black or white, whichever is easier to read on a colour."""
    red, green, blue = color
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 150 else BOARD


def font(pixels: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font of all labels, never too small to be read."""
    return ImageFont.load_default(size=max(7.0, pixels))


def margin(cell: int) -> int:
    """Return the pixels of paper around a board."""
    return max(8, cell // 3)


def caption_size(cell: int) -> int:
    """Return the size of the letters below a board."""
    return int(np.clip(cell * 0.34, 12, 22))


@lru_cache(maxsize=8)
def empty_board(rows: int, columns: int, cell: int) -> Image.Image:
    """Return paper, grid and room for the caption; to be copied before anything is drawn on it.

    Raises:
        PictureTooLargeError: it would have more than `MOST_PIXELS`.
    """
    frame, scale, caption = margin(cell), OVERSAMPLING, caption_size(cell)
    width = max(columns * cell, 17 * caption) + 2 * frame
    height = frame + rows * cell + 3 * caption
    if width * height > MOST_PIXELS:
        raise PictureTooLargeError(
            f"a board of {rows:,} x {columns:,} cells would be a picture of {width * height:,} pixels, more than "
            f"{MOST_PIXELS:,}; take a smaller board, or do without pictures."
        )
    picture = Image.new("RGB", (width * scale, height * scale), PAPER)
    draw = ImageDraw.Draw(picture)
    left, top = board_corner(picture.width // scale, columns, cell)
    left, top = left * scale, top * scale
    right, bottom = left + columns * cell * scale, top + rows * cell * scale
    edge, radius = 2 * scale, max(2, cell // 8) * scale
    draw.rounded_rectangle((left - edge, top - edge, right + edge, bottom + edge), radius, BOARD, BORDER, edge // 2)
    for i in range(1, columns):
        shift = i * cell * scale
        draw.line((left + shift, top, left + shift, bottom), LINE, scale)
    for i in range(1, rows):
        shift = i * cell * scale
        draw.line((left, top + shift, right, top + shift), LINE, scale)
    return picture.resize((width, height), Image.Resampling.BOX)


def board_corner(width: int, columns: int, cell: int) -> tuple[int, int]:
    """Return (x, y) of the upper left corner of the grid in a picture of this width."""
    return (width - columns * cell) // 2, margin(cell)


def write_caption(picture: Image.Image, columns: int, cell: int, left_text: str, right_text: str) -> None:
    """Write two texts below the board of a picture that began as `empty_board`."""
    size = caption_size(cell)
    draw = ImageDraw.Draw(picture)
    width = max(columns * cell, 17 * size)
    left = (picture.width - width) // 2
    middle = picture.height - 1.4 * size
    draw.text((left, middle), left_text, fill=INK, font=font(size), anchor="lm")
    draw.text((left + width, middle), right_text, fill=FADED_INK, font=font(size), anchor="rm")


@lru_cache(maxsize=1024)
def agent_sprite(cell: int, agent: int, label: str) -> Image.Image:
    """Return a disc in the colour of an agent, with a label, that throws a small shadow."""
    side = cell * OVERSAMPLING
    color = agent_color(agent)
    sprite = Image.new("RGBA", (side, side), (*BOARD, 0))
    draw = ImageDraw.Draw(sprite)
    draw_disc(draw, side, 0.375, (*INK, 60), shift=0.02)
    draw_disc(draw, side, 0.365, (*BOARD, 255))
    draw_disc(draw, side, 0.325, (*color, 255))
    write_label(draw, side, label, ink_on(color))
    return shrunk(sprite, cell)


def draw_disc(
    draw: ImageDraw.ImageDraw, side: int, radius: float, color: tuple[int, int, int, int], shift: float = 0.0
) -> None:
    """Draw a disc in the middle of a square; radius and downward shift are shares of its side."""
    x, y, r = side / 2, side * (0.5 + shift), side * radius
    draw.ellipse((x - r, y - r, x + r, y + r), color)


def write_label(draw: ImageDraw.ImageDraw, side: int, label: str, color: Color, shift: float = 0.0) -> None:
    """Write a number of up to three digits into the middle of a square, shifted down by a share of its side."""
    size = side * (0.42, 0.36, 0.27)[min(len(label), 3) - 1]
    draw.text((side / 2, side * (0.5 + shift)), label, fill=color, font=font(size), anchor="mm")


def shrunk(sprite: Image.Image, cell: int) -> Image.Image:
    """Return the sprite at its final size; premultiplied alpha keeps edges free of dark fringes."""
    return sprite.convert("RGBa").resize((cell, cell), Image.Resampling.LANCZOS).convert("RGBA")
