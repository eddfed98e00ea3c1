"""A share of the games of a batch: stepped one after the other, each restarted by itself, also after a failure."""

import contextlib
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Integer, UInt8
from pettingzoo import ParallelEnv

from spnpolicy.base.errors import EnvError
from spnpolicy.envs.faults import BadValueError, Fault, last_lines, place
from spnpolicy.envs.pettingzoo.game import Game, Layout, StateError, View
from spnpolicy.envs.pettingzoo.pictures import picture_of

MOST_FAILURES = 3
"""Failed resets in a row after which an environment is given up."""


class Rows(NamedTuple):
    """What some games show, one row each; the fields are those of `Step`, and what happened besides."""

    observation: Float[np.ndarray, "envs agents features"]
    state: Float[np.ndarray, "envs state"] | None
    """None where the state is all observations side by side."""
    reward: Float[np.ndarray, "envs agents"]
    terminated: Bool[np.ndarray, " envs"]
    truncated: Bool[np.ndarray, " envs"]
    available_actions: Bool[np.ndarray, "envs agents actions"]
    final_observation: Float[np.ndarray, "envs agents features"]
    final_state: Float[np.ndarray, "envs state"] | None
    final_available_actions: Bool[np.ndarray, "envs agents actions"]
    discarded: Bool[np.ndarray, " envs"]
    episodes: Int[np.ndarray, " envs"]
    """Numbers of the episodes under way."""
    faults: list[Fault]
    """What went wrong on the way."""


