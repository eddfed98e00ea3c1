"""Pictures that environments draw of themselves: which do, how large they are, and what becomes of large ones."""

import inspect
import os
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps

from spnpolicy.base.errors import ConfigError
from spnpolicy.envs import environment_class
from spnpolicy.envs.sprites import BORDER, PAPER
from spnpolicy.training.runs import LoadedRun, load_run, read_run_config

Frame = UInt8[np.ndarray, "_ _ 3"]

MOST_PIXELS = 350
"""Larger pictures, as environments of others draw them, are made smaller."""
MOUNT_PIXELS = 8
DRAWING_OPTIONS = {"render_mode": "rgb_array", "workers": 0}
"""What environments are asked for that take such options: pictures instead of windows, drawn in this process."""


def load_to_draw(folder: Path, *, num_envs: int, checkpoint: Literal["latest", "best"] = "latest") -> LoadedRun:
    """Load a run, see `load_run`, with an environment that is asked for pictures if it takes such an option."""
    _do_without_display()
    parameters = inspect.signature(environment_class(read_run_config(folder).env)).parameters
    changes = {name: value for name, value in DRAWING_OPTIONS.items() if name in parameters}
    return load_run(folder, num_envs=num_envs, checkpoint=checkpoint, env_changes=changes)


def board_of(
    env: Any,
    index: int = 0,
    *,
    side: int,
    smallest: int = 12,
    final: bool = False,
    marginals: Float[np.ndarray, "agents actions"] | None = None,
) -> Frame:
    """Return the picture of one game.

    Args:
        env: one that `check_drawable` lets through.
        index: of the game.
        side: pixels of the board, about, where the environment can choose; only our own grids can.
        smallest: least side of one of their cells, in pixels.
        final: show the end of an episode that is just over.
        marginals: how probable every action of every agent is, for environments that draw it.

    Raises:
        PictureTooLargeError: the board has too many cells.
    """
    if "cell" in inspect.signature(env.render).parameters:
        shown = {} if marginals is None else {"marginals": marginals}
        return env.render(index, cell=max(smallest, side // env.size), final=final, **shown)
    return _mounted(env.render(index, final=final))


def draws(env: Any) -> bool:
    """Return whether an environment draws pictures of itself."""
    try:
        check_drawable(env)
    except ConfigError:
        return False
    return True


def check_draws_marginals(env: Any) -> None:
    """Refuse an environment that does not draw how probable actions are.

    Raises:
        ConfigError: `render` takes no `marginals`.
    """
    if "marginals" not in inspect.signature(env.render).parameters:
        raise ConfigError(f"{env.name} does not draw marginals; coverage does.")


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


def _mounted(picture: Frame) -> UInt8[np.ndarray, "mount_height mount_width 3"]:
    """Put a picture of others on our paper, of a handy size: side by side they would run into each other."""
    image = Image.fromarray(picture)
    image.thumbnail((MOST_PIXELS, MOST_PIXELS), Image.Resampling.LANCZOS)
    return np.asarray(ImageOps.expand(ImageOps.expand(image, 1, BORDER), MOUNT_PIXELS, PAPER))


def _do_without_display() -> None:
    """Spare pygame the search for a display where there is none; it looks when it is first used."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
