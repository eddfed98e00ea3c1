"""What no algorithm may act on, and what every one must: nan, infinities and nobody, read off the registry."""

import math

import pytest

from circuits import StructureError
from spnpolicy.algorithms import make_algorithm
from spnpolicy.base.errors import EnvError, NonFiniteError
from spnpolicy.base.seeding import Streams
from spnpolicy.training.player import Player
from tests.spnpolicy.algorithms.test_algorithms import INSTALLED, small
from tests.spnpolicy.chain_env import ChainEnv


@pytest.mark.parametrize("name", INSTALLED)
def test_nobody_acts_on_what_is_no_number(name):
    """Without the guard of environments, whatever the learner sees: its observation, the state, or both."""
    env = ChainEnv(3, cardinalities=(2, 3), has_action_masks=True)
    algorithm = make_algorithm(name, env.spec, Streams(0), **small(name))
    step = env.reset(seed=0)
    for bad in (math.nan, math.inf):
        observation, state = step.observation.copy(), step.state.copy()
        observation[1, 0, -1] = state[1, -1] = bad
        for explore in (True, False):
            with pytest.raises(
                (EnvError, NonFiniteError, StructureError), match="the (observation|state)|holds (nan|inf)"
            ):
                Player(algorithm).act(step._replace(observation=observation, state=state), explore=explore)


@pytest.mark.parametrize("name", INSTALLED)
def test_a_batch_without_environments_needs_no_actions(name):
    env = ChainEnv(3, cardinalities=(2, 3), has_action_masks=True)
    algorithm = make_algorithm(name, env.spec, Streams(0), **small(name))
    step = env.reset(seed=0)
    nobody = type(step)(*(None if each is None else each[:0] for each in step))
    for explore in (True, False):
        assert Player(algorithm).act(nobody, explore=explore).shape == (0, 2)
