"""Level-based foraging: agents collect food that is too heavy for one; a PettingZoo view of the package lbforaging."""

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete, Space
from jaxtyping import UInt8
from pettingzoo import ParallelEnv

from spnpolicy.base.errors import ConfigError
from spnpolicy.envs.options import true_or_false
from spnpolicy.envs.pettingzoo.adapter import ParallelBatch
from spnpolicy.envs.pettingzoo.pictures import PICTURES

TASK = "Foraging-8x8-2p-3f-coop-v3"
ACTION_NAMES = ("none", "north", "south", "west", "east", "load")


class Foraging(ParallelBatch):
    """A batch of level-based foraging games.

    Agents walk on a grid and load food next to them; food is collected when the levels of those who load it
    in the same step reach its level. Each of them is paid its share; the team's whole return is at most 1.
    The actions are 0 none, 1 north, 2 south, 3 west, 4 east, 5 load; masks forbid those that would do nothing. An
    episode terminates when no food is left and is truncated at the limit of the task, usually 50 steps.

    Args:
        task: a name that lbforaging registers: grid, players (p), foods (f), "coop" if all are needed for each.
        num_envs: number of games in the batch.
        workers: processes among which the games are divided, 0 for none, None to choose by the batch.
        rescale: show every number as -1 .. 1 instead of as a row, column or level; networks learn faster from that.
        timeout: seconds without an answer after which a worker counts as hung.
        render_mode: "rgb_array" if `render` shall return pictures, which needs no display.

    Raises:
        ConfigError: an option has the wrong type or range, or lbforaging is not installed.
    Source: Papoudakis et al. 2021 (benchmark); Christianos et al. 2020 (environment).
    """

    def __init__(
        self,
        *,
        task: str = TASK,
        num_envs: int = 1,
        workers: int | None = None,
        rescale: bool = True,
        timeout: float = 60.0,
        render_mode: str | None = None,
    ) -> None:
        true_or_false("foraging", "rescale", rescale)
        batch = {"num_envs": num_envs, "workers": workers, "timeout": timeout, "render_mode": render_mode}
        super().__init__("spnpolicy.envs.foraging.lbforaging", task=task, rescale=rescale, **batch)
        self.name = "foraging"


def parallel_env(*, task: str = TASK, rescale: bool = True, render_mode: str | None = None) -> "ForagingGame":
    """Return one foraging game as a PettingZoo `ParallelEnv`; `task` is a name that lbforaging registers."""
    return ForagingGame(task, rescale, render_mode)


class ForagingGame(ParallelEnv):
    """One game of lbforaging with dictionaries for tuples, a true time limit, and masks."""

    action_names = ACTION_NAMES

    def __init__(self, task: str, rescale: bool = True, render_mode: str | None = None) -> None:
        self._env = _make(task)
        self._rescale = rescale
        self.metadata = {"name": "foraging", "render_modes": [PICTURES], "is_parallelizable": True}
        self.render_mode = render_mode
        self.max_cycles: int = self._env._max_episode_steps
        self.possible_agents = [f"agent_{i}" for i in range(len(self._env.players))]
        self.agents: list[str] = []
        raw = tuple(self._env.observation_space)
        self._low = np.stack([box.low for box in raw])
        self._width = np.maximum(np.stack([box.high for box in raw]) - self._low, 1.0)
        boxes = [Box(-1.0, 1.0, box.shape) for box in raw] if rescale else raw
        # Under these two names PettingZoo's own wrappers and tests still read them.
        self.observation_spaces = dict(zip(self.possible_agents, boxes, strict=True))
        self.action_spaces = {agent: Discrete(len(ACTION_NAMES)) for agent in self.possible_agents}

    def observation_space(self, agent: str) -> Space[Any]:
        """Return the space of an agent's observations: row, column and level of every food and agent."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Space[Any]:
        """Return the space of an agent's six actions."""
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        """Begin an episode."""
        self.agents = self.possible_agents.copy()
        for player in self._env.players:
            # or else the package keeps the places of the last episode free, and the seed does not say all
            player.position = None
        observations, _ = self._env.reset(seed=seed)
        return self._seen(observations), self._infos()

    def step(self, actions: dict[str, int]) -> tuple[dict, dict, dict, dict, dict]:
        """Apply one action of every agent; the time limit truncates as long as there is food."""
        agents = self.agents
        observations, rewards, is_over, _, _ = self._env.step([int(actions[agent]) for agent in agents])
        is_cleared = bool(self._env.field.sum() == 0)
        if is_over:
            self.agents = []
        return (
            self._seen(observations),
            self._by_agent(rewards),
            dict.fromkeys(agents, is_cleared),
            dict.fromkeys(agents, bool(is_over) and not is_cleared),
            self._infos(),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to go on exactly from here, as JSON values."""
        env = self._env
        return {
            "field": env.field.tolist(),
            "players": [[*map(int, p.position), int(p.level), float(p.score), float(p.reward)] for p in env.players],
            "step": env.current_step,
            "spawned": float(env._food_spawned),
            "is_over": bool(env._game_over),
            "agents": list(self.agents),
            "generator": env.np_random.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        env = self._env
        env.field = np.array(state["field"], np.int32)
        for player, (row, column, level, score, reward) in zip(env.players, state["players"], strict=True):
            player.setup((row, column), level, env.field_size)
            player.score, player.reward = score, reward
        env.current_step, env._food_spawned = int(state["step"]), state["spawned"]
        env._game_over = bool(state["is_over"])
        env.np_random.bit_generator.state = state["generator"]
        env._gen_valid_moves()
        self.agents = list(state["agents"])

    def render(self) -> UInt8[np.ndarray, "height width 3"] | None:
        """Return a picture of the game; None without the render mode for that."""
        if self.render_mode != PICTURES:
            return None
        from spnpolicy.envs.foraging.render import render_foraging

        env = self._env
        agents = [(int(p.position[0]), int(p.position[1]), int(p.level)) for p in env.players]
        share = 1 - env.field.sum() / env._food_spawned if env._food_spawned else 1.0
        return render_foraging(env.field, agents, share=share, time=env.current_step)

    def close(self) -> None:
        """Close the game."""
        self._env.close()

    def _seen(self, observations: Any) -> dict[str, Any]:
        if self._rescale:
            observations = (2.0 * (np.asarray(observations) - self._low) / self._width - 1.0).astype(np.float32)
        return self._by_agent(observations)

    def _by_agent(self, values: Any) -> dict[str, Any]:
        return dict(zip(self.possible_agents, values, strict=True))

    def _infos(self) -> dict[str, dict[str, Any]]:
        infos = {}
        for agent, player in zip(self.possible_agents, self._env.players, strict=True):
            mask = np.zeros(len(ACTION_NAMES), np.int8)
            mask[[action.value for action in self._env._valid_actions[player]]] = 1
            infos[agent] = {"action_mask": mask}
        return infos


def _make(task: str) -> Any:
    """Make a game of lbforaging without Gymnasium's wrappers, which would look at every step again."""
    try:
        import gymnasium
        import lbforaging  # noqa: F401  # pyright: ignore[reportUnusedImport] registers its tasks
    except ImportError as error:
        raise ConfigError(
            "foraging: the package lbforaging is not installed; run `pip install 'spnpolicy[environments]'`."
        ) from error
    if not isinstance(task, str) or not task.startswith("Foraging-") or task not in gymnasium.registry:
        raise ConfigError(f"foraging: unknown task {task!r}; write it like {TASK!r} (grid, players, foods, coop).")
    return gymnasium.make(task, disable_env_checker=True).unwrapped
