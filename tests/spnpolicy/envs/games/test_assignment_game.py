"""The assignment game: rewards by slow loops, the optimum by trying everything, many agents, refusals."""

from itertools import product

import numpy as np
import pytest

from spnpolicy.base.errors import CheckpointError, ConfigError, EnvError
from spnpolicy.envs.games.assignment_game import AssignmentGame

SIZES = [(1, 1), (2, 2), (3, 2), (2, 4), (4, 3), (4, 4)]


def paid(worth, actions):
    """Return the reward of one game, task by task."""
    agents, tasks = worth.shape
    total = 0.0
    for task in range(tasks):
        total += max([float(worth[agent, task]) for agent in range(agents) if actions[agent] == task], default=0.0)
    return total / min(agents, tasks)


@pytest.mark.parametrize("idle", [False, True])
@pytest.mark.parametrize(("agents", "tasks"), SIZES)
def test_rewards_and_optimum_are_those_of_trying_everything(agents, tasks, idle):
    joint = np.array(list(product(range(tasks + idle), repeat=agents)))
    env = AssignmentGame(agents=agents, tasks=tasks, idle=idle, fixed=True, table_seed=5, num_envs=len(joint))
    worth = env.reset(seed=0).observation[0]
    optimum = env.optimal_return(0.9)
    step = env.step(joint)
    expected = [paid(worth, actions) for actions in joint]
    np.testing.assert_allclose(step.reward, np.repeat(np.array(expected)[:, None], agents, axis=1), rtol=1e-6)
    np.testing.assert_allclose(optimum, np.full(len(joint), max(expected)), rtol=1e-6)
    assert step.terminated.all()
    assert not step.truncated.any()


@pytest.mark.parametrize(("agents", "tasks"), SIZES)
def test_optimal_actions_earn_the_optimum_of_every_game(agents, tasks):
    env = AssignmentGame(agents=agents, tasks=tasks, num_envs=7)
    worth = env.reset(seed=1).observation
    optimum, actions = env.optimal_return(1.0), env.optimal_actions()
    best = [max(paid(table, joint) for joint in product(range(tasks), repeat=agents)) for table in worth]
    np.testing.assert_allclose(optimum, best, rtol=1e-6)
    np.testing.assert_array_equal(env.step(actions).reward[:, 0], optimum.astype(np.float32))


def test_agents_see_their_own_row_and_the_state_all_rows():
    step = AssignmentGame(agents=3, tasks=2, num_envs=4).reset(seed=2)
    assert step.observation.shape == (4, 3, 2)
    np.testing.assert_array_equal(step.state, step.observation.reshape(4, 6))
    assert len(np.unique(step.observation)) == 24
    assert step.observation.min() >= 0
    assert step.observation.max() < 1


@pytest.mark.parametrize("idle", [False, True])
@pytest.mark.parametrize(("agents", "tasks", "shown"), [(3, 4, 2), (4, 3, 2), (2, 5, 1), (3, 3, 3), (2, 3, 7)])
def test_agents_who_see_their_best_tasks_only_choose_among_these(agents, tasks, shown, idle):
    whole = AssignmentGame(agents=agents, tasks=tasks, num_envs=1)
    worth = whole.reset(seed=9).observation[0]
    seen = min(shown, tasks)
    joint = np.array(list(product(range(seen + idle), repeat=agents)))
    expected = []
    for actions in joint:
        env = AssignmentGame(agents=agents, tasks=tasks, shown=shown, idle=idle)
        step = env.reset(seed=9)
        pairs = step.observation[0].reshape(agents, seen, 2)
        order = np.argsort(-worth, 1)[:, :seen]
        np.testing.assert_array_equal(pairs[..., 1], order)
        np.testing.assert_array_equal(pairs[..., 0], np.take_along_axis(worth, order, 1))
        chosen = [tasks if action == seen else order[agent, action] for agent, action in enumerate(actions)]
        expected.append(paid(worth, chosen))
        after = env.step(actions[None])
        assert after.reward[0, 0] == pytest.approx(expected[-1], rel=1e-6)
        np.testing.assert_array_equal(after.final_observation, step.observation)
        assert after.observation.shape == step.observation.shape
        assert (after.observation != step.observation).any()
    env = AssignmentGame(agents=agents, tasks=tasks, shown=shown, idle=idle)
    env.reset(seed=9)
    assert env.spec.cardinalities == (seen + idle,) * agents
    assert len(env.action_names) == seen + idle
    assert float(env.optimal_return(1.0)[0]) == pytest.approx(max(expected), rel=1e-6)
    assert float(env.step(env.optimal_actions()).reward[0, 0]) == pytest.approx(max(expected), rel=1e-6)


