"""The PettingZoo face of an environment: dictionaries keyed by agent instead of batched arrays."""

import inspect
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete, Space
from jaxtyping import Float, UInt8
from pettingzoo import ParallelEnv

from spnpolicy.base.errors import ConfigError, EnvError
from spnpolicy.data.env import BatchedEnv, Step
from spnpolicy.envs.make import environment_class, make_env
from spnpolicy.envs.options import begun
from spnpolicy.envs.pettingzoo.pictures import PICTURES

Observations = dict[str, np.ndarray]


def parallel_env(name_or_env: str | BatchedEnv, *, render_mode: str | None = None, **options: Any) -> "ParallelFace":
    """Show an environment as a PettingZoo `ParallelEnv`.

    Args:
        name_or_env: a registered name, or an environment with `num_envs` = 1.
        render_mode: "rgb_array" where pictures are wanted; environments of our own draw them in any case.
        options: options of the named environment; `num_envs` is always 1.

    Returns:
        An environment that passes PettingZoo's own tests.

    Raises:
        ConfigError: unknown name or option, options for a finished environment, a render mode that it does not
            have, or a batch other than 1.

    Example:
        >>> env = parallel_env("coverage", agents=2, size=4)
        >>> observations, infos = env.reset(seed=0)
        >>> env.agents
        ['agent_0', 'agent_1']
    """
    if isinstance(name_or_env, str):
        takes_mode = "render_mode" in inspect.signature(environment_class(name_or_env)).parameters
        mode = {"render_mode": render_mode} if takes_mode else {}
        face = ParallelFace(make_env(name_or_env, **{"num_envs": 1, **mode, **options}))
    elif options:
        raise ConfigError(
            f"parallel_env: options {sorted(options)} can only be given with the name of an environment, "
            "not with one that is already made."
        )
    else:
        face = ParallelFace(name_or_env)
    if render_mode not in (None, face.render_mode):
        known = face.metadata["render_modes"]
        raise ConfigError(f"parallel_env: render_mode={render_mode!r}, but the modes of {name_or_env} are {known}.")
    return face


class ParallelFace(ParallelEnv):
    """One environment of a batch of one, as PettingZoo wants it.

    Agents are "agent_0", "agent_1", ... On the last step of an episode it shows the final observation and
    `agents` becomes empty; no method shows the episode that the batched environment then begins by itself.
    Info dictionaries hold "action_mask" (0 or 1 per action) if the environment has masks.
    """

    def __init__(self, env: BatchedEnv) -> None:
        if env.num_envs != 1:
            raise ConfigError(f"parallel_env: num_envs={env.num_envs}; a ParallelEnv shows exactly one game, use 1.")
        self._env = env
        self._last: Step | None = None
        # A PettingZoo game within draws only if it was made for that.
        can_render = hasattr(env, "render") and getattr(env, "render_mode", PICTURES) == PICTURES
        self.render_mode = PICTURES if can_render else None
        self.np_random = np.random.default_rng()
        """Random numbers for wrappers around it, begun anew by every reset with a seed; the game itself has its own."""
        self.metadata = {
            "name": env.name,
            "render_modes": [PICTURES] if can_render else [],
            "is_parallelizable": True,
            "render_fps": 8,
        }
        self.possible_agents = [f"agent_{i}" for i in range(env.spec.num_agents)]
        self.agents: list[str] = []
        # Under these two names PettingZoo's own wrappers and tests still read them.
        self.observation_spaces = {
            agent: Box(*env.spec.observation_bounds, (env.spec.observation_size,)) for agent in self.possible_agents
        }
        self.action_spaces = {
            agent: Discrete(count) for agent, count in zip(self.possible_agents, env.spec.cardinalities, strict=True)
        }
        self.state_space = Box(-np.inf, np.inf, (env.spec.state_size,), np.float32)

    def observation_space(self, agent: str) -> Space[Any]:
        """Return the space of an agent's observations (always the same object)."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Space[Any]:
        """Return the space of an agent's actions (always the same object)."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, dict[str, Any]]]:
        """Begin an episode; `options`, a part of PettingZoo's interface, are not used."""
        self.agents = self.possible_agents.copy()
        self._last = self._env.reset(seed=seed)
        if seed is not None:
            self.np_random = np.random.default_rng(seed)
        return self._observations(self._last), self._infos(self._last)

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[Observations, dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Apply one action of every agent; after the end of an episode, before the next reset, all answers are empty.

        Raises:
            EnvError: `reset` was never called, an agent's action is missing, or it is out of range.
        """
        begun(self._env.name, self._last)
        if not self.agents:
            return {}, {}, {}, {}, {}
        missing = [agent for agent in self.agents if agent not in actions]
        if missing:
            raise EnvError(f"{self._env.name}: no action was given for {', '.join(missing)}.")
        joint = np.array([[actions[agent] for agent in self.agents]])
        self._last = step = self._env.step(joint)
        agents, terminated, truncated = self.agents, bool(step.terminated[0]), bool(step.truncated[0])
        rewards = {agent: float(step.reward[0, i]) for i, agent in enumerate(agents)}
        observations, infos = self._observations(step), self._infos(step)
        if terminated or truncated:
            self.agents = []
        return observations, rewards, dict.fromkeys(agents, terminated), dict.fromkeys(agents, truncated), infos

    def state(self) -> Float[np.ndarray, " state"]:
        """Return the global state; after the end of an episode, its final state."""
        return begun(self._env.name, self._last).final_state[0].copy()

    def render(self) -> UInt8[np.ndarray, "height width 3"]:
        """Return an RGB picture; after the end of an episode, of its final position."""
        draw = getattr(self._env, "render", None)
        if draw is None:
            raise EnvError(f"{self._env.name}: this environment cannot be drawn.")
        return draw(0, final=True)

    def close(self) -> None:
        """Do nothing: there is no window to close."""

    def _observations(self, step: Step) -> Observations:
        return {agent: step.final_observation[0, i].copy() for i, agent in enumerate(self.agents)}

    def _infos(self, step: Step) -> dict[str, dict[str, Any]]:
        if not self._env.spec.has_action_masks:
            return {agent: {} for agent in self.agents}
        masks = zip(self.agents, self._env.spec.cardinalities, step.final_available_actions[0], strict=True)
        return {agent: {"action_mask": mask[:count].astype(np.int8)} for agent, count, mask in masks}
