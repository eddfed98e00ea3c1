"""Small PettingZoo games with known rules, for tests; importable by worker processes."""

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Text
from pettingzoo import ParallelEnv


class Pair(ParallelEnv):
    """Agent a has 2 actions and sees 3 numbers, agent b has 3 and sees 2. Episodes terminate after `length` steps.

    The first number that both see is the number of the step, the others are random. The reward of an agent is
    its action plus a tenth of the step; `first_leaves` is the step at which a leaves before b (0: never).
    """

    metadata = {"name": "pair"}
    possible_agents = ["a", "b"]

    def __init__(self, length=6, first_leaves=0, first_is_cut_off=False, ends_by="termination"):
        self.length, self.first_leaves, self.first_is_cut_off, self.ends_by = (
            length,
            first_leaves,
            first_is_cut_off,
            ends_by,
        )
        self.agents = []

    def observation_space(self, agent):
        return Box(-np.inf, np.inf, ({"a": 3, "b": 2}[agent],), np.float32)

    def action_space(self, agent):
        return Discrete({"a": 2, "b": 3}[agent])

    def reset(self, seed=None, options=None):
        self.generator = np.random.default_rng(seed)
        self.agents = ["a", "b"]
        self.time = 0
        return self.look(), {agent: {} for agent in self.agents}

    def look(self):
        sizes = {"a": 3, "b": 2}
        numbers = {agent: self.generator.random(sizes[agent]).astype(np.float32) for agent in self.agents}
        for vector in numbers.values():
            vector[0] = self.time
        return numbers

    def step(self, actions):
        assert set(actions) == set(self.agents), "exactly those who play act"
        self.time += 1
        acting = list(self.agents)
        is_over = self.time == self.length
        terminated = {agent: is_over and self.ends_by == "termination" for agent in acting}
        truncated = {agent: is_over and self.ends_by == "truncation" for agent in acting}
        if self.time == self.first_leaves:
            (truncated if self.first_is_cut_off else terminated)["a"] = True
        observations = self.look()
        rewards = {agent: actions[agent] + 0.1 * self.time for agent in acting}
        self.agents = [agent for agent in acting if not (terminated[agent] or truncated[agent])]
        return observations, rewards, terminated, truncated, {agent: {} for agent in acting}

    def state_dict(self):
        return {"time": self.time, "agents": list(self.agents), "generator": self.generator.bit_generator.state}

    def load_state_dict(self, state):
        self.generator = np.random.default_rng()
        self.generator.bit_generator.state = state["generator"]
        self.time, self.agents = state["time"], list(state["agents"])


class Stateful(Pair):
    """A pair that has a state of its own: the step and minus the step."""

    max_cycles = 4

    def state(self):
        return np.array([self.time, -self.time], np.float64)


class Masked(Pair):
    """A pair in which agent b may only play the step modulo 3; told in the info or in the observation."""

    def __init__(self, where="info", **options):
        super().__init__(**options)
        self.where = where

    def observation_space(self, agent):
        box = super().observation_space(agent)
        if self.where == "info":
            return box
        return Dict({"observation": box, "action_mask": Box(0, 1, (self.action_space(agent).n,), np.int8)})

    def mask(self, agent):
        return np.ones(2, np.int8) if agent == "a" else np.eye(3, dtype=np.int8)[self.time % 3]

    def look(self):
        seen = super().look()
        if self.where == "info":
            return seen
        return {a: {"observation": vector, "action_mask": self.mask(a)} for a, vector in seen.items()}

    def infos(self, agents):
        return {a: {"action_mask": self.mask(a)} if self.where == "info" else {} for a in agents}

    def reset(self, seed=None, options=None):
        observations, _ = super().reset(seed)
        return observations, self.infos(self.agents)

    def step(self, actions):
        if "b" in actions:
            assert actions["b"] == self.time % 3, "masks are respected"
        *rest, infos = super().step(actions)
        return *rest, self.infos(infos)


class Spaces(ParallelEnv):
    """One agent that shows which action it was given; any spaces."""

    metadata = {"name": "spaces"}
    possible_agents = ["only"]

    def __init__(self, action="box", observation="box"):
        self._action = {
            "box": Box(np.array([[-1.0, 0.0]], np.float32), np.array([[1.0, 3.0]], np.float32)),
            "unbounded": Box(-np.inf, np.inf, (2,)),
            "multi": MultiDiscrete([2, 3], start=[0, 5]),
            "huge": MultiDiscrete([101, 100]),
            "shifted": Discrete(3, start=7),
            "tuple": Dict({"x": Discrete(2)}),
        }[action]
        self._observation = {
            "box": Box(-10, 10, (2, 2)),
            "discrete": Discrete(4, start=2),
            "number": Discrete(4, start=2),
            "positive": Box(1, 3, (2, 2)),
            "negative": Box(-3, -1, (2, 2)),
            "too large": Box(0, 1e300, (2, 2), np.float64),
            "text": Text(5),
        }[observation]
        self._as_array = observation == "number"
        self.agents = []
        self.given = []

    def observation_space(self, agent):
        return self._observation

    def action_space(self, agent):
        return self._action

    def look(self):
        if isinstance(self._observation, Box):
            return {"only": np.arange(4.0).reshape(2, 2)}
        number = 2 + len(self.given) % 4
        return {"only": np.array(number) if self._as_array else number}

    def reset(self, seed=None, options=None):
        self.agents = ["only"]
        self.given = []
        return self.look(), {"only": {}}

    def step(self, actions):
        self.given.append(actions["only"])
        return self.look(), {"only": 0.0}, {"only": False}, {"only": False}, {"only": {}}


class Talkative:
    """Not a PettingZoo environment at all."""


not_callable = 3
