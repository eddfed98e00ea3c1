"""Level-based foraging as array operations: the rules of the package lbforaging for a whole batch of games at once."""

import re
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Integer, UInt8

from spnpolicy.base.errors import CheckpointError, ConfigError
from spnpolicy.data.entities import Entities, EntitySet
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.envs.options import (
    begun,
    checked_actions,
    checked_seed,
    reading_saved_state,
    true_or_false,
    whole_number,
)

TASK = "Foraging-8x8-2p-3f-coop-v3"
EPISODE_LIMIT = 50
MOST_LEVEL = 2
"""Levels of agents are drawn from 1 to this."""
LOAD = 5
MOVES = np.array([(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (0, 0)])
"""Change of row and column by action: none, north, south, west, east, load."""
_FORM = re.compile(r"Foraging-(\d+)x(\d+)-(\d+)p-(\d+)f(-coop)?-v3")


class ForagingArrays:
    """A batch of level-based foraging games, stepped together without the package lbforaging.

    Rules, observations, masks and rewards are those of "foraging", on which trained agents can be tried; games start
    from the same distribution, but a seed means other games. Agents walk on a grid and load food next to them; food is
    collected when the levels of those who load it in the same step reach its level. Each of them is paid its share;
    the team's whole return is at most 1. Where the package lets the order of a set decide, agents go by number here.

    Args:
        task: grid, players (p), foods (f), "coop" if all are needed for each; as lbforaging names it, with full sight.
        rescale: show every number as -1 .. 1 instead of as a row, column or level.
        num_envs: number of games in the batch.

    Raises:
        ConfigError: an option has the wrong type or range.
    Source: the rules are those of Christianos et al. 2020, as in lbforaging 2.
    """

    name = "foraging_arrays"
    action_names = ("none", "north", "south", "west", "east", "load")
    episode_limit = EPISODE_LIMIT

    def __init__(self, *, task: str = TASK, rescale: bool = True, num_envs: int = 1) -> None:
        self.num_envs = whole_number(self.name, "num_envs", num_envs, 1)
        self.size, self.agents, self.foods, self.is_coop = _parsed(task)
        entities = self.foods + self.agents
        counts = (len(self.action_names),) * self.agents
        most_food = MOST_LEVEL * min(self.agents, 3)
        self.spec = EnvSpec(
            counts,
            3 * entities,
            3 * entities * self.agents,
            has_action_masks=True,
            entities=self._entities(rescale),
            reward="individual",
            observation_bounds=(-1.0, 1.0 if rescale else float(max(self.size - 1, most_food))),
        )
        high = [(self.size - 1, self.size - 1, most_food)] * self.foods
        high += [(self.size - 1, self.size - 1, MOST_LEVEL)] * self.agents
        low = np.array([(-1, -1, 0)] * entities)
        self._low, self._width = (low, np.array(high) - low) if rescale else (np.zeros((1, 3)), np.ones((1, 3)))
        self._rescale = true_or_false(self.name, "rescale", rescale)
        self._cardinalities = np.full(self.agents, len(self.action_names))
        self._others = np.array([[i, *(j for j in range(self.agents) if j != i)] for i in range(self.agents)])
        self._generator: np.random.Generator | None = None
        self._players = np.zeros((num_envs, self.agents, 3), np.int64)
        self._food = np.zeros((num_envs, self.foods, 3), np.int64)
        self._spawned = np.zeros(num_envs)
        self._age = np.zeros(num_envs, np.int64)

    def _entities(self, rescale: bool) -> Entities:
        place = {"size": 3, "positions": (0, 1)}
        # Rescaled, -1 .. size - 1 is shown as -1 .. 1, and no food as level -1.
        food = EntitySet("food", 0, self.foods, **place, presence=2, absent=-1.0 if rescale else 0.0, is_shared=True)
        own = EntitySet("itself", food.stop, 1, **place)
        others = EntitySet("others", own.stop, self.agents - 1, **place)
        cells = self.size / 2 if rescale else 1.0
        return Entities(own, (food, others), cells=cells, state_is_observations=True)

    def reset(self, *, seed: int | None = None) -> Step:
        """Start a new episode in every game; None goes on with the current stream of starts."""
        checked_seed(self.name, seed)
        if seed is not None or self._generator is None:
            self._generator = np.random.default_rng(seed)
        self._start(np.arange(self.num_envs), self._generator)
        return self._show_current()

    def step(self, actions: Integer[np.ndarray, "envs agents"]) -> Step:
        """Apply one joint action, numbers in 0 .. 5, in every game; what is not possible counts as doing nothing."""
        generator = begun(self.name, self._generator)
        actions = checked_actions(self.name, actions, self.num_envs, self._cardinalities)
        possible = np.take_along_axis(self._available(), actions[..., None], -1)[..., 0]
        actions = np.where(possible, actions, 0)
        self._move(actions)
        reward = self._load(actions == LOAD)
        self._age += 1
        terminated = (self._food[..., 2] == 0).all(-1)
        truncated = (self._age >= self.episode_limit) & ~terminated
        final, final_mask = self._observe(), self._available()
        seen, mask = final, final_mask
        if len(over := np.flatnonzero(terminated | truncated)):
            self._start(over, generator)
            seen, mask = self._observe(), self._available()
        return Step.showing(
            seen,
            mask,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            final_observation=final,
            final_available_actions=final_mask,
        )

    def _move(self, actions: Integer[np.ndarray, "envs agents"]) -> None:
        """Move all agents, but none of several that aim at the same cell."""
        aim = self._players[..., :2] + MOVES[actions]
        cell = aim[..., 0] * self.size + aim[..., 1]
        is_alone = (cell[:, :, None] == cell[:, None]).sum(-1) == 1
        self._players[..., :2] = np.where(is_alone[..., None], aim, self._players[..., :2])

    def _load(self, loads: Bool[np.ndarray, "envs agents"]) -> Float[np.ndarray, "envs agents"]:
        """Collect food that enough of those who load stand next to, and return what each is paid."""
        reward = np.zeros((self.num_envs, self.agents), np.float32)
        loads = loads.copy()
        # Whoever loads first decides which food it is and takes its neighbours along, so agents must be gone through in
        # order; the games in which somebody still loads are stepped together.
        rows = np.flatnonzero(loads.any(-1))
        for agent in range(self.agents):
            rows = rows[loads[rows].any(-1)]
            mine = rows[loads[rows, agent]]
            place = self._direction(mine)[:, agent].argmin(-1)  # north before south before west before east
            cell, level = self._food[mine, place, :2], self._food[mine, place, 2]
            distance = np.abs(self._players[mine, :, :2] - cell[:, None]).sum(-1)
            takes_part = loads[mine] & (distance == 1)
            levels = self._players[mine, :, 2] * takes_part
            total = levels.sum(-1)
            loads[mine] &= ~takes_part
            won = total >= level
            # A total may be 0 where the level is 0 too: 1 in its place avoids 0 / 0, and the share is 0.
            share = levels * level[:, None] / (np.maximum(total, 1) * self._spawned[mine])[:, None]
            reward[mine[won]] += share[won]
            self._food[mine[won], place[won], 2] = 0
        return reward

    def _direction(self, rows: Int[np.ndarray, " rows"]) -> Int[np.ndarray, "rows agents foods"]:
        """Return in which direction an agent has food next to it: 1 north to 4 east, 9 for food that is not there."""
        difference = self._food[rows, None, :, :2] - self._players[rows, :, None, :2]
        found = np.full(difference.shape[:-1], 9)
        for direction in (1, 2, 3, 4):
            found[(difference == MOVES[direction]).all(-1)] = direction
        found[np.broadcast_to(self._food[rows, None, :, 2] == 0, found.shape)] = 9
        return found

    def _available(self) -> Bool[np.ndarray, "envs agents actions"]:
        """Return which actions would do something; doing nothing is always possible."""
        mask = np.ones((self.num_envs, self.agents, len(MOVES)), bool)
        direction = self._direction(np.arange(self.num_envs))
        row, column = self._players[..., 0], self._players[..., 1]
        inside = (row > 0, row < self.size - 1, column > 0, column < self.size - 1)
        for move, is_inside in enumerate(inside, 1):
            mask[..., move] = is_inside & ~(direction == move).any(-1)
        mask[..., LOAD] = (direction < 9).any(-1)
        return mask

    def _observe(self) -> Float[np.ndarray, "envs agents features"]:
        """Return food that is left, row by row, then the agent itself and the others; what is missing is -1, -1, 0."""
        gone = self._food[..., 2] == 0
        # Food lies row by row from the start on; a stable sort only moves to the end what is gone.
        order = gone.argsort(-1, kind="stable")
        shown = np.where(gone[..., None], (-1, -1, 0), self._food)
        shown = np.take_along_axis(shown, order[..., None], 1)
        food = np.broadcast_to(shown[:, None], (self.num_envs, self.agents, *shown.shape[1:]))
        seen = np.concatenate([food, self._players[:, self._others]], 2)
        if self._rescale:
            seen = 2.0 * (seen - self._low) / self._width - 1.0
        return seen.reshape(self.num_envs, self.agents, -1).astype(np.float32)

    def _start(self, rows: Int[np.ndarray, " rows"], generator: np.random.Generator) -> None:
        """Begin new episodes: agents on distinct cells, then food inside with room around it."""
        count, side = len(rows), self.size
        cells = generator.random((count, side * side)).argsort(-1)[:, : self.agents]
        self._players[rows, :, 0], self._players[rows, :, 1] = cells // side, cells % side
        levels = generator.integers(1, MOST_LEVEL + 1, (count, self.agents))
        self._players[rows, :, 2] = levels
        most = np.sort(levels, -1)[:, :3].sum(-1)
        free = np.zeros((count, side, side), bool)
        free[:, 1:-1, 1:-1] = True
        free.reshape(count, -1)[np.arange(count)[:, None], cells] = False
        grid = np.indices((side, side))
        food = np.zeros((count, self.foods, 3), np.int64)
        for index in range(self.foods):
            # The largest of independent uniform numbers is at each free cell with the same probability.
            cell = np.where(free, generator.random(free.shape), -1.0).reshape(count, -1).argmax(-1)
            has_room = free.reshape(count, -1)[np.arange(count), cell]
            level = most if self.is_coop else generator.integers(1, most + 1)
            food[:, index] = np.stack([cell // side, cell % side, np.where(has_room, level, 0)], -1)
            # Food keeps its eight neighbours free, and the cells two steps away in a straight line, as in the package.
            away = np.abs(grid[:, None] - food[:, index, :2].T[:, :, None, None])
            too_near = (away.max(0) <= 1) | ((away.sum(0) == 2) & (away.min(0) == 0))
            free &= ~too_near
        order = (food[..., 0] * side + food[..., 1]).argsort(-1)
        self._food[rows] = np.take_along_axis(food, order[..., None], 1)
        self._spawned[rows] = np.maximum(food[..., 2].sum(-1), 1)
        self._age[rows] = 0

    def _show_current(self) -> Step:
        return Step.showing(self._observe(), self._available())

    def render(self, index: int = 0, *, final: bool = False) -> UInt8[np.ndarray, "height width 3"]:
        """Return a picture of one game; the end of an episode is not kept, so `final` shows the next start."""
        from spnpolicy.envs.foraging.render import render_foraging

        field = np.zeros((self.size, self.size), np.int64)
        field[tuple(self._food[index, :, :2].T)] = self._food[index, :, 2]
        agents = [(int(row), int(column), int(level)) for row, column, level in self._players[index]]
        share = 1.0 - float(field.sum()) / float(self._spawned[index])
        return render_foraging(field, agents, share=share, time=int(self._age[index]))

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to go on exactly from here."""
        arrays = {"players": self._players, "food": self._food, "spawned": self._spawned, "age": self._age}
        generator = None if self._generator is None else self._generator.bit_generator.state
        return {name: array.copy() for name, array in arrays.items()} | {"generator": generator}

    def load_state_dict(self, state: dict[str, Any]) -> Step:
        """Go on from a state that `state_dict` returned."""
        with reading_saved_state(self.name):
            held = {"players": self._players, "food": self._food, "spawned": self._spawned, "age": self._age}
            if any(np.shape(state[name]) != array.shape for name, array in held.items()):
                raise CheckpointError(f"{self.name}: the saved state has another task or num_envs.")
            generator = np.random.default_rng(0)
            generator.bit_generator.state = state["generator"]
        for name, array in held.items():
            array[:] = state[name]
        self._generator = generator
        return self._show_current()


def _parsed(task: object) -> tuple[int, int, int, bool]:
    """Return side, agents, foods and whether all agents are needed for each food."""
    match = _FORM.fullmatch(task) if isinstance(task, str) else None
    if match is None or match[1] != match[2]:
        raise ConfigError(
            f"foraging_arrays: unknown task {task!r}; write it like {TASK!r} (square grid, players, foods, coop). "
            "Tasks with limited sight or a penalty run as 'foraging'."
        )
    side, agents, foods = int(match[1]), int(match[3]), int(match[4])
    if side < 5 or agents < 1 or foods < 1 or agents + foods > side * side // 2:
        raise ConfigError(f"foraging_arrays: {task!r} needs a grid of 5x5 or more with room for agents and food.")
    return side, agents, foods, match[5] is not None