class Share:
    """Some of the games of a batch.

    Args:
        name: name of the environment, for messages.
        make: makes one environment; None where the one in `ready` cannot be made again.
        layout: what all games have in common.
        indices: the indices of these games in the whole batch.
        ready: environments made already, to be used before new ones are made.
        note: told the row that is at work, -1 afterwards; for whoever watches this process.
        draws: keep the last picture of every episode, until the next step.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], ParallelEnv] | None,
        layout: Layout,
        indices: Sequence[int],
        *,
        ready: Sequence[ParallelEnv] = (),
        note: Callable[[int], None] = lambda row: None,
        draws: bool = False,
    ) -> None:
        self._name, self._make, self._layout, self._indices, self._note = name, make, layout, list(indices), note
        envs = [*ready]
        while make is not None and len(envs) < len(self._indices):
            envs.append(make())
        self._games = [Game(env, layout) for env in envs]
        self._seed = 0
        self._episodes = np.zeros(len(self._games), np.int64)
        self._failures: list[list[int]] = [[] for _ in self._games]
        """Row -> the steps, 0 or 1, at which its latest episodes failed without one that got further."""
        self._draws = draws
        self._last_pictures: dict[int, UInt8[np.ndarray, "height width 3"]] = {}
        """Row -> what an episode looked like that ended in the latest step."""

    def reset(self, seed: int, episodes: Int[np.ndarray, " envs"]) -> Rows:
        """Start every game anew, with the seed of the batch and the numbers of the first episodes."""
        self._seed = seed
        self._episodes = np.array(episodes)
        self._last_pictures.clear()
        faults: list[Fault] = []
        starts = {row: self._begin(row, faults) for row in range(len(self._games))}
        self._note(-1)
        return self._start_rows(list(starts.values()), self._episodes.copy(), faults)

    def restart(self, rows: list[int]) -> Rows:
        """Give up the episodes of some games and begin their next ones; shows these rows only."""
        faults: list[Fault] = []
        self._last_pictures.clear()
        starts = [self._begin_next(row, faults) for row in rows]
        self._note(-1)
        return self._start_rows(starts, self._episodes[rows], faults)

    def step(self, actions: Integer[np.ndarray, "envs agents"]) -> Rows:
        """Apply one joint action in every game; a game that ends or fails begins its next episode.

        Raises:
            EnvError: a game could not be restarted three times in a row, or draws no picture where it should.
        """
        rows = self._empty_rows(len(self._games))
        starts: dict[int, View] = {}
        self._last_pictures.clear()
        # a number too large for float32 becomes infinite, and the guard then says whose it was
        with np.errstate(over="ignore"):
            for row, (game, joint) in enumerate(zip(self._games, actions, strict=True)):
                self._note(row)
                try:
                    view, reward, terminated, truncated = game.step(joint)
                except (Exception, SystemExit) as error:
                    rows.faults.append(self._fault(row, error, during="step"))
                    if game.age == 1:
                        self._count_failure(row, rows.faults[-1])
                    rows.discarded[row] = rows.truncated[row] = True
                    self._renew(row)
                    view = starts[row] = self._begin_next(row, rows.faults)
                else:
                    self._failures[row].clear()
                    rows.reward[row] = reward
                    rows.terminated[row], rows.truncated[row] = terminated, truncated
                    if terminated or truncated:
                        if self._draws:
                            self._last_pictures[row] = self.picture(row)
                        starts[row] = self._begin_next(row, rows.faults)
                _put(rows.final_observation, rows.final_state, rows.final_available_actions, row, view)
        self._note(-1)
        return self._with_starts(rows, starts)._replace(episodes=self._episodes.copy())

    def picture(self, row: int, *, final: bool = False) -> UInt8[np.ndarray, "height width 3"]:
        """Return what a game looks like; `final`: if its episode ended in the latest step, the end of that."""
        if final and row in self._last_pictures:
            return self._last_pictures[row]
        where = place(self._name, self._indices[row], int(self._episodes[row]), self._games[row].age)
        return picture_of(where, self._games[row].env)

    def state_dicts(self) -> list[dict[str, Any]]:
        """Return the states of all games."""
        return [game.state_dict() for game in self._games]

    def load_state_dicts(self, seed: int, episodes: Int[np.ndarray, " envs"], states: list[dict[str, Any]]) -> None:
        """Take back what `state_dicts` returned."""
        self._seed, self._episodes = seed, np.array(episodes)
        self._last_pictures.clear()
        for game, state in zip(self._games, states, strict=True):
            game.load_state_dict(state)

    def close(self) -> None:
        """Close all environments."""
        for game in self._games:
            with contextlib.suppress(Exception):
                game.env.close()

    def _begin_next(self, row: int, faults: list[Fault]) -> View:
        self._episodes[row] += 1
        return self._begin(row, faults)

    def _begin(self, row: int, faults: list[Fault]) -> View:
        """Start an episode, with the next number if it fails."""
        while True:
            self._note(row)
            try:
                return self._games[row].begin(episode_seed(self._seed, self._indices[row], int(self._episodes[row])))
            except (Exception, SystemExit) as error:
                faults.append(self._fault(row, error, during="reset"))
                self._count_failure(row, faults[-1])
                self._renew(row)
                self._episodes[row] += 1

    def _fault(self, row: int, error: BaseException, *, during: str) -> Fault:
        """Put an exception into words; nothing else of it leaves this process."""
        env, episode, age = self._indices[row], int(self._episodes[row]), self._games[row].age
        where = place(self._name, env, episode, age)
        if isinstance(error, BadValueError):
            whose = "" if error.agent is None else f" of {self._layout.agents[error.agent]}"
            subject = "" if error.field in ("agents", "step") and error.text else f"{error.field}{whose} "
            return Fault(env, episode, age, error.agent, error.field, f"{where}: {subject}{error.text}.")
        field = "crash" if during == "step" else "reset"
        what, cause = f"{during}() raised {type(error).__name__}: {error}", error
        if isinstance(error, StateError):
            what, cause = str(error), error.__cause__ or error
        message = f"{where}: {what}. The environment was started anew."
        return Fault(env, episode, age, None, field, message, "".join(traceback.format_exception(cause)))

    def _count_failure(self, row: int, fault: Fault) -> None:
        failed = self._failures[row]
        failed.append(fault.step)
        if len(failed) >= MOST_FAILURES:
            where = place(self._name, fault.env, fault.episode, fault.step)
            what = ("starts" if any(failed) else "resets") if 0 in failed else "first steps"
            raise EnvError(
                f"{where}: {MOST_FAILURES} {what} in a row failed. The last words of the environment:"
                f"{last_lines(fault.traceback or fault.message)}"
            )

    def _renew(self, row: int) -> None:
        """Replace an environment that failed by a new one, where that is possible: the old one may be half done."""
        if self._make is None:
            return
        with contextlib.suppress(Exception):
            self._games[row].env.close()
        with contextlib.suppress(Exception):
            # if not even this works, the next reset of the old one will fail too, and tell
            self._games[row] = Game(self._make(), self._layout)

    def _empty_rows(self, count: int) -> Rows:
        spec = self._layout.spec
        agents = spec.num_agents
        observation = np.zeros((count, agents, spec.observation_size), np.float32)
        state = np.zeros((count, spec.state_size), np.float32) if self._layout.has_own_state else None
        available = np.zeros((count, *self._layout.exists.shape), bool)
        reward = np.zeros((count, agents), np.float32)
        terminated, truncated, discarded = (np.zeros(count, bool) for _ in range(3))
        episodes = np.zeros(count, np.int64)
        # Final and shown fields begin as one and the same array: where no episode ends, nothing is copied here, and the
        # parent sees by `is` that it need not join them twice. Whoever starts an episode copies first.
        return Rows(
            *(observation, state, reward, terminated, truncated, available),
            *(observation, state, available, discarded, episodes, []),
        )

    def _start_rows(self, views: list[View], episodes: Int[np.ndarray, " envs"], faults: list[Fault]) -> Rows:
        rows = self._empty_rows(len(views))
        for row, view in enumerate(views):
            _put(rows.observation, rows.state, rows.available_actions, row, view)
        return rows._replace(episodes=episodes, faults=faults)

    def _with_starts(self, rows: Rows, starts: dict[int, View]) -> Rows:
        """Show the first views of new episodes beside the last ones of those before."""
        if not starts:
            return rows
        observation, available = rows.final_observation.copy(), rows.final_available_actions.copy()
        state = None if rows.final_state is None else rows.final_state.copy()
        for row, view in starts.items():
            _put(observation, state, available, row, view)
        return rows._replace(observation=observation, state=state, available_actions=available)


def episode_seed(seed: int, env: int, episode: int) -> int:
    """Return the seed of one episode: fixed by the batch's seed, the environment's index and the episode."""
    return int(np.random.SeedSequence(seed, spawn_key=(env, episode)).generate_state(1)[0] >> 1)


def _put(observation: np.ndarray, state: np.ndarray | None, available: np.ndarray, row: int, view: View) -> None:
    observation[row] = view.observation
    available[row] = view.available_actions
    if state is not None:
        state[row] = view.state
