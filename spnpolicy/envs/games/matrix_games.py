"""Matrix games: joint actions paid from a table, once or in rounds."""

from typing import Any

import numpy as np
from jaxtyping import Float, Integer
from numpy.typing import ArrayLike

from spnpolicy.base.errors import CheckpointError, ConfigError
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.envs.games.payoffs import checked_cells, checked_table, discounted_sum, for_all_agents, named_payoffs
from spnpolicy.envs.options import begun, checked_actions, checked_seed, one_of, reading_saved_state, whole_number

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
OBSERVED = ("constant", "last_actions")
NOTHING_PLAYED = -1


class MatrixGame:
    """A batch of games in which a payoff table says what each agent is paid for a joint action.

    Games in which all agents are paid the same; actions are called A, B, C, agent 0 chooses the row:

    - "climbing": the best joint action (A, A) = 11 is surrounded by losses; (B, B) = 7 is a Nash point.
    - "penalty": two best joint actions, and a loss of `k` when the agents mix them up.
    - "linear": additive payoffs, best (B, B) = 9.
    - "monotonic": best (B, B) = 10, not additive.
    - "bad_basin": best (B, B) = 10, but play drifts to the Nash point (A, A) = 0 when the other agent
      plays A with a probability above 3/4.
    - "diagonal": two equally good conventions.
    - "qtran": the best joint action (A, A) = 8 is surrounded by losses of 12; all else pays 0.

    Games in which each agent has its own payoffs: "stag_hunt", "prisoners_dilemma", "chicken", "battle_of_sexes",
    "matching_pennies", "rock_paper_scissors", and the 78 two-by-two games with ranks 1 .. 4 for payoffs,
    "no_conflict_1" .. "no_conflict_21" and "conflict_1" .. "conflict_57" (see `spnpolicy.envs.games.payoffs`).

    Rewards are the entries of the table, not scaled. Reports score a joint action by the mean over the agents, and
    `optimum` and `optimal_return` follow that; in a common game it is what everybody is paid. With one round the
    episode terminates; with more it is cut by the clock (truncated) after `rounds` steps, as in benchmarks that
    repeat a game 25 times: returns are then the sum over rounds.

    Args:
        game: name of a game; not used when `payoff` or `payoffs` is given.
        k: the loss of "penalty", 0 or less; None means -100.
        payoff: your own table, the same for all agents: one axis per agent, finite numbers.
        payoffs: your own table with a number for each agent: one axis per agent and then one over agents, such as
            [[[4, 4], [0, 3]], [[3, 0], [2, 2]]].
        rounds: joint actions in an episode.
        observe: "constant" shows everybody the number 1; "last_actions" shows the joint action of the round before,
            one-hot and agent by agent, zeros in the first round. The state is the same.
        num_envs: number of games in the batch.

    Raises:
        ConfigError: an option has the wrong type or range.
    Source: Claus & Boutilier 1998 (climbing, penalty); here the 6 of climbing stands in row C, column B. Son et al.
        2019 (qtran).
    """

    name = "matrix_game"

    def __init__(
        self,
        *,
        game: str = "climbing",
        k: float | None = None,
        payoff: ArrayLike | None = None,
        payoffs: ArrayLike | None = None,
        rounds: int = 1,
        observe: str = "constant",
        num_envs: int = 1,
    ) -> None:
        self.num_envs = whole_number(self.name, "num_envs", num_envs, 1)
        self.rounds = self.episode_limit = whole_number(self.name, "rounds", rounds, 1)
        self.observe = one_of(self.name, "observe", observe, OBSERVED)
        if payoff is not None and payoffs is not None:
            raise ConfigError("matrix_game: payoff= is the same for all agents, payoffs= for each; give one of them.")
        if payoff is not None:
            self.game, self.payoffs = "own table", for_all_agents(checked_table(self.name, "payoff", payoff))
        elif payoffs is not None:
            self.game, self.payoffs = "own table", checked_cells(self.name, "payoffs", payoffs)
        else:
            self.game, self.payoffs = game, named_payoffs(self.name, game)
        if k is not None:
            self.payoffs = _penalty_payoffs(self.game, k)
        is_common = (self.payoffs == self.payoffs[..., :1]).all()
        self.payoff: Float[np.ndarray, ...] = self.payoffs[..., 0] if is_common else self.payoffs.mean(axis=-1)
        """Mean over the agents of what a joint action pays, one axis per agent."""
        cardinalities = self.payoff.shape
        most = max(cardinalities)
        self._cardinalities = np.array(cardinalities)
        self.action_names = tuple(LETTERS[:most]) if most <= len(LETTERS) else tuple(map(str, range(most)))
        features = 1 if self.observe == "constant" else sum(cardinalities)
        has_masks = min(cardinalities) < most
        self.spec = EnvSpec(cardinalities, features, features, has_masks, observation_bounds=(0.0, 1.0))
        available = np.arange(most) < self._cardinalities[:, None]
        self._available = np.broadcast_to(available, (self.num_envs, *available.shape))
        self._has_begun = False
        self._clear()

    @property
    def optimum(self) -> float:
        """Best payoff of the table, as the mean over the agents."""
        return float(self.payoff.max())

    def optimal_return(self, discount: float) -> Float[np.ndarray, " envs"]:
        """Return the best discounted return of an episode, that of the best joint action in every round."""
        return np.full(self.num_envs, discounted_sum(self.name, [self.optimum] * self.rounds, discount))

    def reset(self, *, seed: int | None = None) -> Step:
        """Start new games; nothing here is random, so the seed is checked and then ignored."""
        checked_seed(self.name, seed)
        self._has_begun = True
        self._clear()
        return self._show_current()

    def step(self, actions: Integer[np.ndarray, "envs agents"]) -> Step:
        """Pay every agent for its game's joint action; games whose last round this was begin again.

        After the last round `terminated` is true everywhere, or `truncated` where a game has several rounds.
        """
        begun(self.name, self._has_begun or None)
        actions = checked_actions(self.name, actions, self.num_envs, self._cardinalities)
        reward = self.payoffs[tuple(actions.T)].astype(np.float32)
        self._round += 1
        self._last_actions = actions.copy()
        state = final_state = self._state()
        observation = final_observation = self._seen(final_state)
        has_ended = self._round == self.rounds
        if has_ended:
            self._clear()
            state = self._state()
            observation = self._seen(state)
        return Step.showing(
            observation,
            self._available,
            state=state,
            reward=reward,
            terminated=np.full(self.num_envs, has_ended and self.rounds == 1),
            truncated=np.full(self.num_envs, has_ended and self.rounds > 1),
            final_observation=final_observation,
            final_state=final_state,
        )

    def _clear(self) -> None:
        """All games of the batch are in the same round, so one number counts them."""
        self._round = 0
        self._last_actions = np.full((self.num_envs, len(self._cardinalities)), NOTHING_PLAYED)

    def _state(self) -> Float[np.ndarray, "envs features"]:
        if self.observe == "constant":
            return np.ones((self.num_envs, 1), np.float32)
        columns = zip(self._last_actions.T, self._cardinalities, strict=True)
        return np.concatenate(
            [played[:, None] == np.arange(count) for played, count in columns], axis=1, dtype=np.float32
        )

    def _show_current(self) -> Step:
        state = self._state()
        return Step.showing(self._seen(state), self._available, state=state)

    def _seen(self, state: Float[np.ndarray, "envs features"]) -> Float[np.ndarray, "envs agents features"]:
        return np.repeat(state[:, None], self.spec.num_agents, axis=1)

    def state_dict(self) -> dict[str, Any]:
        """Return the table and what else tells games apart, and how far the games have come."""
        return {
            "payoffs": self.payoffs.copy(),
            "num_envs": self.num_envs,
            "rounds": self.rounds,
            "observe": self.observe,
            "round": self._round,
            "last_actions": self._last_actions.copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> Step:
        """Go on from a state that `state_dict` returned; nothing changes when the state is refused."""
        with reading_saved_state(self.name):
            is_same = np.array_equal(state["payoffs"], self.payoffs)
            other = [name for name in ("num_envs", "rounds", "observe") if state[name] != getattr(self, name)]
            number = whole_number(self.name, "round", state["round"], 0)
            last_actions = np.array(state["last_actions"], np.intp)
        if not is_same or other:
            raise CheckpointError(
                f"matrix_game: the saved state has another {other[0] if is_same else 'payoff table'}."
            )
        played = (last_actions >= 0) if number else (last_actions == NOTHING_PLAYED)
        is_possible = number < self.rounds and last_actions.shape == self._last_actions.shape
        if not (is_possible and played.all() and (last_actions < self._cardinalities).all()):
            raise CheckpointError(f"matrix_game: the saved state is damaged: round {number} of {self.rounds}.")
        self._round, self._last_actions, self._has_begun = number, last_actions, True
        return self._show_current()


def _penalty_payoffs(game: str, k: float) -> Float[np.ndarray, "rows columns agents"]:
    """Return the payoffs of the penalty game with loss `k`."""
    if game != "penalty":
        raise ConfigError(f"matrix_game: k={k!r} is an option of game='penalty', not of {game!r}; leave it out.")
    if isinstance(k, bool) or not isinstance(k, int | float) or not -np.inf < k <= 0:
        raise ConfigError(f"matrix_game: k={k!r} must be a finite number, 0 or less.")
    return for_all_agents(np.array([[k, 0, 10], [0, 2, 0], [10, 0, k]], float))
