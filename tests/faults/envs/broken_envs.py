"""Environments with one planted fault each, at a known place."""

import os
import time

import numpy as np
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv

from spnpolicy.envs import EnvSpec, Step

ENVS, AT_STEP, AT_ENV = 4, 5, 2


class Sound:
    """A batch without any fault: 2 agents with 2 and 3 actions, episodes of 8 steps, masks that forbid b its last."""

    name = "sound"
    num_envs = ENVS
    spec = EnvSpec((2, 3), 3, 4, has_action_masks=True)
    episode_limit = 8
    action_names = ("x", "y", "z")

    def __init__(self, length=8):
        self.length = length

    def reset(self, *, seed=None):
        self.generator = np.random.default_rng(seed)
        self.age = np.zeros(ENVS, int)
        return self.show(ended=np.zeros(ENVS, bool), reward=0.0)

    def step(self, actions):
        self.age += 1
        ended = self.age == self.length
        self.age[ended] = 0
        return self.show(ended, reward=-0.1)

    def show(self, ended, reward, rows=ENVS):
        observation = self.generator.random((rows, 2, 3)).astype(np.float32)
        state = self.generator.random((rows, 4)).astype(np.float32)
        mask = np.tile(np.array([[True, True, False], [True, True, False]]), (rows, 1, 1))
        final_observation, final_state = observation.copy(), state.copy()
        final_observation[ended] += 1
        final_state[ended] += 1
        rewards = np.full((rows, 2), reward, np.float32)
        return Step(
            *(observation, state, rewards, np.zeros(rows, bool), ended, mask, final_observation, final_state),
            mask.copy(),
        )

    def state_dict(self):
        return {"age": self.age.copy(), "generator": self.generator.bit_generator.state}

    def load_state_dict(self, state):
        self.age = state["age"].copy()
        self.generator.bit_generator.state = state["generator"]
        return self.show(np.zeros(ENVS, bool), 0.0)


class Restartable(Sound):
    """The same, and single environments can be restarted."""

    def restart(self, rows):
        self.age[rows] = 0
        return self.show(np.zeros(len(rows), bool), 0.0, rows=len(rows))


def spoiled(base, spoil, at_step=AT_STEP, **options):
    """Return an environment of class `base` whose step number `at_step` goes through `spoil`."""

    class Spoiled(base):
        def reset(self, *, seed=None):
            self.number = 0
            step = super().reset(seed=seed)
            return spoil(step) if at_step == 0 else step

        def step(self, actions):
            self.number += 1
            step = super().step(actions)
            return spoil(step) if self.number == at_step else step

    return Spoiled(**options)


def put(field, index, value):
    """Return a spoiler that overwrites one entry of one array."""

    def spoil(step):
        array = getattr(step, field).copy()
        array[index] = value
        return step._replace(**{field: array})

    return spoil


def change(field, make):
    """Return a spoiler that replaces one array by what `make` makes of it."""
    return lambda step: step._replace(**{field: make(getattr(step, field))})


NAN, INF = float("nan"), float("inf")
ROW_FAULTS = {
    "nan in an observation": (put("observation", (2, 1, 0), NAN), "observation of agent 1, entry 0, is nan; the last"),
    "inf in an observation": (put("observation", (2, 0, 2), INF), "observation of agent 0, entry 2, is inf; the last"),
    "-inf in an observation": (put("observation", (2, 0, 1), -INF), "observation of agent 0, entry 1, is -inf"),
    "nan in a final observation": (put("final_observation", (2, 1, 1), NAN), "final_observation of agent 1, entry 1,"),
    "inf in a final observation": (put("final_observation", (2, 0, 0), INF), "final_observation of agent 0, entry 0,"),
    "nan in the state": (put("state", (2, 3), NAN), "state, entry 3, is nan; the last finite one was"),
    "inf in the state": (put("state", (2, 0), INF), "state, entry 0, is inf"),
    "nan in a final state": (put("final_state", (2, 1), NAN), "final_state, entry 1, is nan"),
    "nan reward": (put("reward", (2, 1), NAN), "reward of agent 1 is nan; the last finite one was -0.1."),
    "inf reward": (put("reward", (2, 0), INF), "reward of agent 0 is inf; the last finite one was -0.1."),
    "-inf reward": (put("reward", (2, 0), -INF), "reward of agent 0 is -inf"),
    "a mask that allows nothing": (put("available_actions", (2, 1), False), "available_actions of agent 1 allows no"),
    "a mask of what does not exist": (
        put("available_actions", (2, 0, 2), True),
        "available_actions of agent 0 allows action 2; the agent has 2 actions",
    ),
    "only what does not exist": (
        put("available_actions", (2, 0), [False, False, True]),
        "available_actions of agent 0 allows no action",
    ),
    "a final mask that allows nothing": (
        put("final_available_actions", (2, 0), False),
        "final_available_actions of agent 0 allows no action",
    ),
    "a final mask of what does not exist": (
        put("final_available_actions", (2, 0, 2), True),
        "final_available_actions of agent 0 allows action 2",
    ),
}
"""Faults of one environment of a batch: the spoiler and words of the message. All in env 2 at step 5."""

