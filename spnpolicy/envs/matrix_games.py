"""Matrix games: one joint action, one common payoff, the end."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from spnpolicy.envs.checks import checked_actions, one_of, whole_number
from spnpolicy.envs.protocol import EnvSpec, Step
from spnpolicy.errors import CheckpointError, ConfigError, EnvError

GAMES: dict[str, tuple[tuple[float, ...], ...]] = {
    "climbing": ((11, -30, 0), (-30, 7, 0), (0, 6, 5)),
    "penalty": ((-100, 0, 10), (0, 2, 0), (10, 0, -100)),
    "linear": ((1, 5), (5, 9)),
    "monotonic": ((0, 0), (0, 10)),
    "bad_basin": ((0, -5), (-5, 10)),
    "diagonal": ((10, 0), (0, 10)),
}
"""Payoffs of the named games: agent 0 chooses the row, agent 1 the column."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class MatrixGame:
    """A batch of one-step games in which all agents are paid the same entry of a payoff table.

    Observations and state are the constant 1, of length 1. Every step ends the episode.

    - "climbing": the best joint action (A, A) = 11 is surrounded by losses; (B, B) = 7 is a Nash point.
    - "penalty": two best joint actions, and a loss of `k` when the agents mix them up.
    - "linear": additive payoffs, best (B, B) = 9.
    - "monotonic": best (B, B) = 10, not additive.
    - "bad_basin": best (B, B) = 10, but play drifts to the Nash point (A, A) = 0 when the other agent
      plays A with a probability above 3/4.
    - "diagonal": two equally good conventions.

    Args:
        game: one of `GAMES`; not used when `payoff` is given.
        k: the loss of "penalty", 0 or less; None means -100.
        payoff: your own table, one axis per agent, finite numbers.
        num_envs: number of games in the batch.

    Raises:
        ConfigError: an option has the wrong type or range.
    Source: Claus & Boutilier 1998 (climbing, penalty); here the 6 of climbing stands in row C, column B.
    """

    name = "matrix_game"
    episode_limit = 1

    def __init__(
        self,
        *,
        game: str = "climbing",
        k: float | None = None,
        payoff: ArrayLike | None = None,
        num_envs: int = 1,
    ) -> None:
        self.num_envs = whole_number(self.name, "num_envs", num_envs, 1)
        self.game = one_of(self.name, "game", game, GAMES) if payoff is None else "own table"
        self.payoff = _checked_payoff(GAMES[self.game] if payoff is None else payoff)
        if k is not None:
            self.payoff = _penalty_table(self.game, k)
        cardinalities = self.payoff.shape
        most = max(cardinalities)
        self._cardinalities = np.array(cardinalities)
        self.action_names = tuple(LETTERS[:most]) if most <= len(LETTERS) else tuple(map(str, range(most)))
        self.spec = EnvSpec(cardinalities, 1, 1, has_action_masks=min(cardinalities) < most)
        available = np.arange(most) < self._cardinalities[:, None]
        self._available = np.broadcast_to(available, (num_envs, *available.shape))
        self._has_begun = False

    @property
    def optimum(self) -> float:
        """Best payoff of the table."""
        return float(self.payoff.max())

    def reset(self, *, seed: int | None = None) -> Step:
        """Start new games; nothing here is random, so the seed is checked and then ignored."""
        if seed is not None:
            whole_number(self.name, "seed", seed, 0)
        self._has_begun = True
        return self._show(np.zeros(self.num_envs, np.float32), has_ended=False)

    def step(self, actions: Int[np.ndarray, "envs agents"]) -> Step:
        """Pay every agent the entry of its game's joint action, and begin again.

        Args:
            actions: one action of each agent, shape (num_envs, agents).

        Returns:
            Payoffs as rewards, the same for all agents of a game; `terminated` is true everywhere.

        Raises:
            EnvError: `reset` was never called, or an action has the wrong shape, type or value.
        """
        if not self._has_begun:
            raise EnvError("matrix_game: no episode has begun; call reset() first.")
        actions = checked_actions(self.name, actions, self.num_envs, self._cardinalities)
        payoff = self.payoff[tuple(actions.T)].astype(np.float32)
        return self._show(payoff, has_ended=True)

    def _show(self, payoff: Float[np.ndarray, " envs"], has_ended: bool) -> Step:
        agents = self.spec.num_agents
        observation = np.ones((self.num_envs, agents, 1), np.float32)
        state = np.ones((self.num_envs, 1), np.float32)
        return Step(
            observation=observation,
            state=state,
            reward=np.repeat(payoff[:, None], agents, axis=1),
            terminated=np.full(self.num_envs, has_ended),
            truncated=np.zeros(self.num_envs, bool),
            available_actions=self._available,
            final_observation=observation,
            final_state=state,
            final_available_actions=self._available,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the table, which is all there is; loading compares it."""
        return {"payoff": self.payoff.copy(), "num_envs": self.num_envs}

    def load_state_dict(self, state: dict[str, Any]) -> Step:
        """Go on from a state that `state_dict` returned.

        Raises:
            CheckpointError: the state belongs to another game or batch size.
        """
        try:
            is_same = state["num_envs"] == self.num_envs and np.array_equal(state["payoff"], self.payoff)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"matrix_game: the saved state is damaged: {error!r}.") from error
        if not is_same:
            raise CheckpointError("matrix_game: the saved state has another payoff table or num_envs.")
        return self.reset()


def _penalty_table(game: str, k: float) -> Float[np.ndarray, "rows columns"]:
    """Return the table of the penalty game with loss `k`."""
    if game != "penalty":
        raise ConfigError(f"matrix_game: k={k!r} is an option of game='penalty', not of {game!r}; leave it out.")
    if isinstance(k, bool) or not isinstance(k, int | float) or not -np.inf < k <= 0:
        raise ConfigError(f"matrix_game: k={k!r} must be a finite number, 0 or less.")
    return np.array([[k, 0, 10], [0, 2, 0], [10, 0, k]], float)


def _checked_payoff(payoff: ArrayLike) -> Float[np.ndarray, "..."]:
    """Return a payoff table as a float array of our own."""
    try:
        table = np.array(payoff, float)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"matrix_game: payoff is not a table of numbers: {error}.") from error
    if table.ndim == 0 or table.size == 0:
        raise ConfigError(f"matrix_game: payoff has shape {table.shape}; it needs an axis with actions per agent.")
    if not np.isfinite(table).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(table))[0])
        raise ConfigError(f"matrix_game: payoff of joint action {where} is {table[where]}; it must be finite.")
    return table
