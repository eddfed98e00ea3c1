"""Small PettingZoo games that draw themselves, rightly and wrongly; importable by worker processes."""

import numpy as np
from small_games import Pair


class Painted(Pair):
    """A pair whose picture is filled with 10 * step, its first corner with 10 * the number of `reset`s.

    It is drawn into the same memory again and again, and only in render mode "rgb_array".
    """

    metadata = {"name": "painted", "render_modes": ["human", "rgb_array"]}

    def __init__(self, render_mode=None, **options):
        super().__init__(**options)
        self.render_mode = render_mode
        self.starts = 0
        self.canvas = np.zeros((20, 30, 3), np.uint8)

    def reset(self, seed=None, options=None):
        self.starts += 1
        return super().reset(seed)

    def render(self):
        assert self.render_mode == "rgb_array", "nobody asks for a picture that was not ordered"
        self.canvas[:] = 10 * self.time
        self.canvas[0, 0] = 10 * self.starts
        return self.canvas


class AlwaysPainted(Painted):
    """A game that draws without being told to."""

    metadata = {"name": "always"}

    def __init__(self, length=6):
        super().__init__("rgb_array", length=length)


class Windowed(Painted):
    """A game that opens windows only."""

    metadata = {"name": "windowed", "render_modes": ["human"]}


class Forgetful(Painted):
    """A game that takes a render mode and forgets it."""

    def __init__(self, render_mode=None):
        super().__init__()


class Misdrawn(Painted):
    """A game whose pictures are none."""

    def __init__(self, render_mode=None, kind="none"):
        super().__init__(render_mode, length=2)
        self.kind = kind

    def render(self):
        if self.kind == "error":
            raise ValueError("no paint")
        return {
            "none": None,
            "numbers": np.zeros((4, 4, 3)),
            "grey": np.zeros((4, 4), np.uint8),
            "transparent": np.zeros((4, 4, 4), np.uint8),
            "empty": np.zeros((0, 4, 3), np.uint8),
        }[self.kind]


class Failing(Painted):
    """A painted game in which a third step always fails."""

    def step(self, actions):
        if self.time == 2:
            raise RuntimeError("out of order")
        return super().step(actions)