BATCH_FAULTS = {
    "another type": (tuple, "step is a tuple; it must be a spnpolicy.envs.Step"),
    "no step at all": (lambda step: None, "step is a NoneType"),
    "one feature too few": (change("observation", lambda a: a[..., :-1]), "observation has shape (4, 2, 2)"),
    "one agent too few": (change("observation", lambda a: a[:, :1]), "observation has shape (4, 1, 3)"),
    "one env too few": (change("observation", lambda a: a[1:]), "observation has shape (3, 2, 3)"),
    "integer observations": (change("observation", lambda a: a.astype(int)), "observation has dtype int64"),
    "observations of objects": (change("observation", lambda a: a.astype(object)), "observation has dtype object"),
    "a list of observations": (change("observation", lambda a: a.tolist()), "observation is a list"),
    "a flat state": (change("state", np.ravel), "state has shape (16,); it must have (4, 4)"),
    "state of text": (change("state", lambda a: a.astype(str)), "state has dtype <U"),
    "one reward per env": (change("reward", lambda a: a[:, 0]), "reward has shape (4,); it must have (4, 2)"),
    "whole rewards": (change("reward", lambda a: a.astype(int)), "reward has dtype int64; it must hold floating"),
    "no reward": (change("reward", lambda a: None), "reward is a NoneType"),
    "terminated as numbers": (
        change("terminated", lambda a: a.astype(int)),
        "terminated has dtype int64; it must hold",
    ),
    "truncated as numbers": (change("truncated", lambda a: a.astype(np.float32)), "truncated has dtype float32"),
    "terminated per agent": (change("terminated", lambda a: a[:, None]), "terminated has shape (4, 1)"),
    "masks as numbers": (change("available_actions", lambda a: a.astype(np.int8)), "available_actions has dtype int8"),
    "one action too few": (change("available_actions", lambda a: a[..., :-1]), "available_actions has shape (4, 2, 2)"),
    "final masks of one agent": (change("final_available_actions", lambda a: a[:, :1]), "final_available_actions has"),
    "no final observation": (change("final_observation", lambda a: None), "final_observation is a NoneType"),
    "a final state too long": (change("final_state", lambda a: np.tile(a, 2)), "final_state has shape (4, 8)"),
}
"""Faults that concern the whole batch, so that no policy can drop them."""


