"""The one environment protocol: batched from the start, with the end of an episode kept apart from the next start."""

import math
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Integer

from spnpolicy.data.entities import Entities


class EnvSpec(NamedTuple):
    """What an algorithm must know of an environment to build its networks."""

    cardinalities: tuple[int, ...]
    """Number of actions of each agent."""
    observation_size: int
    """Length of one agent's observation vector."""
    state_size: int
    """Length of the global state vector."""
    has_action_masks: bool
    """False promises that every action is always allowed, so masks need not be applied."""
    entities: Entities | None = None
    """What an agent's observation consists of; None where it is only a row of numbers."""
    reward: Literal["common", "individual"] = "common"
    """"common" promises that all agents always get the same; "individual": each has its own."""
    actions: Literal["discrete", "continuous"] = "discrete"
    """What kind of actions the agents have."""
    observation_bounds: tuple[float, float] = (-math.inf, math.inf)
    """Between these two lies every number of an observation, filling zeros included."""

    @property
    def num_agents(self) -> int:
        """Number of agents."""
        return len(self.cardinalities)

    def of(self, agent: int) -> "EnvSpec":
        """Return what the task is for one agent alone; it still may see the state."""
        return self._replace(cardinalities=self.cardinalities[agent : agent + 1], reward="common")


class Step(NamedTuple):
    """What a batch of environments shows after `reset` or `step`.

    An environment that finishes restarts by itself: `observation` then belongs to the new episode,
    while the `final_*` fields hold what the finished episode reached. Where an episode goes on, both agree.
    Arrays are fresh in every step: what an earlier step returned never changes.
    """

    observation: Float[np.ndarray, "envs agents features"]
    state: Float[np.ndarray, "envs state"]
    reward: Float[np.ndarray, "envs agents"]
    terminated: Bool[np.ndarray, " envs"]
    truncated: Bool[np.ndarray, " envs"]
    available_actions: Bool[np.ndarray, "envs agents actions"]
    final_observation: Float[np.ndarray, "envs agents features"]
    final_state: Float[np.ndarray, "envs state"]
    final_available_actions: Bool[np.ndarray, "envs agents actions"]
    """May be empty where an episode ended: nobody acts there. A state in which an agent can do nothing is worth 0."""
    discarded: Bool[np.ndarray, " envs"] | None = None
    """Where an environment failed and was started anew: nothing of the step is to be used, and its episode does not
    count. None where nothing failed."""

    @classmethod
    def showing(
        cls,
        observation: Float[np.ndarray, "envs agents features"],
        available_actions: Bool[np.ndarray, "envs agents actions"],
        *,
        state: Float[np.ndarray, "envs state"] | None = None,
        reward: Float[np.ndarray, "envs agents"] | None = None,
        terminated: Bool[np.ndarray, " envs"] | None = None,
        truncated: Bool[np.ndarray, " envs"] | None = None,
        final_observation: Float[np.ndarray, "envs agents features"] | None = None,
        final_state: Float[np.ndarray, "envs state"] | None = None,
        final_available_actions: Bool[np.ndarray, "envs agents actions"] | None = None,
    ) -> "Step":
        """Return what a batch shows; what is left out is as after a reset.

        Nobody is paid and no episode ends, the final fields are those shown, and a state is all observations side by
        side: a view of the same memory.
        """
        envs, agents = observation.shape[:2]
        if final_observation is None:
            final_observation, final_state = observation, state
        return cls(
            observation=observation,
            state=observation.reshape(envs, -1) if state is None else state,
            reward=np.zeros((envs, agents), np.float32) if reward is None else reward,
            terminated=np.zeros(envs, bool) if terminated is None else terminated,
            truncated=np.zeros(envs, bool) if truncated is None else truncated,
            available_actions=available_actions,
            final_observation=final_observation,
            final_state=final_observation.reshape(envs, -1) if final_state is None else final_state,
            final_available_actions=available_actions if final_available_actions is None else final_available_actions,
        )

    def of(self, agent: int, num_actions: int) -> "Step":
        """Return what it shows one agent, with its own actions only; the state stays."""
        own = slice(agent, agent + 1)
        return self._replace(
            observation=self.observation[:, own],
            reward=self.reward[:, own],
            available_actions=self.available_actions[:, own, :num_actions],
            final_observation=self.final_observation[:, own],
            final_available_actions=self.final_available_actions[:, own, :num_actions],
        )


@runtime_checkable
class BatchedEnv(Protocol):
    """A batch of `num_envs` independent copies of one task, stepped together.

    A task that knows its optimum also has `optimal_return(discount)`: the best discounted return of each current
    episode as the mean over the agents, shape (num_envs,), and a ConfigError where the discount is outside [0, 1].
    """

    name: str
    num_envs: int
    spec: EnvSpec
    episode_limit: int
    """Steps after which an episode is truncated."""
    action_names: tuple[str, ...]
    """Readable names of the action indices, longest action set first."""

    def reset(self, *, seed: int | None = None) -> Step:
        """Start a new episode in every environment.

        Args:
            seed: makes all that follows reproducible, a whole number, 0 or more; None goes on with the current stream
                of random numbers, which at first is seeded from the operating system.

        Returns:
            The first observations; rewards are zero.

        Raises:
            ConfigError: the seed is no such number.
        """
        ...

    def step(self, actions: Integer[np.ndarray, "envs agents"]) -> Step:
        """Apply one joint action in every environment; those that end begin anew by themselves.

        Args:
            actions: one action of each agent, shape (num_envs, agents).

        Raises:
            EnvError: `reset` was never called, or an action has the wrong shape, type or value.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to go on exactly from here (arrays and JSON values)."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> Step:
        """Go on exactly from a state that `state_dict` returned; nothing changes when the state is refused.

        Returns:
            What the environments show now; rewards are zero.

        Raises:
            CheckpointError: the state is damaged, or belongs to other options.
        """
        ...
