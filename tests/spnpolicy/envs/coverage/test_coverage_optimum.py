"""Optimal lengths against brute force, published figures and the game itself; random play against known rates."""

from itertools import permutations

import numpy as np
import pytest

from spnpolicy.base.errors import ConfigError
from spnpolicy.envs.coverage.assignment import _by_threshold, bottleneck_assignment
from spnpolicy.envs.coverage.coverage import Coverage


def brute_force(cost):
    agents, goals = len(cost), len(cost[0])
    choices = permutations(range(agents), goals)
    return min(max(cost[agent][goal] for goal, agent in enumerate(choice)) for choice in choices)


@pytest.mark.parametrize(("agents", "goals"), [(1, 1), (2, 1), (3, 3), (4, 2), (5, 5), (7, 4)])
def test_assignment_equals_brute_force(agents, goals):
    cost = np.random.default_rng(agents * 10 + goals).integers(0, 12, (30, agents, goals))
    expected = [brute_force(table.tolist()) for table in cost]
    np.testing.assert_array_equal(bottleneck_assignment(cost), expected)
    np.testing.assert_array_equal(_by_threshold(cost), expected)


def test_assignment_of_many_agents():
    # goal g costs agent g nothing and everybody else 9, but agent 0 is kept from its goal
    cost = 9 - 9 * np.eye(40, dtype=int)
    assert bottleneck_assignment(cost) == 0
    cost[0, 0] = 5
    assert bottleneck_assignment(cost) == 5


def test_assignment_needs_enough_agents():
    with pytest.raises(ValueError, match="got 3 and 2"):
        bottleneck_assignment(np.zeros((2, 3), int))


def test_optimum_by_hand():
    # row 0: a0 . g1 . ; row 1: a1 . . g0. Straight on costs 3 at most (a1 to g0), crossed 4 and 3.
    layout = np.array([[0, 4]]), np.array([[7, 2]])
    for variant, extra in (("latch", 0), ("simultaneous", 0), ("claim", 1)):
        env = Coverage(agents=2, size=4, variant=variant)
        env.set_layout(*layout)
        assert env.optimal_steps() == [3 + extra]
        assert env.fixed_assignment_steps() == [4 + extra]
        assert env.optimal_return(0.5) == [0.5 ** (2 + extra)]
        env.step(np.array([[4, 4]]))
        assert env.optimal_steps() == [3 + extra], "it speaks of the start of the episode"


def test_optimum_follows_a_restart():
    env = Coverage(agents=2, size=9, num_envs=50, episode_limit=1)
    env.reset(seed=1)
    env.step(np.zeros((50, 2), int))
    fresh = Coverage(agents=2, size=9, num_envs=50)
    state = env.state_dict()
    fresh.set_layout(state["agent_cells"], state["goal_cells"])
    np.testing.assert_array_equal(env.optimal_steps(), fresh.optimal_steps())


def test_optimal_return_knows_the_episode_limit():
    env = Coverage(agents=1, size=4, episode_limit=3)
    env.set_layout(np.array([[0]]), np.array([[3]]))
    np.testing.assert_array_equal(env.optimal_return(1.0), [1.0])
    env = Coverage(agents=1, size=4, episode_limit=2)
    env.set_layout(np.array([[0]]), np.array([[3]]))
    np.testing.assert_array_equal(env.optimal_return(1.0), [0.0])
    with pytest.raises(ConfigError, match=r"discount=1\.5"):
        env.optimal_return(1.5)


def test_fixed_assignment_needs_a_goal_each():
    env = Coverage(agents=3, goals=2)
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="needs one goal per agent, here goals=2 and agents=3"):
        env.fixed_assignment_steps()


def walk_towards(env):
    """Let agent i walk to the goal that a best assignment gives it, rows first, then stay and claim."""
    board = env.board()
    starts, goals = (np.array(np.divmod(cells[0], env.size)).T for cells in (board.agent_cells, board.goal_cells))
    cost = np.abs(starts[:, None] - goals[None]).sum(axis=2)
    choices = permutations(range(env.goals))
    best = min(choices, key=lambda choice: max(cost[agent, goal] for agent, goal in enumerate(choice)))
    for length in range(1, 100):
        actions = []
        for (row, column), goal in zip(np.array(np.divmod(board.agent_cells[0], env.size)).T, best, strict=True):
            goal_row, goal_column = goals[goal]
            vertical = 1 if goal_row < row else 2
            horizontal = 3 if goal_column < column else 4
            actions.append(vertical if goal_row != row else horizontal if goal_column != column else 5)
        if env.step(np.array([actions])).terminated[0]:
            return length
        board = env.board()
    return None


@pytest.mark.parametrize("variant", ["simultaneous", "claim"])
def test_optimum_is_reached_by_walking(variant):
    env = Coverage(agents=3, size=6, variant=variant)
    for seed in range(20):
        env.reset(seed=seed)
        optimum = env.optimal_steps()[0]
        assert walk_towards(env) == optimum, f"seed {seed}"


@pytest.mark.parametrize(
    ("size", "agents", "layouts", "optimum", "deviation", "fixed"),
    [(5, 3, 20_000, 3.36, 0.97, 4.7), (20, 6, 4_000, 12.60, 2.88, 22.3)],
)
def test_mean_optimum_is_as_published(size, agents, layouts, optimum, deviation, fixed):
    # The published means come from 20,000 layouts and are rounded to the last digit shown here.
    # False alarm rate 6e-5 at 4 standard errors; the seed is fixed.
    env = Coverage(agents=agents, size=size, num_envs=layouts)
    env.reset(seed=2)
    error = deviation * np.sqrt(1 / layouts + 1 / 20_000)
    assert abs(env.optimal_steps().mean() - optimum) < 4 * error + 0.005
    own = env.fixed_assignment_steps()
    assert abs(own.mean() - fixed) < 4 * own.std() * np.sqrt(1 / layouts + 1 / 20_000) + 0.05
    assert (own >= env.optimal_steps()).all()


@pytest.mark.full
@pytest.mark.parametrize(
    ("size", "agents", "variant", "rate", "digit"),
    [
        (4, 2, "simultaneous", 0.61, 0.01),
        (4, 2, "latch", 0.960, 0.001),
        (4, 2, "claim", 0.66, 0.01),
        (5, 3, "simultaneous", 0.062, 0.001),
        (5, 3, "latch", 0.825, 0.001),
        (5, 3, "claim", 0.381, 0.001),
    ],
)
def test_random_play_succeeds_as_often_as_known(size, agents, variant, rate, digit):
    # Known rates: 100,000 episodes of an independent program, rounded. False alarm rate 6e-7 per row at
    # 5 standard errors; the seed is fixed.
    episodes = 10_000
    env = Coverage(agents=agents, size=size, variant=variant, num_envs=episodes)
    env.reset(seed=21)
    generator = np.random.default_rng(22)
    is_first, has_won = np.ones(episodes, bool), np.zeros(episodes, bool)
    optimum = env.optimal_steps()
    for time in range(1, env.episode_limit + 1):
        step = env.step(generator.integers(0, 6, (episodes, agents)))
        wins = step.terminated & is_first
        assert (optimum[wins] <= time).all(), "nobody is faster than the optimum"
        has_won |= wins
        is_first &= ~(step.terminated | step.truncated)
    assert not is_first.any()
    error = np.sqrt(rate * (1 - rate) * (1 / episodes + 1 / 100_000))
    assert abs(has_won.mean() - rate) < 5 * error + digit / 2