class Broken(ParallelEnv):
    """Agents a (2 actions, sees 3 numbers) and b (3 actions, sees 2); one fault in step `at` of the episode `seed`."""

    metadata = {"name": "broken"}
    possible_agents = ["a", "b"]
    next_reset_fails = False

    def __init__(self, fault="none", at=AT_STEP, seed=-1, chance=0.0, file=""):
        self.fault, self.at, self.bad_seed, self.chance, self.file = fault, at, seed, chance, file
        self.agents = []

    def observation_space(self, agent):
        return Box(-np.inf, np.inf, ({"a": 3, "b": 2}[agent],), np.float32)

    def action_space(self, agent):
        return Discrete({"a": 2, "b": 3}[agent])

    def state(self):
        if self.is_due("state"):
            return np.zeros(5)
        return np.array([self.time, NAN if self.is_due("nan state") else 0.0])

    def is_due(self, *faults):
        return self.fault in faults and self.seed in (self.bad_seed, "any") and self.time == self.at

    def reset(self, seed=None, options=None):
        self.agents, self.time, self.seed = ["a", "b"], 0, seed
        if self.bad_seed == -1 and seed != 0:
            self.seed = "any"
        self.random = np.random.default_rng(seed)
        if self.fault == "reset" and self.seed == self.bad_seed:
            raise RuntimeError("no start")
        if self.fault == "never starts" and seed != 0:
            raise RuntimeError("never again")
        if Broken.next_reset_fails and seed != 0:
            Broken.next_reset_fails = False
            raise RuntimeError("neither")
        return self.look(), self.infos()

    def look(self):
        return {"a": np.full(3, self.time, np.float32), "b": np.full(2, -self.time, np.float32)}

    def infos(self):
        return {"a": {"action_mask": np.ones(2, np.int8)}, "b": {"action_mask": np.array([1, 1, 0], np.int8)}}

    def step(self, actions):
        self.time += 1
        if self.chance and self.random.random() < self.chance:
            raise RuntimeError("by chance")
        if self.fault == "first step" and self.time == 1:
            raise RuntimeError("never gets going")
        if self.fault == "first step or reset" and self.time == 1:
            Broken.next_reset_fails = True
            raise RuntimeError("neither")
        ends = dict.fromkeys(self.agents, self.time == 20)
        answer = [self.look(), dict.fromkeys(self.agents, 0.5), ends, dict.fromkeys(self.agents, False), self.infos()]
        if self.is_due(self.fault):
            self.misbehave(answer)
            answer = SPOILERS.get(self.fault, lambda a: a)(answer)
        if self.time == 20:
            self.agents = []
        return tuple(answer) if isinstance(answer, list) else answer

    def misbehave(self, answer):
        if self.fault == "raises":
            raise ValueError("boom")
        if self.fault == "exits":
            raise SystemExit(3)
        if self.fault == "dies":
            os._exit(7)
        if self.fault == "hangs":
            while True:
                time.sleep(0.01)
        if self.fault == "hangs once" and not os.path.exists(self.file):
            with open(self.file, "w") as file:
                file.write(str(os.getpid()))
            while True:
                time.sleep(0.01)
        if self.fault == "vanishes":
            self.agents = ["b"]
        if self.fault == "stranger":
            self.agents = ["a", "b", "c"]


class Failing(ParallelEnv):
    """Two agents, episodes of 4 steps; in every episode one part fails at one step, 0 being the reset."""

    metadata = {"name": "failing"}
    possible_agents = ["a", "b"]
    max_cycles = 4

    def __init__(self, part="none", at=4):
        self.part, self.at = part, at
        self.agents = []

    def observation_space(self, agent):
        return Box(-1, 1, (2,), np.float32)

    def action_space(self, agent):
        return Discrete(2)

    def fails(self, part):
        # seed 0 is that of the reset that finds out the sizes
        return self.part == part and self.time == self.at and self.seed != 0

    def reset(self, seed=None, options=None):
        self.agents, self.time, self.seed = list(self.possible_agents), 0, seed
        if self.fails("reset"):
            raise RuntimeError("no start")
        return self.look(), self.infos()

    def state(self):
        if self.fails("state"):
            raise RuntimeError("no state")
        return np.zeros(5 if self.fails("size") else 3, np.float32)

    def look(self):
        size = 3 if self.fails("observation") else 2
        return {"a": np.zeros(size, np.float32), "b": np.zeros(2, np.float32)}

    def infos(self):
        return {agent: {"action_mask": np.full(2, int(not self.fails("mask")))} for agent in self.possible_agents}

    def step(self, actions):
        self.time += 1
        if self.fails("step"):
            raise RuntimeError("no step")
        reward = np.nan if self.fails("reward") else 0.5
        ends = "yes" if self.fails("end") else False
        everyone = self.possible_agents
        is_cut_off = self.time == self.max_cycles
        if is_cut_off:
            self.agents = []
        answers = (dict.fromkeys(everyone, value) for value in (reward, ends, is_cut_off))
        return self.look(), *answers, self.infos()


ANYWHERE = {
    "reset": "reset() raised RuntimeError: no start",
    "step": "step() raised RuntimeError: no step",
    "state": "state() raised RuntimeError: no state. With own_state=false all observations side by side",
    "size": "state has 5 entries of dtype float32; at first it had 3. With own_state=false all observations",
    "observation": "observation of a has shape (3,); its space says (2,)",
    "reward": "reward of agent 0",
    "mask": "available_actions of a allows nothing",
    "end": "terminated of a is 'yes'; it must be True or False",
}
"""Parts of a PettingZoo environment that may fail, and words of the message."""


