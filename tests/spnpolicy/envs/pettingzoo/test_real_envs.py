"""Environments of others: random play, masks respected, the same bits in this process and in workers."""

import numpy as np
import pytest

from spnpolicy.envs import check_env, make_env
from spnpolicy.envs.checks.guard import guarded
from spnpolicy.envs.foraging.lbforaging import parallel_env
from tests.spnpolicy.envs.env_cases import random_actions

GAMES = {
    "pettingzoo:mpe2.simple_spread_v3": ((5, 5, 5), 18, 54, 25),
    "pettingzoo:mpe2.simple_speaker_listener_v4": ((3, 5), 11, 14, 25),
    "pettingzoo:mpe2.simple_tag_v3": ((5, 5, 5, 5), 16, 62, 25),
    "foraging": ((6, 6), 15, 30, 50),
}


@pytest.mark.full
@pytest.mark.parametrize("name", GAMES)
def test_random_play_is_the_same_in_workers(name):
    alone = guarded(make_env(name, num_envs=3, workers=0))
    many = guarded(make_env(name, num_envs=3, workers=2))
    cardinalities, features, state, limit = GAMES[name]
    assert alone.spec == many.spec
    assert alone.spec[:4] == (cardinalities, features, state, True)
    assert alone.episode_limit == limit
    generator = np.random.default_rng(0)
    ends = 0
    try:
        step, twin = alone.reset(seed=9), many.reset(seed=9)
        for number in range(200):
            for field, a, b in zip(step._fields, step, twin, strict=True):
                np.testing.assert_array_equal(a, b, err_msg=f"{field} in step {number}")
            actions = random_actions(step, generator)
            step, twin = alone.step(actions), many.step(actions)
            ends += int((step.terminated | step.truncated).sum())
    finally:
        many.close()
    assert ends >= 3 * (200 // limit)
    assert alone.faults_total == many.faults_total == {}


@pytest.mark.filterwarnings("ignore:The old environment creation API:DeprecationWarning")
def test_rock_paper_scissors_shows_a_number_without_axes(caplog):
    """Its observation is an array of shape (), and its `state` an attribute and no method."""
    pytest.importorskip("pygame")
    name = "pettingzoo:pettingzoo.classic.rps_v2"
    env = make_env(name, num_envs=2)
    assert env.spec[:3] == ((3, 3), 4, 8)
    assert env.spec.observation_bounds == (0, 1)
    # nobody has chosen yet
    assert env.reset(seed=0).observation.tolist() == [[[0, 0, 0, 1]] * 2] * 2
    step = env.step(np.array([[0, 1], [2, 2]]))
    assert step.observation.argmax(-1).tolist() == [[1, 0], [2, 2]]
    assert step.reward.tolist() == [[-1, 1], [0, 0]]
    assert check_env(name, num_envs=2, episode_limit=10) is None
    assert not caplog.records


def test_speaker_is_padded_and_has_fewer_actions():
    step = make_env("pettingzoo:mpe2.simple_speaker_listener_v4", num_envs=2).reset(seed=0)
    assert not step.observation[:, 0, 3:].any()
    assert step.observation[:, 1, 3:].any()
    assert step.available_actions[0].tolist() == [[True] * 3 + [False] * 2, [True] * 5]


def test_foraging_ends_by_its_rules():
    """A lone piece of food is collected sooner or later, which terminates; the time limit truncates."""
    env = guarded(make_env("foraging", task="Foraging-5x5-2p-1f-v3", num_envs=8, rescale=False))
    step, generator = env.reset(seed=0), np.random.default_rng(0)
    terminated = truncated = 0
    totals = np.zeros(8)
    for _ in range(400):
        step = env.step(random_actions(step, generator))
        totals += step.reward.sum(axis=1)
        for row in np.flatnonzero(step.terminated):
            # the shares of those who collected the only food sum to 1
            assert totals[row] == pytest.approx(1.0)
            # absent food is shown as -1, -1, 0
            assert step.final_observation[row, 0, :3].tolist() == [-1, -1, 0]
        for row in np.flatnonzero(step.truncated):
            assert totals[row] == 0
            assert step.final_observation[row, 0, 2] > 0
        totals[step.terminated | step.truncated] = 0
        terminated += int(step.terminated.sum())
        truncated += int(step.truncated.sum())
    assert terminated > 10
    assert truncated > 10


def test_a_start_of_foraging_is_fixed_by_its_seed_alone():
    """The package keeps new agents off the places where they stood before, unless it is told to forget."""
    task = "Foraging-5x5-2p-1f-v3"
    used = parallel_env(task=task)
    for seed in range(200):
        fresh, again = (game.reset(seed=seed)[0] for game in (parallel_env(task=task), used))
        for agent in used.agents:
            np.testing.assert_array_equal(fresh[agent], again[agent], err_msg=f"seed {seed}")


def test_foraging_masks_are_what_the_rules_allow():
    env = make_env("foraging", num_envs=4, rescale=False)
    step, generator = env.reset(seed=2), np.random.default_rng(0)
    assert env.action_names == ("none", "north", "south", "west", "east", "load")
    for _ in range(60):
        for row in range(4):
            food = {
                tuple(step.observation[row, 0, 3 * f : 3 * f + 2])
                for f in range(3)
                if step.observation[row, 0, 3 * f] >= 0
            }
            for agent in range(2):
                y, x = step.observation[row, agent, 9:11]
                around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
                allowed = [0 <= i < 8 and 0 <= j < 8 and (i, j) not in food for i, j in around]
                loads = any(cell in food for cell in around)
                assert step.available_actions[row, agent].tolist() == [True, *allowed, loads]
        step = env.step(random_actions(step, generator))


def test_spread_pays_what_the_package_pays():
    from mpe2 import simple_spread_v3

    from spnpolicy.envs.pettingzoo.share import episode_seed

    env = make_env("pettingzoo:mpe2.simple_spread_v3", num_envs=2, N=2, local_ratio=0.3)
    step, generator = env.reset(seed=4), np.random.default_rng(0)
    direct = simple_spread_v3.parallel_env(N=2, local_ratio=0.3)
    shown, _ = direct.reset(seed=episode_seed(4, 1, 0))
    for number in range(25):
        np.testing.assert_array_equal(step.observation[1], np.stack(list(shown.values())))
        actions = random_actions(step, generator)
        shown, rewards, _, truncated, _ = direct.step(dict(zip(direct.agents, actions[1].tolist(), strict=True)))
        step = env.step(actions)
        np.testing.assert_array_equal(step.reward[1], np.array(list(rewards.values()), np.float32))
        if number < 24:
            assert not step.truncated[1]
    assert step.truncated[1]
    assert not step.terminated[1]
    assert all(truncated.values())
    np.testing.assert_array_equal(step.final_observation[1], np.stack(list(shown.values())))
