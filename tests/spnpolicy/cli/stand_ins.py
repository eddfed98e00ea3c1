"""Games as awkward as four of PettingZoo: what those do that others do not, and nothing else; fast, without pygame."""

import numpy as np
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv

LENGTH = 12


class Game(ParallelEnv):
    """Three agents; all that differs is spaces, what is seen, who leaves when, and `state`."""

    metadata = {"name": "game"}
    possible_agents = ["first", "second", "third"]
    seen = Box(-1.0, 1.0, (4,), np.float32)
    done = Discrete(3)
    leaves = {}
    """Steps after which some leave before the end."""

    def __init__(self, max_cycles=LENGTH):
        self.max_cycles = max_cycles
        self.agents = []

    def observation_space(self, agent):
        return self.seen

    def action_space(self, agent):
        return self.done

    def reset(self, seed=None, options=None):
        self.random = np.random.default_rng(seed)
        self.agents, self.time = list(self.possible_agents), 0
        return {agent: self.look() for agent in self.agents}, {agent: {} for agent in self.agents}

    def look(self):
        return self.random.uniform(-1, 1, self.seen.shape).astype(self.seen.dtype)

    def step(self, actions):
        assert all(self.done.contains(action) for action in actions.values())
        self.time += 1
        acting = list(self.agents)
        over = {agent: self.leaves.get(agent) == self.time for agent in acting}
        cut = {agent: self.time == self.max_cycles for agent in acting}
        self.agents = [agent for agent in acting if not (over[agent] or cut[agent])]
        paid = {agent: float(self.random.random()) for agent in acting}
        return {agent: self.look() for agent in acting}, paid, over, cut, {agent: {} for agent in acting}


class Walkers(Game):
    """As multiwalker_v9: continuous actions, and `state()` fails when an episode has come to its end."""

    seen, done = Box(-np.inf, np.inf, (31,), np.float32), Box(-1.0, 1.0, (4,), np.float32)

    def state(self):
        package = None if self.time == self.max_cycles else self
        return np.full(5, package.time, np.float32)


class Pursuers(Game):
    """As pursuit_v5: an image with channels, of numbers that are not between 0 and 1."""

    seen, done = Box(0.0, 30.0, (7, 7, 3), np.float32), Discrete(5)


class Knights(Game):
    """As knights_archers_zombies_v11: float64, agents die at different times, `state()` has a shape of its own."""

    seen, done, leaves = Box(-1.0, 1.0, (27, 5), np.float64), Discrete(6), {"first": 3, "third": 7}

    def state(self):
        return np.zeros((4, 5, 3), np.uint8)


class Rock(Game):
    """As rps_v2: a number without axes is seen, and `state` is an attribute."""

    seen = Discrete(4)
    state = None

    def look(self):
        return np.array(self.random.integers(4))