def _with(part, key, value):
    """Return a spoiler that sets an entry of one of the dictionaries."""

    def spoil(answer):
        answer[part] = {**answer[part], key: value}
        return answer

    return spoil


def _without(part, key):
    def spoil(answer):
        answer[part] = {name: value for name, value in answer[part].items() if name != key}
        return answer

    return spoil


SPOILERS = {
    "nan observation": _with(0, "a", np.array([0.0, NAN, 0.0], np.float32)),
    "inf observation": _with(0, "b", np.array([-INF, 0.0], np.float32)),
    "too large for float32": _with(0, "a", np.array([0.0, 0.0, 1e300])),
    "wrong shape": _with(0, "a", np.zeros(4, np.float32)),
    "ragged": _with(0, "a", [[1.0], [1.0, 2.0], 3.0]),
    "text": _with(0, "b", np.array(["x", "y"])),
    "null": _with(0, "b", None),
    "no observation": _without(0, "b"),
    "foreign observation": _with(0, "c", np.zeros(3)),
    "nan reward": _with(1, "a", NAN),
    "inf reward": _with(1, "b", INF),
    "text reward": _with(1, "a", "1.0"),
    "reward of two": _with(1, "a", np.zeros(2)),
    "reward of none": _with(1, "b", None),
    "no reward": _without(1, "a"),
    "foreign reward": _with(1, "c", 0.0),
    "not terminated": _without(2, "a"),
    "terminated none": _with(2, "b", None),
    "terminated 1.0": _with(2, "b", 1.0),
    "truncated no": _with(3, "a", "no"),
    "mask too long": _with(4, "a", {"action_mask": np.ones(3, np.int8)}),
    "mask of twos": _with(4, "a", {"action_mask": np.array([2, 1])}),
    "empty mask": _with(4, "b", {"action_mask": np.zeros(3, np.int8)}),
    "four values": lambda answer: answer[:4],
    "nothing": lambda answer: None,
    "lists": lambda answer: [[1.0], *answer[1:]],
}

GAME_FAULTS = {
    "nan observation": "observation of agent 0, entry 1, is nan; the last finite one was 4",
    "inf observation": "observation of agent 1, entry 0, is -inf; the last finite one was -4",
    "too large for float32": "observation of agent 0, entry 2, is inf",
    "wrong shape": "observation of a has shape (4,); its space says (3,)",
    "ragged": "observation of a is not an array",
    "text": "observation of b has dtype <U1; it must be numbers",
    "null": "observation of b has shape (); its space says (2,)",
    "no observation": "observation of b is missing",
    "foreign observation": "observation is given for 'c', which is no agent of this environment",
    "nan reward": "reward of agent 0 is nan; the last finite one was 0.5",
    "inf reward": "reward of agent 1 is inf",
    "text reward": "reward of a is a str '1.0'; it must be a number",
    "reward of two": "reward of a is a ndarray of shape (2,); it must be a number",
    "reward of none": "reward of b is a NoneType None",
    "no reward": "reward of a is missing",
    "foreign reward": "reward is given for 'c'",
    "not terminated": "terminated of a is missing",
    "terminated none": "terminated of b is None; it must be True or False",
    "terminated 1.0": "terminated of b is 1.0; it must be True or False",
    "truncated no": "truncated of a is 'no'",
    "mask too long": "available_actions of a has shape (3,); the agent has 2 actions",
    "mask of twos": "available_actions of a is array([2, 1]); it must hold 0 and 1 only",
    "empty mask": "available_actions of b allows nothing",
    "four values": "step() returned 4 values; PettingZoo asks for (observations, rewards,",
    "nothing": "step() returned a NoneType",
    "lists": "step() returned 5 values",
    "state": "state has 5 entries of dtype float64; at first it had 2",
    "nan state": "state, entry 1, is nan; the last finite one was 0",
    "vanishes": "a left without being terminated or truncated",
    "stranger": "'c' plays, but possible_agents does not name it",
}
"""Faults of a PettingZoo environment and words of the message; all in step 5 of one episode of env 2."""
