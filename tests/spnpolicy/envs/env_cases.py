"""One row per kind of environment: every row runs through all contract tests."""

import numpy as np

from spnpolicy.envs import make_env

CASES = {
    "coverage latch": ("coverage", {"agents": 3, "size": 4, "variant": "latch", "episode_limit": 30}),
    "coverage simultaneous": ("coverage", {"agents": 2, "size": 3, "variant": "simultaneous", "episode_limit": 25}),
    "coverage claim": ("coverage", {"agents": 2, "size": 4, "variant": "claim", "episode_limit": 30}),
    "coverage fixed": ("coverage", {"agents": 3, "goals": 2, "size": 4, "placement": "fixed", "layout_seed": 7}),
    "coverage alone": ("coverage", {"agents": 1, "size": 2, "episode_limit": 5}),
    "matrix climbing": ("matrix_game", {"game": "climbing"}),
    "matrix own table": ("matrix_game", {"payoff": np.arange(24.0).reshape(2, 3, 4)}),
}


def make_case(case, num_envs):
    name, options = CASES[case]
    return make_env(name, num_envs=num_envs, **options)


def random_actions(env, generator):
    """Draw uniformly from each agent's own actions, shape (num_envs, agents)."""
    return generator.integers(0, env.spec.cardinalities, (env.num_envs, env.spec.num_agents))
