"""Matrix games: published payoffs, any number of agents, rounds, refusals."""

from itertools import product

import numpy as np
import pytest

from spnpolicy.base.errors import CheckpointError, ConfigError
from spnpolicy.envs.games.matrix_games import MatrixGame
from spnpolicy.envs.games.payoffs import GAMES, ordinal_games

# Typed in from the sources, cell by cell, and not from the package.
COMMON = {
    "climbing": (11, [[11, -30, 0], [-30, 7, 0], [0, 6, 5]]),
    "penalty": (10, [[-100, 0, 10], [0, 2, 0], [10, 0, -100]]),
    "linear": (9, [[1, 5], [5, 9]]),
    "monotonic": (10, [[0, 0], [0, 10]]),
    "bad_basin": (10, [[0, -5], [-5, 10]]),
    "diagonal": (10, [[10, 0], [0, 10]]),
    "qtran": (8, [[8, -12, -12], [-12, 0, 0], [-12, 0, 0]]),
}
# name -> (best mean, payoffs of the row agent, payoffs of the column agent, joint actions nobody wants to leave)
GENERAL = {
    "stag_hunt": (4, [[4, 0], [3, 2]], [[4, 3], [0, 2]], {(0, 0), (1, 1)}),
    "prisoners_dilemma": (3, [[3, 0], [5, 1]], [[3, 5], [0, 1]], {(1, 1)}),
    "chicken": (6, [[6, 2], [7, 0]], [[6, 7], [2, 0]], {(0, 1), (1, 0)}),
    "battle_of_sexes": (1.5, [[2, 0], [0, 1]], [[1, 0], [0, 2]], {(0, 0), (1, 1)}),
    "matching_pennies": (0, [[1, -1], [-1, 1]], [[-1, 1], [1, -1]], set()),
    "rock_paper_scissors": (0, [[0, -1, 1], [1, 0, -1], [-1, 1, 0]], [[0, 1, -1], [-1, 0, 1], [1, -1, 0]], set()),
}


def all_joint_actions(*cardinalities):
    return np.array(list(product(*map(range, cardinalities))))


def play_all(env):
    """Return the step in which environment i played the i-th joint action."""
    env.reset()
    return env.step(all_joint_actions(*env.spec.cardinalities))


@pytest.mark.parametrize("game", COMMON)
def test_common_games_pay_as_published(game):
    optimum, table = COMMON[game]
    step = play_all(MatrixGame(game=game, num_envs=np.size(table)))
    np.testing.assert_array_equal(step.reward, np.repeat(np.ravel(table)[:, None], 2, axis=1))
    assert step.terminated.all()
    assert not step.truncated.any()
    assert MatrixGame(game=game).optimum == np.max(table) == optimum


@pytest.mark.parametrize("game", GENERAL)
def test_general_games_pay_as_published(game):
    best_mean, row, column, stable = GENERAL[game]
    env = MatrixGame(game=game, num_envs=np.size(row))
    np.testing.assert_array_equal(play_all(env).reward, np.stack([np.ravel(row), np.ravel(column)], axis=1))
    assert env.optimum == best_mean == np.max(np.add(row, column)) / 2
    nash = {(a, b) for a, b in np.ndindex(np.shape(row)) if row[a][b] == max(r[b] for r in row)
            and column[a][b] == max(column[a])}  # fmt: skip
    assert nash == stable


def test_all_named_games_are_tested():
    assert set(GAMES) == set(COMMON) | set(GENERAL)


def test_the_six_of_climbing_stands_in_row_c_column_b():
    env = MatrixGame(game="climbing", num_envs=2)
    env.reset()
    np.testing.assert_array_equal(env.step(np.array([[2, 1], [1, 2]])).reward[:, 0], [6, 0])


def relabelled(first, second):
    """Yield the pair of 2x2 tables under all names of actions and agents."""
    for row, column in ((first, second), (second.T, first.T)):
        for rows, columns in product((slice(None), slice(None, None, -1)), repeat=2):
            yield row[rows, columns].tobytes() + column[rows, columns].tobytes()


