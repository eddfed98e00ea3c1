"""Animations of greedy play: several episodes side by side as a GIF."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from spnpolicy.errors import ConfigError
from spnpolicy.training.files import replace_file
from spnpolicy.training.runs import LoadedRun

Frame = UInt8[np.ndarray, "height width 3"]

STEP_MILLISECONDS = 350
HOLD_MILLISECONDS = 1_600
MAX_FRAMES = 60
"""Longer episodes, which a policy that got lost would play, are cut off."""
BOARD_PIXELS = 240
_COLORS = 64


def animate(run: LoadedRun, path: Path, *, seed: int, columns: int = 3) -> None:
    """Write a GIF of greedy episodes, one per environment of the run.

    They play side by side in rows of `columns` boards, one row after the other; a finished board waits for its row.

    Args:
        run: a loaded run whose environment can draw itself.
        path: where to write the file.
        seed: fixes the episodes.
        columns: boards side by side.

    Raises:
        ConfigError: the environment draws no pictures.
    """
    frames: list[Image.Image] = []
    durations: list[int] = []
    episodes = play(run, seed=seed)
    for first in range(0, len(episodes), columns):
        row = episodes[first : first + columns]
        length = max(map(len, row))
        frames += [_side_by_side([episode[min(time, len(episode) - 1)] for episode in row]) for time in range(length)]
        durations += [STEP_MILLISECONDS] * (length - 1) + [HOLD_MILLISECONDS]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=True)
    replace_file(path, file.getvalue())


def play(run: LoadedRun, *, seed: int) -> list[list[Frame]]:
    """Play one greedy episode in every environment and return the pictures of each, the last one included.

    Raises:
        ConfigError: the environment draws no pictures.
    """
    env: Any = run.env
    check_drawable(env)
    render = env.render
    cell = max(12, BOARD_PIXELS // getattr(env, "size", 5))
    step = env.reset(seed=seed)
    episodes = [[render(index, cell=cell)] for index in range(env.num_envs)]
    is_playing = np.ones(env.num_envs, dtype=bool)
    for _ in range(min(env.episode_limit, MAX_FRAMES)):
        step = env.step(run.algorithm.act(step, explore=False))
        for index in np.flatnonzero(is_playing):
            episodes[index].append(render(int(index), cell=cell, final=True))
        is_playing &= ~(step.terminated | step.truncated)
        if not is_playing.any():
            break
    return episodes


def check_drawable(env: Any) -> None:
    """Refuse an environment that draws no pictures of itself.

    Raises:
        ConfigError: it has no method `render`.
    """
    if not hasattr(env, "render"):
        raise ConfigError(f"{env.name} draws no pictures, so there is nothing to animate.")


def _side_by_side(pictures: list[Frame]) -> Image.Image:
    joined = Image.fromarray(np.concatenate(pictures, axis=1))
    return joined.quantize(_COLORS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
