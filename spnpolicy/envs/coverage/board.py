"""The board of the coverage gridworld: where everything is, where moves lead, and what agents see."""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from spnpolicy.base.errors import CheckpointError
from spnpolicy.data.entities import Entities, EntitySet
from spnpolicy.data.env import EnvSpec
from spnpolicy.envs.coverage.breakdowns import NEVER
from spnpolicy.envs.options import check_array

ACTION_NAMES = ("stay", "up", "down", "left", "right", "claim")
STAY = ACTION_NAMES.index("stay")
CLAIM = ACTION_NAMES.index("claim")
ENTITY = 3
"""Numbers in an observation per goal or agent: row, column, flag."""


@dataclass(slots=True)
class Board:
    """State of a batch of games. Cells are counted row by row: cell = row * size + column."""

    agent_cells: Int[np.ndarray, "envs agents"]
    goal_cells: Int[np.ndarray, "envs goals"]
    start_cells: Int[np.ndarray, "envs agents"]
    """Cells of the agents when the episode began."""
    agent_flags: Bool[np.ndarray, "envs agents"]
    """The agent is latched (variant "simultaneous": it stands on a goal)."""
    goal_flags: Bool[np.ndarray, "envs goals"]
    """The goal is claimed (variant "simultaneous": some agent stands on it)."""
    steps: Int[np.ndarray, " envs"]
    """Steps done in the episode."""
    breaks: Int[np.ndarray, "envs agents"]
    """Step of the episode in which each agent breaks down; `NEVER` for those that do not."""

    @property
    def broken(self) -> Bool[np.ndarray, "envs agents"]:
        """Which agents have broken down."""
        return self.steps[:, None] >= self.breaks

    def rows(self, rows: Int[np.ndarray, " rows"]) -> "Board":
        """Return a copy of some of the games."""
        return Board(*(getattr(self, field.name)[rows] for field in fields(self)))

    @classmethod
    def start(
        cls,
        agent_cells: Int[np.ndarray, "envs agents"],
        goal_cells: Int[np.ndarray, "envs goals"],
        breaks: Int[np.ndarray, "envs agents"],
    ) -> "Board":
        """Return games at the start of an episode."""
        return cls(
            agent_cells=agent_cells.copy(),
            goal_cells=goal_cells.copy(),
            start_cells=agent_cells.copy(),
            agent_flags=np.zeros(agent_cells.shape, bool),
            goal_flags=np.zeros(goal_cells.shape, bool),
            steps=np.zeros(len(agent_cells), np.intp),
            breaks=breaks.copy(),
        )


class Grid:
    """Lookup tables of a square grid."""

    def __init__(
        self, size: int, agents: int, goals: int, shown: int | None, has_masks: bool, shows_broken: bool
    ) -> None:
        self.size = size
        self._shows_broken = shows_broken
        self.num_cells = size * size
        self.shown = None if shown is None else min(shown, goals)
        self.spec = _spec(size, agents, goals, self.shown, has_masks)
        self._moves = _move_table(size)
        row, column = np.divmod(np.arange(self.num_cells), size)
        self._positions = np.zeros((self.num_cells, ENTITY), np.float32)
        self._positions[:, 0] = row / (size - 1)
        self._positions[:, 1] = column / (size - 1)
        self._tiled_positions = np.tile(self._positions, (1, 1 if self.shown is not None else agents + goals))

    def move(
        self, cells: Int[np.ndarray, "envs agents"], actions: Integer[np.ndarray, "envs agents"]
    ) -> Int[np.ndarray, "envs agents"]:
        """Return the cells after one step; moves off the board and action 5 stay put."""
        # One flat index: taking from [action, cell] with two index arrays costs several times as much.
        return self._moves.take(actions * self.num_cells + cells)

    def observe(self, board: Board) -> Float[np.ndarray, "envs agents features"]:
        """Return a fresh array of what every agent sees; the layout is described in `Coverage`."""
        flags = board.agent_flags | board.broken if self._shows_broken else board.agent_flags
        own = self._entities(board.agent_cells, flags)
        if self.shown is not None:
            return self._beside_nearest(own, board, self.shown)
        envs, agents = board.agent_cells.shape
        goals = self._entities(board.goal_cells, board.goal_flags).reshape(envs, 1, -1)
        first_other = ENTITY + goals.shape[2]
        # Long rows are what makes numpy fast here: start from one's own position, repeated for every
        # entity, and replace it in place by "their position minus mine" (flags minus zero).
        seen = self._tiled_positions.take(board.agent_cells, axis=0)
        seen[:, :, :ENTITY] = own
        np.subtract(goals, seen[:, :, ENTITY:first_other], out=seen[:, :, ENTITY:first_other])
        if agents > 1:
            np.subtract(_others(own), seen[:, :, first_other:], out=seen[:, :, first_other:])
        return seen

    def _beside_nearest(
        self, own: Float[np.ndarray, "envs agents 3"], board: Board, shown: int
    ) -> Float[np.ndarray, "envs agents features"]:
        """Return what agents see of themselves, and the goals that are nearest to each."""
        far = manhattan(board.agent_cells, board.goal_cells, self.size)
        # Free goals first; of equally near ones the first.
        order = (far + 2 * self.size * board.goal_flags[:, None]) * board.goal_cells.shape[1]
        order += np.arange(board.goal_cells.shape[1])
        nearest = np.sort(np.partition(order, shown - 1, 2)[..., :shown], 2) % board.goal_cells.shape[1]
        goals = self._entities(board.goal_cells, board.goal_flags)
        seen = goals[np.arange(len(goals))[:, None, None], nearest]
        seen[..., :2] -= own[:, :, None, :2]
        seen = np.concatenate([seen, nearest[..., None].astype(np.float32)], 3)
        return np.concatenate([own, seen.reshape(*own.shape[:2], -1)], 2)

    def _entities(
        self, cells: Int[np.ndarray, "envs entities"], flags: Bool[np.ndarray, "envs entities"]
    ) -> Float[np.ndarray, "envs entities 3"]:
        entities = self._positions.take(cells, axis=0)
        entities[:, :, 2] = flags
        return entities


