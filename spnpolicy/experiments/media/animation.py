"""Animations of greedy play: several episodes side by side, as pictures with times or as a GIF."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from circuits.files import replace_file
from spnpolicy.data.env import Step
from spnpolicy.envs.sprites import PictureTooLargeError
from spnpolicy.experiments.media.boards import Frame, board_of, check_drawable, check_draws_marginals
from spnpolicy.training.player import Player
from spnpolicy.training.runs import LoadedRun, all_policies

STEP_MILLISECONDS = 350
START_MILLISECONDS = 800
"""The start of an episode is held so long, for the eye to find the agents."""
HOLD_MILLISECONDS = 1_600
MAX_FRAMES = 60
"""Longer episodes, which a policy that got lost would play, are cut off."""
MOST_BYTES = 2**31
"""Of the pictures of all episodes together, which are held until the animation is written."""
BOARD_PIXELS = 240
WITH_MARGINALS_PIXELS = 400
_COLORS = 64
_EMPTY = 255


class Shot(NamedTuple):
    """One picture of an animation."""

    picture: Frame
    milliseconds: int
    """How long it is shown."""


class Size(NamedTuple):
    """How large an animation is."""

    shots: int
    height: int
    width: int

    @property
    def pixels(self) -> int:
        """Pixels of all its pictures together, which is what writing it costs."""
        return self.shots * self.height * self.width


OnPicture = Callable[[str, int, int | None], None]
"""Is told what is being drawn, how many parts of it are done, and of how many if that is known."""


def untold(what: str, done: int, total: int | None) -> None:
    """Tell nobody: the default `OnPicture`."""


def size_of(episodes: Sequence[Sequence[Frame]], *, columns: int = 3) -> Size:
    """Return the size of an animation, see `shots_of`, before it is made."""
    shots = sum(max(map(len, row)) for row in _rows(episodes, columns))
    height, width = _largest(episodes)
    return Size(shots, height, width * min(columns, len(episodes)))


def shots_of(episodes: Sequence[Sequence[Frame]], *, columns: int = 3) -> Iterator[Shot]:
    """Yield the pictures of an animation, all of one size.

    Episodes play side by side in rows of `columns` boards, one row after the other; a finished board waits for its
    row. The first and the last picture of a row are held.

    Args:
        episodes: the pictures of each episode, at least one.
        columns: boards side by side.
    """
    height, width = _largest(episodes)
    for row in _rows(episodes, columns):
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
    colors: Any = {"colors": _COLORS, "method": Image.Quantize.MEDIANCUT, "dither": Image.Dither.NONE}
    # One shot at a time: with its few colours a picture takes a third of the memory.
    drawn = [(Image.fromarray(shot.picture).quantize(**colors), shot.milliseconds) for shot in shots]
    images, durations = zip(*drawn, strict=True)
    file = io.BytesIO()
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=True)
    replace_file(path, file.getvalue())


def play(
    run: LoadedRun, *, seed: int, on_picture: OnPicture = untold, shows_marginals: bool = False
) -> list[list[Frame]]:
    """Play one greedy episode in every environment and return the pictures of each, the last one included.

    Args:
        run: with one environment per episode.
        seed: of the episodes.
        on_picture: is told how far it is.
        shows_marginals: draw, larger, how probable the joint policy finds every action of every agent.

    Raises:
        ConfigError: the environment draws no pictures, or no marginals, or the algorithm has none.
        PictureTooLargeError: it draws such large ones that all of them would not fit into memory.
    """
    env: Any = run.env
    check_drawable(env)
    if shows_marginals:
        check_draws_marginals(env)
    side = WITH_MARGINALS_PIXELS if shows_marginals else BOARD_PIXELS
    player = Player(run.algorithm)
    step = env.reset(seed=seed)

    def pictures(step: Step, indices: Iterable[int], final: bool) -> dict[int, Frame]:
        shown = all_policies(run, step).marginals().numpy() if shows_marginals else None
        return {
            index: board_of(
                env,
                index,
                side=side,
                final=final,
                # Where an episode is over, the policy is that of the next one.
                marginals=None if shown is None or (final and is_over(step, index)) else shown[index],
            )
            for index in indices
        }

    def is_over(step: Step, index: int) -> bool:
        return bool(step.terminated[index] | step.truncated[index])

    most = min(env.episode_limit, MAX_FRAMES)
    _check_memory(env, pictures(step, [0], False)[0], env.num_envs * (most + 1))
    episodes = [[drawn] for drawn in pictures(step, range(env.num_envs), False).values()]
    is_playing = np.ones(env.num_envs, dtype=bool)
    for number in range(most):
        on_picture("playing and drawing", number, most)
        step = env.step(player.act(step, explore=False))
        if step.discarded is not None:
            # An episode that failed has no last picture; the environment shows the next one already.
            is_playing &= ~step.discarded
        for index, drawn in pictures(step, np.flatnonzero(is_playing).tolist(), True).items():
            episodes[index].append(drawn)
        is_playing &= ~(step.terminated | step.truncated)
        if not is_playing.any():
            break
    return episodes


def _check_memory(env: Any, picture: Frame, count: int) -> None:
    if (size := count * picture.nbytes) > MOST_BYTES:
        height, width = picture.shape[:2]
        raise PictureTooLargeError(
            f"an animation of {env.name} would hold {count:,} pictures of {width:,} x {height:,} pixels, "
            f"{size / 2**30:.1f} GiB and more than {MOST_BYTES / 2**30:g} GiB; take a smaller board or shorter "
            "episodes, or do without an animation."
        )


def _rows(episodes: Sequence[Sequence[Frame]], columns: int) -> list[Sequence[Sequence[Frame]]]:
    return [episodes[first : first + columns] for first in range(0, len(episodes), columns)]


def _largest(episodes: Sequence[Sequence[Frame]]) -> tuple[int, int]:
    pictures = [picture for episode in episodes for picture in episode]
    return max(len(picture) for picture in pictures), max(picture.shape[1] for picture in pictures)


def _milliseconds(time: int, length: int) -> int:
    if time == length - 1:
        return HOLD_MILLISECONDS
    return START_MILLISECONDS if time == 0 else STEP_MILLISECONDS


def _fitted(picture: Frame, height: int, width: int) -> Frame:
    missing = ((0, height - len(picture)), (0, width - picture.shape[1]), (0, 0))
    return np.pad(picture, missing, constant_values=_EMPTY)
