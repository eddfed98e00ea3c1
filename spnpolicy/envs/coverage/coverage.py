"""The coverage gridworld: agents must between them reach all goals; nobody is paid before that."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Integer, UInt8

from spnpolicy.base.errors import ConfigError, EnvError
from spnpolicy.data.env import Step
from spnpolicy.envs.coverage.assignment import bottleneck_assignment
from spnpolicy.envs.coverage.board import ACTION_NAMES, CLAIM, STAY, Board, Grid, check_saved_board, start_distances
from spnpolicy.envs.coverage.breakdowns import Breakdowns
from spnpolicy.envs.coverage.goals import FreeGoals
from spnpolicy.envs.coverage.layouts import LayoutStream, checked_layout
from spnpolicy.envs.options import (
    begun,
    check_saved_options,
    checked_actions,
    checked_discount,
    checked_seed,
    one_of,
    reading_saved_state,
    true_or_false,
    whole_number,
)

VARIANTS = ("latch", "simultaneous", "claim")
PLACEMENTS = ("random", "fixed")
MAX_LOOKUP_BYTES = 2**32
ALLOCATOR_HINT_BYTES = 31 * 2**20
"""Just below the 32 MiB up to which glibc learns from freed blocks; the block is never touched, so it costs nothing."""


class Coverage:
    """A batch of coverage games on a square grid, stepped together as array operations.

    Everyone is paid 1 on the step on which all goals are covered, and 0 before; the episode then ends.
    The actions are 0 stay, 1 up, 2 down, 3 left, 4 right, 5 claim. In a step all agents move at once (moves
    off the board stay put, agents may share a cell), then they reach goals in agent order, then success is
    tested.

    - "latch": an agent that stands on an unclaimed goal claims it at once and never moves again.
    - "claim": the same, but only if it plays action 5 there.
    - "simultaneous": nothing latches; all goals must be occupied at the same time. Action 5 means stay.

    Observation of agent i, float32, 3 * (agents + goals) numbers:

    1. own row and own column in [0, 1] (divided by size - 1), own flag;
    2. for goal 0, 1, ...: row and column minus own row and column, in [-1, 1], flag of the goal;
    3. for agent i+1, i+2, ... (mod agents): row and column minus own row and column, flag of that agent.

    With `shown` an agent sees only so many goals, the nearest free ones first and then the nearest claimed ones, each
    with its number behind its flag, and nobody else: what agents see then does not grow with the team.

    The flag of an agent says that it is latched, that of a goal that it is claimed; in variant "simultaneous" they
    say that the agent stands on a goal and that the goal is occupied. An agent that has broken down can only stay,
    wherever it is, and shows its flag as well unless breakdowns are not `announced`. The state is all observations
    side by side, agent 0 first: a reshaped view of the same memory. Every step returns new arrays, so that what an
    earlier step returned never changes; `observation` and `final_observation` are one and the same array when no
    episode ends.

    Args:
        agents: number of agents, 1 or more.
        goals: number of goals, 1 to `agents`; None means as many as agents.
        shown: most goals that an agent sees; None means all, in one order, and all other agents.
        size: rows and columns of the grid; all agents and goals start in distinct cells.
        variant: "latch", "simultaneous" or "claim".
        placement: "random" draws a new layout for every episode, "fixed" draws one layout from `layout_seed`.
        layout_seed: seed of the fixed layout.
        episode_limit: steps after which an episode is truncated.
        broken: most agents that break down in an episode: 0 to so many do, each number equally likely, each of them in
            one of the first `size` steps, and never move again. At most agents - goals, so that the task can be done.
        announced: everyone sees who is broken. If not, only the available actions tell: to know of another agent's,
            a policy must be one over joint actions.
        num_envs: number of games in the batch.

    Raises:
        ConfigError: an option has the wrong type or range, or the task could never be solved.
    """

    name = "coverage"
    action_names = ACTION_NAMES

    def __init__(
        self,
        *,
        agents: int = 3,
        goals: int | None = None,
        shown: int | None = None,
        size: int = 5,
        variant: str = "latch",
        placement: str = "random",
        layout_seed: int = 0,
        episode_limit: int = 200,
        broken: int = 0,
        announced: bool = True,
        num_envs: int = 1,
    ) -> None:
        self.agents = whole_number(self.name, "agents", agents, 1)
        self.goals = self.agents if goals is None else whole_number(self.name, "goals", goals, 1)
        self.shown = None if shown is None else whole_number(self.name, "shown", shown, 1)
        self.size = whole_number(self.name, "size", size, 1)
        self.variant = one_of(self.name, "variant", variant, VARIANTS)
        self.placement = one_of(self.name, "placement", placement, PLACEMENTS)
        self.layout_seed = whole_number(self.name, "layout_seed", layout_seed, 0)
        self.episode_limit = whole_number(self.name, "episode_limit", episode_limit, 1)
        self.broken = whole_number(self.name, "broken", broken, 0)
        self.announced = true_or_false(self.name, "announced", announced)
        self.num_envs = whole_number(self.name, "num_envs", num_envs, 1)
        self._check_sizes()
        self._grid = Grid(self.size, self.agents, self.goals, self.shown, bool(self.broken), self.announced)
        self.spec = self._grid.spec
        self._cardinalities = np.array(self.spec.cardinalities)
        self._available = np.broadcast_to(True, (self.num_envs, self.agents, len(ACTION_NAMES)))
        self._free_goals = FreeGoals(self.num_envs, self._grid.num_cells, self.goals)
        # The C allocator hands freed blocks of this size back to the system and pays page faults to get them again,
        # in every step; once it has seen a larger block freed, it keeps them, which doubles the speed.
        np.empty(ALLOCATOR_HINT_BYTES, np.uint8)
        is_fixed = self.placement == "fixed"
        self._fixed_layout = self._open_stream(self.layout_seed).draw(1) if is_fixed else None
        self._layouts: LayoutStream | None = None
        self._breakdowns = self._open_breakdowns(self.layout_seed)
        self._board: Board | None = None
        self._finished_rows = np.zeros(0, np.intp)
        self._finished: Board | None = None

    def _check_sizes(self) -> None:
        entities = self.agents + self.goals
        if self.broken > self.agents - self.goals >= 0:
            raise ConfigError(
                f"coverage: broken={self.broken} of agents={self.agents} may leave too few for goals={self.goals}; "
                f"use broken={self.agents - self.goals} or less, or more agents."
            )
        if self.goals > self.agents:
            raise ConfigError(
                f"coverage: goals={self.goals} can never all be covered by agents={self.agents}; "
                f"use goals={self.agents} or fewer, or more agents."
            )
        if entities > self.size**2:
            raise ConfigError(
                f"coverage: size={self.size} has {self.size**2} cells, too few for {self.agents} agents and "
                f"{self.goals} goals in distinct cells; use size={int(np.ceil(np.sqrt(entities)))} or more."
            )
        lookup_bytes = self.size**2 * (self.num_envs + 4 * 3 * (entities if self.shown is None else 1))
        if lookup_bytes > MAX_LOOKUP_BYTES:
            raise ConfigError(
                f"coverage: size={self.size} with num_envs={self.num_envs} needs lookup tables of "
                f"{lookup_bytes / 2**30:.0f} GiB; use a smaller grid or batch."
            )

    def reset(self, *, seed: int | None = None) -> Step:
        """Start a new episode in every game; a seed makes all layouts that follow reproducible."""
        checked_seed(self.name, seed)
        if seed is not None or self._layouts is None:
            self._layouts, self._breakdowns = self._open_stream(seed), self._open_breakdowns(seed)
        layouts = self._draw_layouts(self.num_envs)
        return self._begin(layouts[:, : self.agents], layouts[:, self.agents :])

    def set_layout(
        self, agent_cells: Int[np.ndarray, "envs agents"], goal_cells: Int[np.ndarray, "envs goals"]
    ) -> Step:
        """Start a new episode in every game with given layouts; later episodes are placed as usual.

        Args:
            agent_cells: cell = row * size + column of each agent, shape (num_envs, agents).
            goal_cells: the same of each goal, shape (num_envs, goals); all cells of a game differ.

        Returns:
            The first observations; rewards are zero.

        Raises:
            ConfigError: wrong shape or type, a cell outside the grid, or two things in one cell.
        """
        shapes = ((self.num_envs, self.agents), (self.num_envs, self.goals))
        agent_cells, goal_cells = checked_layout(self.name, agent_cells, goal_cells, shapes, self._grid.num_cells)
        if self._layouts is None:
            self._layouts = self._open_stream(None)
        return self._begin(agent_cells, goal_cells)

    def step(self, actions: Integer[np.ndarray, "envs agents"]) -> Step:
        """Apply one joint action, numbers in 0 .. 5, in every game; every agent of one that just succeeded gets 1."""
        board = self._started_board()
        actions = checked_actions(self.name, actions, self.num_envs, self._cardinalities)
        if self.variant == "simultaneous":
            board.agent_cells = self._grid.move(board.agent_cells, np.where(board.broken, STAY, actions))
            self._free_goals.occupy(board)
        else:
            stands = board.agent_flags | board.broken
            board.agent_cells = self._grid.move(board.agent_cells, np.where(stands, STAY, actions))
            self._free_goals.latch(board, (actions == CLAIM) & ~stands if self.variant == "claim" else None)
        board.steps += 1
        terminated = np.all(board.goal_flags, axis=1)
        truncated = (board.steps >= self.episode_limit) & ~terminated
        final_observation = self._grid.observe(board)
        observation = self._restart(board, np.flatnonzero(terminated | truncated), final_observation)
        reward = np.zeros((self.num_envs, self.agents), np.float32)
        reward[terminated] = 1.0
        return Step.showing(
            observation,
            self._available_on(board),
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            final_observation=final_observation,
        )

    def _restart(
        self,
        board: Board,
        rows: Int[np.ndarray, " rows"],
        final_observation: Float[np.ndarray, "envs agents features"],
    ) -> Float[np.ndarray, "envs agents features"]:
        """Start new episodes in some games and return the observations after that."""
        self._finished_rows = rows
        if not len(rows):
            return final_observation
        self._finished = board.rows(rows)
        layouts = self._draw_layouts(len(rows))
        agent_cells, goal_cells = layouts[:, : self.agents], layouts[:, self.agents :]
        board.agent_cells[rows] = board.start_cells[rows] = agent_cells
        board.goal_cells[rows] = goal_cells
        board.agent_flags[rows] = False
        board.goal_flags[rows] = False
        board.steps[rows] = 0
        board.breaks[rows] = self._breakdowns.draw(len(rows))
        self._mark_goals(rows, board)
        observation = final_observation.copy()
        observation[rows] = self._grid.observe(board.rows(rows))
        return observation

    def _begin(self, agent_cells: Int[np.ndarray, "envs agents"], goal_cells: Int[np.ndarray, "envs goals"]) -> Step:
        self._board = Board.start(agent_cells, goal_cells, self._breakdowns.draw(self.num_envs))
        self._finished_rows = np.zeros(0, np.intp)
        self._mark_goals(np.arange(self.num_envs), self._board)
        return self._show_current()

    def _mark_goals(self, rows: Int[np.ndarray, " rows"], board: Board) -> None:
        self._free_goals.mark(board, rows, claimed_are_free=self.variant == "simultaneous")

    def _show_current(self) -> Step:
        board = self._started_board()
        return Step.showing(self._grid.observe(board), self._available_on(board))

    def _available_on(self, board: Board) -> Bool[np.ndarray, "envs agents actions"]:
        if not self.broken:
            return self._available
        return self._available & (~board.broken[..., None] | (np.arange(len(ACTION_NAMES)) == STAY))

    def optimal_steps(self) -> Int[np.ndarray, " envs"]:
        """Return the length of the best possible episode from the start of each current episode.

        It is the bottleneck assignment of agents to goals under the Manhattan distance, plus one step for the
        claim itself in variant "claim". Nobody starts on a goal, so it is at least 1. Exact for
        "simultaneous" and "claim"; a lower bound for "latch", where an agent cannot walk across a free goal. With
        breakdowns it is the best of a team that knows them in advance.

        Raises:
            EnvError: `reset` was never called.
        """
        return bottleneck_assignment(start_distances(self._started_board(), self.size)) + (self.variant == "claim")

    def fixed_assignment_steps(self) -> Int[np.ndarray, " envs"]:
        """Return the length of the episode in which agent i takes goal i: the best without coordination.

        Raises:
            ConfigError: there are fewer goals than agents, so that not every agent has its own.
        """
        if self.goals != self.agents:
            raise ConfigError(
                f"coverage: fixed_assignment_steps needs one goal per agent, here goals={self.goals} and "
                f"agents={self.agents}; use optimal_steps instead."
            )
        own_distance = np.diagonal(start_distances(self._started_board(), self.size), axis1=1, axis2=2)
        return own_distance.max(axis=1) + (self.variant == "claim")

    def optimal_return(self, discount: float) -> Float[np.ndarray, " envs"]:
        """Return the best discounted return of each current episode: discount ** (optimal_steps - 1).

        It is 0 where even the best episode would be longer than the episode limit.
        """
        discount = checked_discount(self.name, discount)
        steps = self.optimal_steps()
        return np.where(steps <= self.episode_limit, np.power(discount, steps - 1), 0.0)

    def board(self, index: int = 0, *, final: bool = False) -> Board:
        """Return a copy of one game (a `Board` with a batch of one).

        Args:
            index: which game, 0 .. num_envs - 1.
            final: if that game ended on the latest step, show what it reached instead of the new start.

        Raises:
            EnvError: `reset` was never called, or there is no such game.
        """
        board = self._started_board()
        if not 0 <= index < self.num_envs:
            raise EnvError(f"coverage: there is no env {index}; the batch has 0 .. {self.num_envs - 1}.")
        finished = np.flatnonzero(self._finished_rows == index)
        if final and len(finished) and self._finished is not None:
            return self._finished.rows(finished)
        return board.rows(np.array([index]))

    def render(
        self,
        index: int = 0,
        *,
        cell: int = 48,
        final: bool = False,
        marginals: Float[np.ndarray, "agents actions"] | None = None,
    ) -> UInt8[np.ndarray, "height width 3"]:
        """Return a picture of what `board` returns, with cells of so many pixels, 12 or more.

        With `marginals` it shows where every agent may go, and how probably.
        """
        # Pillow is heavy, and training never draws.
        from spnpolicy.envs.coverage.render import render

        return render(self.board(index, final=final), self.size, self.variant, cell=cell, marginals=marginals)

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to go on exactly from here (arrays and JSON values)."""
        board = self._started_board()
        assert self._layouts is not None, "a board exists only after a stream of layouts was opened"
        return {
            "options": self._options(),
            "layouts": self._layouts.state_dict(),
            "agent_cells": board.agent_cells.copy(),
            "goal_cells": board.goal_cells.copy(),
            "start_cells": board.start_cells.copy(),
            "agent_flags": board.agent_flags.copy(),
            "goal_flags": board.goal_flags.copy(),
            "steps": board.steps.copy(),
            "breaks": board.breaks.copy(),
            "breakdowns": self._breakdowns.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> Step:
        """Go on exactly from a state that `state_dict` returned; nothing changes when the state is refused."""
        with reading_saved_state(self.name):
            options = dict(state["options"])
            board = Board(**{name: np.array(state[name]) for name in Board.__slots__})
            layouts = self._open_stream(0)
            layouts.load_state_dict(state["layouts"])
            breakdowns = self._open_breakdowns(0)
            breakdowns.load_state_dict(state["breakdowns"])
        check_saved_options(self.name, options, self._options())
        check_saved_board(board, self.num_envs, self.agents, self.goals, self.size, self.episode_limit)
        self._board, self._layouts, self._breakdowns = board, layouts, breakdowns
        self._finished_rows = np.zeros(0, np.intp)
        self._mark_goals(np.arange(self.num_envs), board)
        return self._show_current()

    def _options(self) -> dict[str, Any]:
        names = (
            "agents",
            "goals",
            "shown",
            "size",
            "variant",
            "placement",
            "layout_seed",
            "episode_limit",
            "broken",
            "announced",
            "num_envs",
        )
        return {name: getattr(self, name) for name in names}

    def _open_stream(self, seed: int | None) -> LayoutStream:
        return LayoutStream(seed, self._grid.num_cells, self.agents + self.goals)

    def _open_breakdowns(self, seed: int | None) -> Breakdowns:
        return Breakdowns(seed, self.agents, self.broken, self.size)

    def _draw_layouts(self, rows: int) -> Int[np.ndarray, "rows entities"]:
        if self._fixed_layout is not None:
            return np.repeat(self._fixed_layout, rows, axis=0)
        assert self._layouts is not None, "reset opens the stream"
        return self._layouts.draw(rows)

    def _started_board(self) -> Board:
        return begun(self.name, self._board)
