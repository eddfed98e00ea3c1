"""Animations of greedy play: several episodes side by side, as pictures with times or as a GIF."""

import inspect
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from circuits.files import replace_file
from spnpolicy.base.errors import ConfigError
from spnpolicy.envs import environment_class
from spnpolicy.envs.sprites import BORDER, PAPER
from spnpolicy.training.player import Player
from spnpolicy.training.runs import LoadedRun, load_run, read_run_config

Frame = UInt8[np.ndarray, "_ _ 3"]

STEP_MILLISECONDS = 350
START_MILLISECONDS = 800
"""The start of an episode is held so long, for the eye to find the agents."""
HOLD_MILLISECONDS = 1_600
MAX_FRAMES = 60
"""Longer episodes, which a policy that got lost would play, are cut off."""
BOARD_PIXELS = 240
MOST_PIXELS = 350
"""Larger pictures, as environments of others draw them, are made smaller."""
MOUNT_PIXELS = 8
DRAWING_OPTIONS = {"render_mode": "rgb_array", "workers": 0}
"""What environments are asked for that take such options: pictures instead of windows, drawn in this process."""
_COLORS = 64
_EMPTY = 255


class Shot(NamedTuple):
    """One picture of an animation."""

    picture: Frame
    milliseconds: int
    """How long it is shown."""


def load_to_draw(folder: Path, *, num_envs: int, checkpoint: Literal["latest", "best"] = "latest") -> LoadedRun:
    """Load a run for `play`, see `load_run`: with an environment that draws, one for each episode.

    Raises:
        ConfigError: the environment draws no pictures, or whatever else `load_run` refuses.
    """
    _do_without_display()
    parameters = inspect.signature(environment_class(read_run_config(folder).env)).parameters
    changes = {name: value for name, value in DRAWING_OPTIONS.items() if name in parameters}
    run = load_run(folder, num_envs=num_envs, checkpoint=checkpoint, env_changes=changes)
    check_drawable(run.env)
    return run


def shots_of(episodes: Sequence[Sequence[Frame]], *, columns: int = 3) -> Iterator[Shot]:
    """Yield the pictures of an animation, all of one size.

    Episodes play side by side in rows of `columns` boards, one row after the other; a finished board waits for its
    row. The first and the last picture of a row are held.

    Args:
        episodes: the pictures of each episode, at least one.
        columns: boards side by side.
    """
    pictures = [picture for episode in episodes for picture in episode]
    height, width = max(len(picture) for picture in pictures), max(picture.shape[1] for picture in pictures)
    for first in range(0, len(episodes), columns):
        row = episodes[first : first + columns]
        length = max(map(len, row))
        for time in range(length):
            boards = [_fitted(episode[min(time, len(episode) - 1)], height, width) for episode in row]
            boards += [np.full((height, width, 3), _EMPTY, np.uint8)] * (min(columns, len(episodes)) - len(boards))
            yield Shot(np.concatenate(boards, axis=1), _milliseconds(time, length))


def write_gif(shots: Iterable[Shot], path: Path) -> None:
    """Write an animated GIF, complete or not at all.

    Args:
        shots: pictures of one size, each with the time that it is shown for.
        path: where to write it; a file there is replaced.
    """
    shots = list(shots)
    colors: Any = {"colors": _COLORS, "method": Image.Quantize.MEDIANCUT, "dither": Image.Dither.NONE}
    images = [Image.fromarray(shot.picture).quantize(**colors) for shot in shots]
    durations = [shot.milliseconds for shot in shots]
    file = io.BytesIO()
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=True)
    replace_file(path, file.getvalue())


def play(run: LoadedRun, *, seed: int) -> list[list[Frame]]:
    """Play one greedy episode in every environment and return the pictures of each, the last one included.

    Raises:
        ConfigError: the environment draws no pictures.
    """
    env: Any = run.env
    check_drawable(env)
    # Only our own grids can choose how large they draw a cell.
    chooses_cell = "cell" in inspect.signature(env.render).parameters
    options = {"cell": max(12, BOARD_PIXELS // getattr(env, "size", 5))} if chooses_cell else {}
    player = Player(run.algorithm)
    step = env.reset(seed=seed)

    def picture(index: int, final: bool) -> Frame:
        drawn = env.render(index, final=final, **options)
        return drawn if options else _mounted(drawn)

    episodes = [[picture(index, False)] for index in range(env.num_envs)]
    is_playing = np.ones(env.num_envs, dtype=bool)
    for _ in range(min(env.episode_limit, MAX_FRAMES)):
        step = env.step(player.act(step, explore=False))
        if step.discarded is not None:
            # An episode that failed has no last picture; the environment shows the next one already.
            is_playing &= ~step.discarded
        for index in np.flatnonzero(is_playing):
            episodes[index].append(picture(int(index), True))
        is_playing &= ~(step.terminated | step.truncated)
        if not is_playing.any():
            break
    return episodes


def check_drawable(env: Any) -> None:
    """Refuse an environment that draws no pictures of itself.

    Raises:
        ConfigError: it has no method `render(index, *, final)`, or was made without the render mode for pictures.
    """
    render = getattr(env, "render", None)
    if not callable(render):
        raise ConfigError(
            f"{env.name} draws no pictures, so there is nothing to animate; "
            "it needs a method render(index, *, final=False) that returns them."
        )
    parameters = inspect.signature(render).parameters
    if "final" not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        raise ConfigError(f"{env.name}: render lacks `final`, the end of an episode just over; see Coverage.render.")
    wanted = DRAWING_OPTIONS["render_mode"]
    if getattr(env, "render_mode", wanted) != wanted:
        raise ConfigError(f"{env.name} was made without render_mode={wanted!r}, so it draws no pictures.")


def _milliseconds(time: int, length: int) -> int:
    if time == length - 1:
        return HOLD_MILLISECONDS
    return START_MILLISECONDS if time == 0 else STEP_MILLISECONDS


def _mounted(picture: Frame) -> UInt8[np.ndarray, "mount_height mount_width 3"]:
    """Put a picture of others on our paper, of a handy size: side by side they would run into each other."""
    image = Image.fromarray(picture)
    image.thumbnail((MOST_PIXELS, MOST_PIXELS), Image.Resampling.LANCZOS)
    return np.asarray(ImageOps.expand(ImageOps.expand(image, 1, BORDER), MOUNT_PIXELS, PAPER))


def _do_without_display() -> None:
    """Spare pygame the search for a display where there is none; it looks when it is first used."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


def _fitted(picture: Frame, height: int, width: int) -> Frame:
    missing = ((0, height - len(picture)), (0, width - picture.shape[1]), (0, 0))
    return np.pad(picture, missing, constant_values=_EMPTY)
