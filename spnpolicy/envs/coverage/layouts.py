"""Random layouts: streams of distinct cells that can be stopped and resumed exactly."""

from typing import Any

import numpy as np
from jaxtyping import Int

from spnpolicy.base.errors import ConfigError
from spnpolicy.envs.options import check_array

BLOCK = 256


def distinct_cells(generator: np.random.Generator, rows: int, cells: int, count: int) -> Int[np.ndarray, "rows count"]:
    """Draw ordered samples without replacement, one per row, each order equally likely.

    Args:
        generator: source of randomness.
        rows: number of independent samples.
        cells: samples are drawn from 0 .. cells - 1.
        count: distinct cells per sample, at most `cells`.

    Returns:
        Cells, shape (rows, count).
    Cost: O(rows * count^2), independent of `cells`.
    Source: Bentley & Floyd 1987, "A sample of brilliance".
    """
    chosen = np.empty((rows, count), np.intp)
    for column in range(count):
        top = cells - count + column
        drawn = generator.integers(top + 1, size=rows)
        is_repeated = (chosen[:, :column] == drawn[:, None]).any(axis=1)
        chosen[:, column] = np.where(is_repeated, top, drawn)
    return generator.permuted(chosen, axis=1)


class LayoutStream:
    """An endless stream of layouts, drawn in blocks because one large draw is cheaper than many small ones.

    The stream can be resumed from the generator's state before the current block and the position in it.
    """

    def __init__(self, seed: int | None, cells: int, count: int) -> None:
        self._cells = cells
        self._count = count
        self._generator = np.random.default_rng(seed)
        self._next_block()

    def _next_block(self) -> None:
        self._block_state = self._generator.bit_generator.state
        self._block = distinct_cells(self._generator, BLOCK, self._cells, self._count)
        self._position = 0

    def draw(self, rows: int) -> Int[np.ndarray, "rows count"]:
        """Return the next `rows` layouts; how a total is split into calls does not change them."""
        pieces = []
        while rows > 0:
            if self._position == BLOCK:
                self._next_block()
            piece = self._block[self._position : self._position + rows]
            self._position += len(piece)
            rows -= len(piece)
            pieces.append(piece)
        return np.concatenate(pieces)

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the stream as JSON values."""
        return {"generator": self._block_state, "position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a place that `state_dict` returned.

        Raises:
            ValueError, TypeError or KeyError: this is no such place; the stream may then be in a mixed state.
        """
        position = state["position"]
        if not isinstance(position, int) or not 0 <= position <= BLOCK:
            raise ValueError(f"position {position!r} in the layout stream is not within 0 .. {BLOCK}")
        self._generator.bit_generator.state = state["generator"]
        self._next_block()
        self._position = position


def checked_layout(
    owner: str,
    agent_cells: object,
    goal_cells: object,
    shapes: tuple[tuple[int, int], tuple[int, int]],
    num_cells: int,
) -> tuple[Int[np.ndarray, "envs agents"], Int[np.ndarray, "envs goals"]]:
    """Return cells of agents and goals that a user gave as index arrays of these two shapes, after checking them.

    Raises:
        ConfigError: wrong shape or type, a cell outside the grid, or two things in one cell.
    """
    checked = []
    for name, cells, shape in zip(("agent_cells", "goal_cells"), (agent_cells, goal_cells), shapes, strict=True):
        array = np.asarray(cells)
        check_array(f"{owner}: {name}", array, shape, "iu", num_cells, error=ConfigError)
        checked.append(array.astype(np.intp))
    ordered = np.sort(np.concatenate(checked, axis=1), axis=1)
    shared = np.argwhere(ordered[:, 1:] == ordered[:, :-1])
    if len(shared):
        env, place = shared[0]
        raise ConfigError(
            f"{owner}: the layout of env {env} uses cell {ordered[env, place]} twice; "
            "agents and goals start in distinct cells."
        )
    return checked[0], checked[1]
