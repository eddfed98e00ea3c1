"""Foraging as array operations follows the package lbforaging step by step, and starts like it."""

import numpy as np
import pytest

from spnpolicy.base.errors import CheckpointError, ConfigError, EnvError
from spnpolicy.envs.checks.door import check_env
from spnpolicy.envs.foraging.arrays import LOAD, ForagingArrays
from spnpolicy.envs.foraging.lbforaging import parallel_env
from tests.spnpolicy.envs.env_cases import foraging_at

TASKS = ("Foraging-8x8-2p-3f-coop-v3", "Foraging-5x5-2p-1f-v3", "Foraging-6x6-4p-2f-v3", "Foraging-7x7-3p-3f-coop-v3")


def state_of(game):
    env = game._env
    players = [[*map(int, p.position), int(p.level)] for p in env.players]
    food = [[r, c, int(env.field[r, c])] for r, c in np.argwhere(env.field).tolist()]
    food += [[0, 0, 0]] * (env.max_num_food - len(food))
    return np.array([players]), np.array([food])


def order_matters(step, env, actions):
    """Whether those who load stand next to several foods: then the package's result depends on the order of a set."""
    loading = (actions[0] == LOAD) & step.available_actions[0, :, LOAD]
    food = env._food[0][env._food[0, :, 2] > 0]
    distance = np.abs(env._players[0, loading, None, :2] - food[None, :, :2]).sum(-1)
    return loading.sum() > 1 and (distance == 1).any(0).sum() > 1


def eager(rng, env, masks):
    """Random play that mostly walks to the first food and loads; forbidden actions too, which must do nothing."""
    actions = rng.integers(0, 6, (1, len(masks)))
    for agent, mask in enumerate(masks):
        row, column = env._food[0][env._food[0, :, 2].argmax(), :2] - env._players[0, agent, :2]
        steps = [1 if row < 0 else 2] * int(row != 0) + [3 if column < 0 else 4] * int(column != 0)
        if rng.random() < 0.7:
            actions[0, agent] = LOAD if mask[LOAD] else rng.choice(steps)
    return actions


@pytest.mark.one_in(2)
@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("task", TASKS)
def test_follows_the_package_step_by_step(task, rescale):
    rng = np.random.default_rng(5)
    env = ForagingArrays(task=task, rescale=rescale)
    game = parallel_env(task=task, rescale=rescale)
    compared = paid = 0
    for episode in range(25):
        observations, infos = game.reset(seed=episode)
        step = foraging_at(env, *state_of(game))
        while game.agents:
            masks = np.stack([infos[a]["action_mask"] for a in game.possible_agents]).astype(bool)
            np.testing.assert_array_equal(step.available_actions[0], masks)
            shown = np.stack([observations[a] for a in game.possible_agents])
            np.testing.assert_allclose(step.observation[0], shown, atol=1e-6)
            actions = eager(rng, env, masks)
            if order_matters(step, env, actions):
                actions[0, actions[0] == LOAD] = 0
            observations, rewards, terminations, truncations, infos = game.step(
                dict(zip(game.possible_agents, actions[0].tolist(), strict=True))
            )
            step = env.step(actions)
            np.testing.assert_allclose(step.reward[0], list(rewards.values()), atol=1e-6)
            assert step.terminated[0] == any(terminations.values())
            assert step.truncated[0] == any(truncations.values())
            final = np.stack([observations[a] for a in game.possible_agents])
            np.testing.assert_allclose(step.final_observation[0], final, atol=1e-6)
            compared, paid = compared + 1, paid + (step.reward > 0).any()
            if step.terminated[0] or step.truncated[0]:
                break
    assert compared > 100
    assert paid > 5


def test_two_who_load_together_share_and_one_alone_fails():
    env = ForagingArrays()
    food = np.array([[[3, 3, 3], [5, 5, 3], [6, 2, 3]]])
    players = np.array([[[3, 2, 1], [2, 3, 2]]])
    foraging_at(env, players, food)
    alone = env.step(np.array([[LOAD, 0]]))
    assert alone.reward.tolist() == [[0.0, 0.0]]
    together = env.step(np.array([[LOAD, LOAD]]))
    np.testing.assert_allclose(together.reward, [[1 * 3 / (3 * 9), 2 * 3 / (3 * 9)]], rtol=1e-6)
    assert not together.terminated[0]
    foraging_at(env, players, np.array([[[3, 3, 3], [0, 0, 0], [0, 0, 0]]]), age=49)
    last = env.step(np.array([[LOAD, LOAD]]))
    assert last.reward.sum() == pytest.approx(1.0)
    assert last.terminated[0]
    assert not last.truncated[0]


