"""The two-step game: a first action decides which matrix is played; the better one needs coordination."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int, Integer

from spnpolicy.base.errors import CheckpointError
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.envs.games.payoffs import discounted_sum
from spnpolicy.envs.options import begun, checked_actions, checked_seed, reading_saved_state, whole_number

BRANCHES = (((7.0, 7.0), (7.0, 7.0)), ((0.0, 1.0), (1.0, 8.0)))
"""Payoffs in the second step after agent 0 has chosen A and B: agent 0 chooses the row, agent 1 the column."""
AGENTS = 2
START = 0
STATES = 1 + len(BRANCHES)


class TwoStep:
    """A batch of games of two steps for two agents with two actions, A and B, paid the same.

    In the first step agent 0 alone decides, A or B, and nobody is paid. After A every joint action pays 7; after B
    the joint actions pay 0, 1, 1 and 8. Then the episode terminates. So 8 is the best return, and learners that judge
    their actions by uniform play of the other agent settle for 7: additive values then rate the branch B at 6.5.

    Every agent sees the state, one-hot of length 3: start, after A, after B. The end of an episode shows the branch
    that was played. Rewards are not scaled.

    Args:
        num_envs: number of games in the batch.

    Raises:
        ConfigError: `num_envs` has the wrong type or range.
    Source: Rashid et al. 2018 (QMIX), section 5.
    """

    name = "two_step"
    episode_limit = 2
    action_names = ("A", "B")

    def __init__(self, *, num_envs: int = 1) -> None:
        self.num_envs = whole_number(self.name, "num_envs", num_envs, 1)
        actions = len(self.action_names)
        self.spec = EnvSpec((actions,) * AGENTS, STATES, STATES, has_action_masks=False, observation_bounds=(0.0, 1.0))
        self._payoffs = np.array(BRANCHES, np.float32)
        self._available = np.broadcast_to(True, (self.num_envs, AGENTS, actions))
        self._places: Int[np.ndarray, " envs"] | None = None

    @property
    def optimum(self) -> float:
        """Best return without discount."""
        return float(self._payoffs.max())

    def optimal_return(self, discount: float) -> Float[np.ndarray, " envs"]:
        """Return the best discounted return of an episode, discount * 8."""
        return np.full(self.num_envs, discounted_sum(self.name, [0.0, self.optimum], discount))

    def reset(self, *, seed: int | None = None) -> Step:
        """Start new games; nothing here is random, so the seed is checked and then ignored."""
        checked_seed(self.name, seed)
        return self._begin(np.full(self.num_envs, START))

    def step(self, actions: Integer[np.ndarray, "envs agents"]) -> Step:
        """Choose the branch; or play it, which pays everybody and terminates the episode, and begin again."""
        places = begun(self.name, self._places)
        actions = checked_actions(self.name, actions, self.num_envs, np.array(self.spec.cardinalities))
        row, column = actions.T
        terminated = places != START
        # At the start the branch is read as the last one, and its payoff thrown away.
        reward = np.where(terminated, self._payoffs[places - 1, row, column], np.float32(0))
        final_places = np.where(terminated, places, 1 + row)
        self._places = np.where(terminated, START, final_places)
        observation, state = _seen(self._places)
        final_observation, final_state = _seen(final_places)
        return Step.showing(
            observation,
            self._available,
            state=state,
            reward=np.repeat(reward[:, None], AGENTS, axis=1),
            terminated=terminated,
            final_observation=final_observation,
            final_state=final_state,
        )

    def _begin(self, places: Int[np.ndarray, " envs"]) -> Step:
        self._places = places
        observation, state = _seen(places)
        return Step.showing(observation, self._available, state=state)

    def state_dict(self) -> dict[str, Any]:
        """Return where each game is: 0 start, 1 after A, 2 after B."""
        return {"places": begun(self.name, self._places).copy()}

    def load_state_dict(self, state: dict[str, Any]) -> Step:
        """Go on from a state that `state_dict` returned; nothing changes when the state is refused."""
        with reading_saved_state(self.name):
            places = np.array(state["places"], np.intp)
        if places.shape != (self.num_envs,):
            raise CheckpointError(
                f"two_step: the saved state has shape {places.shape}; with num_envs={self.num_envs} it has "
                f"({self.num_envs},)."
            )
        if places.min() < START or places.max() >= STATES:
            raise CheckpointError(f"two_step: the saved state is damaged: places must be 0 .. {STATES - 1}.")
        return self._begin(places)


def _seen(places: Int[np.ndarray, " envs"]) -> tuple[np.ndarray, np.ndarray]:
    """Return observation and state, which are the same one-hot vector."""
    state = np.eye(STATES, dtype=np.float32)[places]
    return np.repeat(state[:, None], AGENTS, axis=1), state
