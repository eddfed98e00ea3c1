"""Defaults that were chosen with care: the papers' numbers, or others for a reason that their docstrings give."""

from operator import attrgetter

import pytest

from spnpolicy.algorithms import config_class, make_algorithm
from spnpolicy.base.seeding import Streams
from spnpolicy.envs import make_env
from spnpolicy.training.player import needs_of
from tests.spnpolicy.learning_cases import learn, play, store_for

CHOSEN = [
    ("aql", "num_proposed", 100),
    ("aql", "num_uniform", 400),
    ("coma", "critic_steps", 10),
    ("coma", "entropy.start", 0.3),
    ("ia2c", "entropy.start", 0.3),
    ("ia2c", "normalize_advantage", True),
    ("ippo", "entropy.start", 0.01),
    ("ippo", "trace", 0.95),
    ("pareto_ac", "entropy.start", 20.0),
    ("pareto_ac", "normalize_advantage", False),
    ("qtran", "lambda_nopt", 1.0),
    ("reinforce", "actor.learning_rate", 3e-4),
    ("wolpertinger", "target.rate", 0.01),
]


@pytest.mark.parametrize(("name", "setting", "value"), CHOSEN)
def test_defaults_are_those_that_were_chosen(name, setting, value):
    assert attrgetter(setting)(config_class(name)()) == value


@pytest.mark.parametrize(("rollout", "complete"), [({}, 1.0), ({"rollout": 199}, 0.0)])
def test_reinforce_learns_from_whole_episodes_of_200_steps_by_default(rollout, complete):
    env = make_env("matrix_game", game="climbing", rounds=200, num_envs=2)
    algorithm = make_algorithm("reinforce", env.spec, Streams(0), network={"hidden": (8,)}, **rollout)
    store = store_for(algorithm, env.spec, num_envs=2)
    play(algorithm, env, store, needs_of(algorithm).rollout)
    assert algorithm.update(store.draw(1), progress=0.0)["complete"] == complete


@pytest.mark.full
def test_qtran_solves_its_matrix_game_with_its_defaults():
    env = make_env("matrix_game", game="qtran", num_envs=32)
    algorithm = learn("qtran", env, updates=300, batch_size=64)
    step = env.step(algorithm.act(env.reset(seed=1), explore=False))
    assert (step.reward == 8.0).all()