def test_there_are_78_ordinal_games_of_which_21_have_no_conflict():
    games = {name: np.array(cells) for name, cells in ordinal_games().items()}
    assert len(games) == 78
    assert sum(name.startswith("no_conflict") for name in games) == 21
    classes = set()
    for name, cells in games.items():
        first, second = cells[..., 0].copy(), cells[..., 1].copy()
        assert sorted(first.ravel()) == sorted(second.ravel()) == [1, 2, 3, 4]
        assert name.startswith("no_conflict") == (first.argmax() == second.argmax())
        classes.add(frozenset(relabelled(first, second)))
    assert len(classes) == 78
    for game in ("prisoners_dilemma", "chicken"):
        _, row, column, _ = GENERAL[game]
        ranks = [np.ravel(table).argsort().argsort().reshape(2, 2) + 1 for table in (row, column)]
        assert frozenset(relabelled(*ranks)) in classes


def test_ordinal_games_are_played_by_name():
    env = MatrixGame(game="no_conflict_1", num_envs=4)
    np.testing.assert_array_equal(play_all(env).reward, [[4, 4], [3, 3], [2, 2], [1, 1]])
    assert MatrixGame(game="conflict_57").optimum == 3


@pytest.mark.parametrize("k", [0, -25, -50.0])
def test_penalty_takes_its_loss(k):
    step = play_all(MatrixGame(game="penalty", k=k, num_envs=9))
    np.testing.assert_array_equal(step.reward[:, 0], [k, 0, 10, 0, 2, 0, 10, 0, k])
    np.testing.assert_array_equal(step.reward[:, 1], step.reward[:, 0])


def test_three_agents_with_their_own_numbers_of_actions():
    table = np.arange(24.0).reshape(2, 3, 4)
    env = MatrixGame(payoff=table, num_envs=24)
    assert env.spec.cardinalities == (2, 3, 4)
    assert env.spec.has_action_masks
    assert env.action_names == ("A", "B", "C", "D")
    np.testing.assert_array_equal(play_all(env).reward, np.arange(24.0)[:, None].repeat(3, axis=1))


def test_three_agents_with_payoffs_of_their_own():
    payoffs = np.random.default_rng(0).integers(-9, 9, (2, 3, 4, 3)).astype(float)
    env = MatrixGame(payoffs=payoffs, num_envs=24)
    assert env.spec.cardinalities == (2, 3, 4)
    np.testing.assert_array_equal(play_all(env).reward, payoffs.reshape(24, 3))
    assert env.optimum == pytest.approx(payoffs.mean(axis=-1).max())


def test_own_table_is_copied():
    table = np.array([[1.0, 2.0]])
    env = MatrixGame(payoff=table)
    table[:] = 0
    assert env.optimum == 2


def test_nothing_is_to_be_seen():
    step = MatrixGame(num_envs=2).reset(seed=0)
    np.testing.assert_array_equal(step.observation, np.ones((2, 2, 1)))
    np.testing.assert_array_equal(step.state, np.ones((2, 1)))


def test_rounds_end_by_the_clock_and_add_up():
    """The benchmarks' number for (B, B) on climbing is 175 = 25 * 7."""
    env = MatrixGame(game="climbing", rounds=25, num_envs=3)
    assert env.episode_limit == 25
    env.reset()
    for _ in range(2):
        steps = [env.step(np.full((3, 2), 1)) for _ in range(25)]
        np.testing.assert_array_equal(sum(step.reward for step in steps), np.full((3, 2), 175))
        assert [step.truncated.all() for step in steps] == [False] * 24 + [True]
        assert not any(step.terminated.any() for step in steps)


def test_last_actions_are_shown_to_all():
    env = MatrixGame(payoff=np.zeros((2, 3)), rounds=2, observe="last_actions", num_envs=2)
    assert env.spec.observation_size == env.spec.state_size == 5
    nothing = np.zeros((2, 5))
    np.testing.assert_array_equal(env.reset().state, nothing)
    step = env.step(np.array([[1, 0], [0, 2]]))
    shown = [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]
    for array in (step.state, step.final_state, *step.observation.swapaxes(0, 1)):
        np.testing.assert_array_equal(array, shown)
    step = env.step(np.array([[0, 1], [1, 1]]))
    for agent in range(2):
        np.testing.assert_array_equal(step.final_observation[:, agent], [[1, 0, 0, 1, 0], [0, 1, 0, 1, 0]])
        np.testing.assert_array_equal(step.observation[:, agent], nothing)