def test_sixteen_of_a_thousand_tasks_leave_nearly_the_whole_optimum():
    best = []
    for shown in (None, 16):
        env = AssignmentGame(agents=1024, shown=shown)
        env.reset(seed=1)
        best.append(float(env.optimal_return(1.0)[0]))
    assert 0.999 * best[0] < best[1] <= best[0]


def test_every_episode_has_a_new_table_unless_it_is_fixed():
    env = AssignmentGame(num_envs=2)
    first = env.reset(seed=3)
    second = env.step(np.zeros((2, 4), int))
    np.testing.assert_array_equal(second.final_observation, first.observation)
    assert (second.observation != first.observation).all()
    assert (env.reset().observation != second.observation).all()
    np.testing.assert_array_equal(env.reset(seed=3).observation, first.observation)
    fixed = AssignmentGame(num_envs=2, fixed=True, table_seed=4)
    table = fixed.reset(seed=3).observation
    np.testing.assert_array_equal(table[0], table[1])
    for step in (fixed.step(np.zeros((2, 4), int)), fixed.reset(seed=8), fixed.reset()):
        np.testing.assert_array_equal(step.observation, table)
    other = AssignmentGame(num_envs=2, fixed=True, table_seed=5).reset(seed=3)
    assert (other.observation != table).all()


def test_a_hundred_agents_earn_what_the_text_says():
    env = AssignmentGame(agents=100, num_envs=16)
    step = env.reset(seed=4)
    assert step.state.shape == (16, 10_000)
    optimum = env.optimal_return(1.0)
    joint = step.observation.argmax(axis=2)
    selfish = env.step(joint)
    for row in range(16):
        assert selfish.reward[row, 99] == pytest.approx(paid(step.observation[row], joint[row]), rel=1e-5)
    random = env.step(np.random.default_rng(0).integers(100, size=(16, 100)))
    assert random.reward.mean() == pytest.approx(0.37, abs=0.02)
    assert selfish.reward.mean() == pytest.approx(0.63, abs=0.02)
    assert optimum.mean() == pytest.approx(0.98, abs=0.01)


def test_a_saved_state_is_small_whatever_the_tables():
    env = AssignmentGame(agents=50, num_envs=8)
    shown = env.reset(seed=5)
    saved = env.state_dict()
    assert set(saved) == {"options", "generator"}
    assert len(str(saved)) < 1000
    again = AssignmentGame(agents=50, num_envs=8).load_state_dict(saved)
    np.testing.assert_array_equal(again.observation, shown.observation)


def test_other_options_are_refused_on_loading():
    env = AssignmentGame(agents=3)
    env.reset(seed=6)
    saved = env.state_dict()
    for options in (
        {"agents": 4},
        {"agents": 3, "shown": 2},
        {"agents": 3, "idle": True},
        {"agents": 3, "table_seed": 1},
    ):
        other = AssignmentGame(**options)
        other.reset(seed=7)
        before = other._worth.copy()
        name, value = list(options.items())[-1]
        with pytest.raises(CheckpointError, match=f"this environment {name}={value}"):
            other.load_state_dict(saved)
        np.testing.assert_array_equal(other._worth, before)
    with pytest.raises(CheckpointError, match="the saved state is damaged"):
        env.load_state_dict(saved | {"generator": {"bit_generator": "PCG64"}})
    with pytest.raises(CheckpointError, match="the saved state is damaged"):
        env.load_state_dict(saved | {"options": 3})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"agents": 0}, "agents=0 is too small"),
        ({"tasks": 0}, "tasks=0 is too small"),
        ({"shown": 0}, "shown=0 is too small"),
        ({"table_seed": -1}, "table_seed=-1 is too small"),
        ({"agents": 1000, "num_envs": 1000}, "need tables of 3.7 GiB; use fewer"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=f"assignment_game: .*{message}"):
        AssignmentGame(**options)


def test_nothing_is_known_before_the_first_reset():
    env = AssignmentGame()
    for question in (env.state_dict, env.optimal_actions, lambda: env.optimal_return(0.9)):
        with pytest.raises(EnvError, match=r"call reset\(\) first"):
            question()
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="assignment_game: discount=2 must be between 0 and 1"):
        env.optimal_return(2)
