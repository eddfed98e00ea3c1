"""Pictures of other people's environments: whether there are any, and what counts as one."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8
from pettingzoo import ParallelEnv

from spnpolicy.base.errors import ConfigError, EnvError
from spnpolicy.envs.pettingzoo.makers import maker_parameters

PICTURES = "rgb_array"
"""The `render_mode` in which environments return their pictures."""


def options_to_draw(owner: str, source: object, options: Mapping[str, Any], mode: str | None) -> dict[str, Any]:
    """Return the options of an environment with its `render_mode`, if there is one and it can be told: only by name.

    Raises:
        ConfigError: the mode is no word, or there is no such environment.
    """
    if mode is None:
        return dict(options)
    if not isinstance(mode, str):
        raise ConfigError(f"{owner}: render_mode={mode!r} must be a word such as {PICTURES!r}.")
    takes_mode = isinstance(source, str) and "render_mode" in maker_parameters(owner, source)
    return {**options, "render_mode": mode} if takes_mode else dict(options)


def check_render_mode(owner: str, env: ParallelEnv, mode: str) -> None:
    """Refuse an environment that does not draw in the mode that it was asked for.

    Raises:
        ConfigError: it names no such mode, or is in another one.
    """
    metadata = getattr(env, "metadata", None)
    modes = metadata.get("render_modes") if isinstance(metadata, Mapping) else None
    actual = getattr(env, "render_mode", None)
    if actual == mode and (modes is None or mode in modes):
        return
    known = ", ".join(map(repr, modes)) if modes else "none"
    if modes is not None and mode not in modes:
        reason = f"the render_modes in its metadata are: {known}"
    else:
        reason = f"its render_mode is {actual!r} (the function that makes it must take render_mode and keep it)"
    what = "draws no pictures: it cannot" if mode == PICTURES else "cannot"
    raise ConfigError(f"{owner} {what} be rendered with render_mode={mode!r}; {reason}.")


def picture_of(where: str, env: ParallelEnv) -> UInt8[np.ndarray, "height width 3"]:
    """Let an environment in render mode "rgb_array" draw itself; messages begin with which one it is, and when.

    Raises:
        EnvError: `render` fails, or returns something else than a picture.
    """
    try:
        picture: Any = env.render()
    except Exception as error:
        raise EnvError(f"{where}: render() raised {type(error).__name__}: {error}") from error
    is_array = isinstance(picture, np.ndarray)
    if not is_array or picture.dtype != np.uint8 or picture.shape[2:] != (3,) or not picture.size:
        what = f"an array of shape {picture.shape} and dtype {picture.dtype}" if is_array else repr(picture)[:80]
        raise EnvError(f"{where}: render() returned {what}; it must be an array (height, width, 3) of dtype uint8.")
    # Many environments draw the next picture into the same memory.
    return picture.copy()