def test_optimal_return_is_the_best_over_all_constant_play():
    for options in ({"game": "climbing"}, {"game": "battle_of_sexes"}, {"payoff": [[-3.0, -1.0]]}):
        for rounds, discount in ((1, 0.0), (1, 0.9), (3, 0.5)):
            env = MatrixGame(rounds=rounds, num_envs=MatrixGame(**options).payoff.size, **options)
            joint = all_joint_actions(*env.spec.cardinalities)
            env.reset()
            returns = sum(discount**t * env.step(joint).reward.mean(axis=1) for t in range(rounds))
            np.testing.assert_allclose(env.optimal_return(discount), np.full(len(joint), returns.max()))
    np.testing.assert_array_equal(MatrixGame(rounds=3).optimal_return(0.5), [11 * 1.75])
    with pytest.raises(ConfigError, match=r"matrix_game: discount=1.5 must be between 0 and 1"):
        MatrixGame().optimal_return(1.5)


def test_another_game_is_refused_on_loading():
    saved = MatrixGame(game="climbing", rounds=3).state_dict()
    for options, message in (
        ({"game": "linear", "rounds": 3}, "another payoff table"),
        ({"rounds": 4}, "another rounds"),
        ({"rounds": 3, "num_envs": 2}, "another num_envs"),
        ({"rounds": 3, "observe": "last_actions"}, "another observe"),
    ):
        with pytest.raises(CheckpointError, match=message):
            MatrixGame(**options).load_state_dict(saved)


@pytest.mark.parametrize(
    "damage",
    [
        {"round": 3},
        {"round": -1},
        {"round": 1.0},
        {"round": 1},
        {"last_actions": [[0, 0]]},
        {"round": 1, "last_actions": [[0, 3]]},
        {"round": 1, "last_actions": [[0, 0, 0]]},
        {"last_actions": "x"},
    ],
)
def test_impossible_states_are_refused(damage):
    env = MatrixGame(rounds=3)
    saved = env.state_dict()
    with pytest.raises(CheckpointError, match="the saved state is damaged"):
        env.load_state_dict(saved | damage)
    env.load_state_dict(saved | {"round": 2, "last_actions": [[0, 2]]})
    assert env.step(np.array([[0, 0]])).truncated[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"game": "climbin"}, "unknown game 'climbin'; did you mean 'climbing'"),
        ({"game": "stag-hunt"}, "unknown game 'stag-hunt'; did you mean 'stag_hunt'"),
        ({"game": "conflict_58"}, "there is no game 'conflict_58'; they are conflict_1 .. conflict_57"),
        ({"game": "no_conflict_x"}, "there is no game 'no_conflict_x'; they are no_conflict_1 .. no_conflict_21"),
        ({"game": "climbing", "k": -5}, "k=-5 is an option of game='penalty', not of 'climbing'"),
        ({"payoff": [[1.0]], "k": -5}, "k=-5 is an option of game='penalty', not of 'own table'"),
        ({"game": "penalty", "k": 5}, "k=5 must be a finite number, 0 or less"),
        ({"game": "penalty", "k": float("nan")}, "k=nan must be a finite number"),
        ({"payoff": 3.0}, r"payoff has shape \(\); it needs an axis"),
        ({"payoff": [[1.0, float("nan")]]}, r"payoff at \(0, 1\) is nan; it must be finite"),
        ({"payoff": [[1.0, 2.0], [3.0]]}, "payoff is not a table of numbers"),
        ({"payoffs": [[1.0, 2.0], [3.0, 4.0]]}, r"payoffs has shape \(2, 2\): 1 axes with actions, but 2 numbers"),
        ({"payoffs": np.zeros((2, 2, 3))}, "2 axes with actions, but 3 numbers for each joint action. Give one for"),
        ({"payoffs": np.full((1, 1, 2), np.inf)}, r"payoffs at \(0, 0, 0\) is inf; it must be finite"),
        ({"payoff": [[1.0]], "payoffs": [[[1.0, 1.0]]]}, "give one of them"),
        ({"rounds": 0}, "rounds=0 is too small"),
        ({"observe": "last_action"}, "unknown observe 'last_action'; did you mean 'last_actions'"),
        ({"num_envs": 0}, "num_envs=0 is too small"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        MatrixGame(**options)