def _spec(size: int, agents: int, goals: int, shown: int | None, has_masks: bool) -> EnvSpec:
    place = {"size": ENTITY, "positions": (0, 1)}
    own = EntitySet("itself", 0, 1, **place)
    if shown is None:
        seen = EntitySet("goals", own.stop, goals, **place, is_shared=True)
        sets, most = (seen, EntitySet("others", seen.stop, agents - 1, **place)), 1.0
    else:
        numbered = EntitySet("goals", own.stop, shown, ENTITY + 1, (0, 1), identity=ENTITY)
        sets, most = (numbered,), float(max(1, goals - 1))
    entities = Entities(own, sets, cells=size - 1, is_relative=True, state_is_observations=True)
    counts, seen_by_all = (len(ACTION_NAMES),) * agents, entities.observation_size
    return EnvSpec(
        counts, seen_by_all, agents * seen_by_all, has_masks, entities=entities, observation_bounds=(-1.0, most)
    )


def _others(entities: Float[np.ndarray, "envs agents 3"]) -> Float[np.ndarray, "envs agents others"]:
    """Return the rows of agents i+1, i+2, ... (mod n) for every agent i, as a view that repeats nothing."""
    envs, agents, _ = entities.shape
    # Laid out twice around the circle, the rows that agent i sees lie behind each other, one row further for each
    # agent: a stride over agents equal to that over entities reads them without copying n times n entities.
    circle = np.concatenate([entities, entities[:, :-1]], axis=1)
    per_env, per_entity, per_number = circle.strides
    return np.ndarray(
        (envs, agents, ENTITY * (agents - 1)),
        circle.dtype,
        buffer=circle,
        offset=per_entity,
        strides=(per_env, per_entity, per_number),
    )


def _move_table(size: int) -> Int[np.ndarray, "actions cells"]:
    """Return the cell that each action leads to from each cell."""
    row, column = np.divmod(np.arange(size * size), size)
    shifts = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (0, 0))
    last = size - 1
    return np.stack([np.clip(row + r, 0, last) * size + np.clip(column + c, 0, last) for r, c in shifts])


def manhattan(
    cells: Int[np.ndarray, "envs agents"], goals: Int[np.ndarray, "envs goals"], size: int
) -> Int[np.ndarray, "envs agents goals"]:
    """Return the steps from every cell to every goal."""
    (row, column), (goal_row, goal_column) = np.divmod(cells, size), np.divmod(goals, size)
    rows = np.abs(row[:, :, None] - goal_row[:, None, :])
    return rows + np.abs(column[:, :, None] - goal_column[:, None, :])


def start_distances(board: Board, size: int) -> Int[np.ndarray, "envs agents goals"]:
    """Return the Manhattan distance from the first cell of every agent to every goal; `NEVER` if it breaks before."""
    distances = manhattan(board.start_cells, board.goal_cells, size)
    return np.where(distances <= board.breaks[:, :, None], distances, NEVER)


def check_saved_board(board: Board, envs: int, agents: int, goals: int, size: int, episode_limit: int) -> None:
    """Refuse a board from a checkpoint that such a game cannot have.

    Raises:
        CheckpointError: an array has the wrong shape, type or range.
    """
    for name, shape, kind, top in (
        ("agent_cells", (envs, agents), "i", size * size),
        ("goal_cells", (envs, goals), "i", size * size),
        ("start_cells", (envs, agents), "i", size * size),
        ("agent_flags", (envs, agents), "b", 2),
        ("goal_flags", (envs, goals), "b", 2),
        ("steps", (envs,), "i", episode_limit),
        ("breaks", (envs, agents), "i", NEVER + 1),
    ):
        what = f"coverage: {name} of the saved state"
        check_array(what, getattr(board, name), shape, kind, top, error=CheckpointError)
