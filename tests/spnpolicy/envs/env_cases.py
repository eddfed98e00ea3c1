"""One row per kind of environment: every row runs through all contract tests."""

import numpy as np

from spnpolicy.envs import make_env

SMALL = "pettingzoo:tests.spnpolicy.envs.pettingzoo.small_games"
CASES = {
    "coverage latch": ("coverage", {"agents": 3, "size": 4, "variant": "latch", "episode_limit": 30}),
    "coverage simultaneous": ("coverage", {"agents": 2, "size": 3, "variant": "simultaneous", "episode_limit": 25}),
    "coverage claim": ("coverage", {"agents": 2, "size": 4, "variant": "claim", "episode_limit": 30}),
    "coverage fixed": ("coverage", {"agents": 3, "goals": 2, "size": 4, "placement": "fixed", "layout_seed": 7}),
    "coverage shown": ("coverage", {"agents": 4, "size": 5, "shown": 2, "episode_limit": 25}),
    "coverage alone": ("coverage", {"agents": 1, "size": 2, "episode_limit": 5}),
    "foraging": ("foraging", {"task": "Foraging-5x5-2p-1f-v3"}),
    "foraging three": ("foraging", {"task": "Foraging-10x10-3p-3f-v3"}),
    "foraging together": ("foraging", {"task": "Foraging-8x8-2p-2f-coop-v3"}),
    "foraging arrays": ("foraging_arrays", {"task": "Foraging-5x5-2p-1f-v3"}),
    "pettingzoo pair": (f"{SMALL}.Pair", {}),
    "pettingzoo leaving": (f"{SMALL}.Pair", {"length": 9, "first_leaves": 3, "episode_limit": 7}),
    "pettingzoo stateful": (f"{SMALL}.Stateful", {}),
    "pettingzoo masked": (f"{SMALL}.Masked", {"where": "observation"}),
    "matrix climbing": ("matrix_game", {"game": "climbing"}),
    "matrix own table": ("matrix_game", {"payoff": np.arange(24.0).reshape(2, 3, 4)}),
    "matrix stag hunt": ("matrix_game", {"game": "stag_hunt"}),
    "matrix own payoffs": ("matrix_game", {"payoffs": np.arange(18.0).reshape(3, 3, 2)}),
    "matrix rounds": ("matrix_game", {"game": "penalty", "rounds": 25}),
    "matrix memory": ("matrix_game", {"payoff": np.ones((2, 3)), "rounds": 4, "observe": "last_actions"}),
    "two steps": ("two_step", {}),
    "assignment": ("assignment_game", {"agents": 4}),
    "assignment idle": ("assignment_game", {"agents": 5, "tasks": 3, "idle": True}),
    "assignment fixed": ("assignment_game", {"agents": 2, "tasks": 6, "fixed": True, "table_seed": 3}),
}


def make_case(case, num_envs):
    name, options = CASES[case]
    return make_env(name, num_envs=num_envs, **options)


FORBIDDING = ("foraging", "foraging three", "foraging together", "foraging arrays", "pettingzoo masked")
"""Rows whose masks forbid actions that exist."""


def random_actions(step, generator):
    """Draw uniformly from the actions that a step allows, shape (num_envs, agents)."""
    return np.where(step.available_actions, generator.random(step.available_actions.shape), -1.0).argmax(axis=2)


def foraging_at(env, players, food, age=0):
    """Start all games of `ForagingArrays` from given rows, columns and levels of agents and food; level 0: no food."""
    env.reset(seed=0)
    spawned = np.maximum(food[..., 2].sum(-1), 1)
    ages = np.full(env.num_envs, age)
    return env.load_state_dict(env.state_dict() | {"players": players, "food": food, "spawned": spawned, "age": ages})
