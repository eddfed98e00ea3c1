"""Matrix games: published payoffs, any number of agents, refusals."""

import numpy as np
import pytest

from spnpolicy.envs.matrix_games import GAMES, MatrixGame
from spnpolicy.errors import CheckpointError, ConfigError


def play(env, joint):
    env.reset()
    return env.step(np.array([joint]))


@pytest.mark.parametrize(
    ("game", "optimum", "entries"),
    [
        ("climbing", 11, {(0, 0): 11, (1, 1): 7, (2, 1): 6, (1, 2): 0, (2, 2): 5, (0, 1): -30, (1, 0): -30}),
        ("penalty", 10, {(0, 0): -100, (2, 2): -100, (0, 2): 10, (2, 0): 10, (1, 1): 2, (0, 1): 0}),
        ("linear", 9, {(0, 0): 1, (0, 1): 5, (1, 0): 5, (1, 1): 9}),
        ("monotonic", 10, {(0, 0): 0, (0, 1): 0, (1, 0): 0, (1, 1): 10}),
        ("bad_basin", 10, {(0, 0): 0, (0, 1): -5, (1, 0): -5, (1, 1): 10}),
        ("diagonal", 10, {(0, 0): 10, (0, 1): 0, (1, 0): 0, (1, 1): 10}),
    ],
)
def test_named_games_pay_as_published(game, optimum, entries):
    env = MatrixGame(game=game)
    assert env.optimum == optimum
    for joint, payoff in entries.items():
        step = play(env, joint)
        np.testing.assert_array_equal(step.reward, [[payoff, payoff]])
        assert step.terminated[0]
        assert not step.truncated[0]


def test_all_named_games_are_tested_and_square():
    assert set(GAMES) == {"climbing", "penalty", "linear", "monotonic", "bad_basin", "diagonal"}
    assert all(len(row) == len(table) for table in GAMES.values() for row in table)


@pytest.mark.parametrize("k", [0, -25, -50.0])
def test_penalty_takes_its_loss(k):
    env = MatrixGame(game="penalty", k=k)
    assert play(env, (0, 0)).reward[0, 0] == k
    assert play(env, (2, 2)).reward[0, 1] == k
    assert play(env, (0, 2)).reward[0, 0] == 10


def test_three_agents_with_their_own_numbers_of_actions():
    table = np.arange(24.0).reshape(2, 3, 4)
    env = MatrixGame(payoff=table, num_envs=24)
    assert env.spec.cardinalities == (2, 3, 4)
    assert env.spec.has_action_masks
    assert env.action_names == ("A", "B", "C", "D")
    env.reset()
    joint = np.stack(np.unravel_index(np.arange(24), (2, 3, 4)), axis=1)
    np.testing.assert_array_equal(env.step(joint).reward, np.arange(24.0)[:, None].repeat(3, axis=1))


def test_own_table_is_copied():
    table = np.array([[1.0, 2.0]])
    env = MatrixGame(payoff=table)
    table[:] = 0
    assert env.optimum == 2


def test_nothing_is_to_be_seen():
    step = MatrixGame(num_envs=2).reset(seed=0)
    np.testing.assert_array_equal(step.observation, np.ones((2, 2, 1)))
    np.testing.assert_array_equal(step.state, np.ones((2, 1)))


def test_another_table_is_refused_on_loading():
    with pytest.raises(CheckpointError, match="another payoff table"):
        MatrixGame(game="linear").load_state_dict(MatrixGame(game="climbing").state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"game": "climbin"}, "unknown game 'climbin'; did you mean 'climbing'"),
        ({"game": "climbing", "k": -5}, "k=-5 is an option of game='penalty', not of 'climbing'"),
        ({"game": "penalty", "k": 5}, "k=5 must be a finite number, 0 or less"),
        ({"game": "penalty", "k": float("nan")}, "k=nan must be a finite number"),
        ({"payoff": 3.0}, r"payoff has shape \(\); it needs an axis"),
        ({"payoff": [[1.0, float("nan")]]}, r"payoff of joint action \(0, 1\) is nan; it must be finite"),
        ({"payoff": [[1.0, 2.0], [3.0]]}, "payoff is not a table of numbers"),
        ({"num_envs": 0}, "num_envs=0 is too small"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        MatrixGame(**options)
