"""How goals of the coverage gridworld are reached."""

import numpy as np
from jaxtyping import Bool, Int

from spnpolicy.envs.coverage.board import Board


class FreeGoals:
    """Which goal is still free on each cell: one lookup per agent instead of a comparison with each goal."""

    def __init__(self, num_envs: int, num_cells: int, goals: int) -> None:
        self._goals = goals
        self._first_cell = np.arange(num_envs)[:, None] * num_cells
        # -1 stands for "no free goal here"; small numbers keep the table in the processor's cache
        self._goal_on_cell = np.full((num_envs, num_cells), -1, np.int8 if goals < 128 else np.int32)

    def mark(self, board: Board, rows: Int[np.ndarray, " rows"], *, claimed_are_free: bool) -> None:
        """Rebuild the lookup of some games after their goals have moved."""
        goal = np.arange(self._goals)
        if not claimed_are_free:
            goal = np.where(board.goal_flags[rows], -1, goal)
        self._goal_on_cell[rows] = -1
        self._goal_on_cell[rows[:, None], board.goal_cells[rows]] = goal

    def occupy(self, board: Board) -> None:
        """Set the flags: which agents stand on a goal, and which goals are occupied now."""
        goal = self._goal_on_cell.take(self._first_cell + board.agent_cells)
        board.agent_flags = goal >= 0
        hits = np.flatnonzero(board.agent_flags)
        board.goal_flags = np.zeros(board.goal_cells.shape, bool)
        board.goal_flags.ravel()[self._flat_goals(goal, hits)] = True

    def latch(self, board: Board, may_claim: Bool[np.ndarray, "envs agents"] | None) -> None:
        """Let agents claim the free goals that they stand on; of several on one goal the first gets it.

        Args:
            board: the games; flags change in place.
            may_claim: agents that try to claim; None means all.
        """
        place = self._first_cell + board.agent_cells
        goal = self._goal_on_cell.take(place)
        # a latched agent stands on a claimed goal, which is no longer free, so it never counts here
        claims = goal >= 0 if may_claim is None else (goal >= 0) & may_claim
        hits = np.flatnonzero(claims)
        if not len(hits):
            return
        # Several agents may stand on one goal. Flat positions rise with the agent, and `unique` returns the first place
        # of each value: that is the agent order of the rules.
        claimed, first = np.unique(self._flat_goals(goal, hits), return_index=True)
        winners = hits[first]
        board.goal_flags.ravel()[claimed] = True
        board.agent_flags.ravel()[winners] = True
        self._goal_on_cell.ravel()[place.ravel()[winners]] = -1

    def _flat_goals(
        self, goal: Int[np.ndarray, "envs agents"], hits: Int[np.ndarray, " hits"]
    ) -> Int[np.ndarray, " hits"]:
        """Return positions in the flattened (envs, goals) array for flat positions of agents."""
        return hits // goal.shape[1] * self._goals + goal.ravel()[hits]
