"""The two-step game: payoffs of both branches, what is seen, best return, refusals."""

from itertools import product

import numpy as np
import pytest

from spnpolicy.base.errors import CheckpointError, ConfigError, EnvError
from spnpolicy.envs.games.two_step import TwoStep

JOINT = np.array(list(product(range(2), repeat=2)))


def test_all_sixteen_ways_to_play_pay_as_published():
    first, second = np.repeat(JOINT, 4, axis=0), np.tile(JOINT, (4, 1))
    env = TwoStep(num_envs=16)
    np.testing.assert_array_equal(env.reset().state, np.tile([1, 0, 0], (16, 1)))
    step = env.step(first)
    assert not step.reward.any()
    assert not step.terminated.any()
    # Agent 0 alone decides on the branch.
    for agent in range(2):
        np.testing.assert_array_equal(step.observation[:, agent], [[0, 1, 0]] * 8 + [[0, 0, 1]] * 8)
    step = env.step(second)
    paid = [7] * 8 + [0, 1, 1, 8] * 2
    np.testing.assert_array_equal(step.reward, np.stack([paid, paid], axis=1))
    assert step.terminated.all()
    assert not step.truncated.any()
    np.testing.assert_array_equal(step.final_state, [[0, 1, 0]] * 8 + [[0, 0, 1]] * 8)
    np.testing.assert_array_equal(step.state, np.tile([1, 0, 0], (16, 1)))
    assert env.optimum == max(paid)
    np.testing.assert_array_equal(env.optimal_return(0.5), np.full(16, 4.0))


def test_additive_values_settle_for_the_branch_of_seven():
    env = TwoStep(num_envs=4)
    env.load_state_dict({"places": [2, 2, 2, 2]})
    table = env.step(JOINT).reward[:, 0].reshape(2, 2)
    fit = table.mean(axis=1, keepdims=True) + table.mean(axis=0) - table.mean()
    np.testing.assert_allclose(fit, [[-1.5, 2.5], [2.5, 6.5]])


def test_games_may_be_in_different_steps():
    env = TwoStep(num_envs=3)
    np.testing.assert_array_equal(env.load_state_dict({"places": [0, 1, 2]}).state, np.eye(3))
    step = env.step(np.ones((3, 2), int))
    np.testing.assert_array_equal(step.reward[:, 0], [0, 7, 8])
    np.testing.assert_array_equal(step.terminated, [False, True, True])
    np.testing.assert_array_equal(step.state.argmax(axis=1), [2, 0, 0])


@pytest.mark.parametrize(
    ("places", "message"),
    [([0, 1], r"shape \(2,\); with num_envs=3"), ([0, 1, 3], "must be 0 .. 2"), ([0, -1, 1], "must be 0 .. 2")],
)
def test_wrong_states_are_refused(places, message):
    with pytest.raises(CheckpointError, match=f"two_step: .*{message}"):
        TwoStep(num_envs=3).load_state_dict({"places": places})


def test_refusals():
    with pytest.raises(ConfigError, match="two_step: num_envs=0 is too small"):
        TwoStep(num_envs=0)
    with pytest.raises(ConfigError, match="two_step: discount=-1 must be between 0 and 1"):
        TwoStep().optimal_return(-1)
    with pytest.raises(EnvError, match=r"call reset\(\) first"):
        TwoStep().state_dict()