def test_two_who_load_different_food_do_not_help_each_other():
    env = ForagingArrays()
    food = np.array([[[3, 3, 3], [5, 5, 3], [6, 2, 3]]])
    foraging_at(env, np.array([[[3, 2, 1], [5, 4, 2]]]), food)
    assert env.step(np.array([[LOAD, LOAD]])).reward.tolist() == [[0.0, 0.0]]
    # with enough of a level each is paid for its own
    foraging_at(env, np.array([[[3, 2, 3], [5, 4, 3]]]), food)
    np.testing.assert_allclose(env.step(np.array([[LOAD, LOAD]])).reward, [[1 / 3, 1 / 3]], rtol=1e-6)


def test_starts_are_those_of_the_package_in_distribution():
    """False-alarm rate 1e-6: each of 64 cells is compared by a normal test at five standard deviations or more."""
    count = 2500
    env = ForagingArrays(num_envs=count)
    env.reset(seed=3)
    ours = np.zeros((2, 8, 8))
    np.add.at(ours[0], tuple(env._food[..., :2].reshape(-1, 2).T), 1)
    np.add.at(ours[1], tuple(env._players[..., :2].reshape(-1, 2).T), 1)
    theirs = np.zeros((2, 8, 8))
    game = parallel_env()
    levels = []
    for episode in range(count):
        game.reset(seed=episode)
        theirs[0] += game._env.field > 0
        for player in game._env.players:
            theirs[1][tuple(player.position)] += 1
            levels.append(player.level)
    deviation = np.sqrt(np.maximum(ours + theirs, 1))
    assert (np.abs(ours - theirs) < 5.6 * deviation).all()
    assert ours[0][0].sum() == 0  # food never lies at the edge
    assert abs(np.mean(levels) - env._players[..., 2].mean()) < 5 * 0.5 * np.sqrt(2 / len(levels))
    np.testing.assert_array_equal(env._food[..., 2], env._players[..., 2].sum(-1)[:, None].repeat(3, 1))


def test_food_has_room_around_it():
    env = ForagingArrays(task="Foraging-8x8-2p-4f-v3", num_envs=500)
    env.reset(seed=1)
    for food, players in zip(env._food, env._players, strict=True):
        cells = [tuple(row[:2]) for row in food if row[2]]
        assert len(cells) >= 2
        for a in cells:
            assert a not in {tuple(player[:2]) for player in players}
            for b in cells:
                distance = sorted((abs(a[0] - b[0]), abs(a[1] - b[1])))
                assert a == b or (distance[1] > 1 and distance != [0, 2])


def test_keeps_the_protocol_and_resumes_exactly():
    check_env("foraging_arrays", task="Foraging-5x5-2p-1f-v3")
    env = ForagingArrays(num_envs=7)
    step = env.reset(seed=2)
    rng = np.random.default_rng(0)
    for _ in range(60):
        step = env.step(rng.integers(0, 6, (7, 2)))
    other = ForagingArrays(num_envs=7)
    shown = other.load_state_dict(env.state_dict())
    np.testing.assert_array_equal(shown.observation, step.observation)
    for _ in range(60):
        actions = rng.integers(0, 6, (7, 2))
        for ours, theirs in zip(env.step(actions)[:9], other.step(actions)[:9], strict=True):
            np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(CheckpointError, match="another task or num_envs"):
        ForagingArrays(num_envs=6).load_state_dict(env.state_dict())
    with pytest.raises(CheckpointError, match="damaged"):
        other.load_state_dict({})


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "Foraging-2s-8x8-2p-3f-v3"}, "unknown task .*run as 'foraging'"),
        ({"task": "Foraging-8x9-2p-3f-v3"}, "square grid"),
        ({"task": 3}, "unknown task 3"),
        ({"task": "Foraging-4x4-2p-1f-v3"}, "5x5 or more"),
        ({"rescale": 1}, "rescale=1 must be true or false"),
        ({"num_envs": 0}, "num_envs=0 is too small"),
    ],
)
def test_refuses_bad_options(options, message):
    with pytest.raises(ConfigError, match=message):
        ForagingArrays(**options)
    with pytest.raises(EnvError, match="call reset"):
        ForagingArrays().step(np.zeros((1, 2), int))


def test_draws_a_picture():
    env = ForagingArrays()
    env.reset(seed=0)
    picture = env.render(0)
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10
