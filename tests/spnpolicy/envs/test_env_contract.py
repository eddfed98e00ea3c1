"""What every environment promises, checked on every row of `env_cases`."""

import json
import warnings

import numpy as np
import pytest
from env_cases import CASES, FORBIDDING, make_case, random_actions

from spnpolicy.base.errors import CheckpointError, ConfigError, EnvError
from spnpolicy.envs import ENVIRONMENTS, PREFIXES, check_env
from spnpolicy.envs.checks.guard import guarded
from spnpolicy.envs.parallel import parallel_env

with warnings.catch_warnings():
    # PettingZoo warns of its own imports
    warnings.simplefilter("ignore", DeprecationWarning)
    from pettingzoo.test import parallel_api_test, parallel_seed_test

ENVS = 5


@pytest.fixture(params=CASES)
def case(request):
    return request.param


@pytest.fixture
def env(case):
    return make_case(case, ENVS)


def play(env, steps, seed=0):
    """Yield (actions, step) of random play; it begins with action 0, which every environment here always allows."""
    generator = np.random.default_rng(seed)
    actions = np.zeros((ENVS, env.spec.num_agents), int)
    for _ in range(steps):
        step = env.step(actions)
        yield actions, step
        actions = random_actions(step, generator)


def play_on(env, step, steps):
    """Yield (actions, step) of random play that begins with what `step` allows."""
    generator = np.random.default_rng(1)
    for _ in range(steps):
        actions = random_actions(step, generator)
        step = env.step(actions)
        yield actions, step


def assert_same(first, second):
    for name, a, b in zip(first._fields, first, second, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


def test_every_registered_environment_has_a_row():
    named = {name for name, _ in CASES.values()}
    assert {name for name in named if ":" not in name} == set(ENVIRONMENTS)
    assert {name[: name.index(":") + 1] for name in named if ":" in name} == set(PREFIXES)


def check_shapes(env, step):
    spec, n, most = env.spec, env.spec.num_agents, max(env.spec.cardinalities)
    for name, shape, dtype in (
        ("observation", (ENVS, n, spec.observation_size), np.float32),
        ("state", (ENVS, spec.state_size), np.float32),
        ("reward", (ENVS, n), np.float32),
        ("terminated", (ENVS,), bool),
        ("truncated", (ENVS,), bool),
        ("available_actions", (ENVS, n, most), bool),
        ("final_observation", (ENVS, n, spec.observation_size), np.float32),
        ("final_state", (ENVS, spec.state_size), np.float32),
        ("final_available_actions", (ENVS, n, most), bool),
    ):
        array = getattr(step, name)
        assert array.shape == shape, name
        assert array.dtype == dtype, name
        assert np.isfinite(array).all(), name


def test_shapes_and_types(env):
    check_shapes(env, env.reset(seed=1))
    for _, step in play(env, 70):
        check_shapes(env, step)


def test_observations_keep_their_bounds(env):
    low, high = env.spec.observation_bounds
    env.reset(seed=2)
    for _, step in play(env, 60):
        for shown in (step.observation, step.final_observation):
            assert shown.min() >= low
            assert shown.max() <= high


def test_spec_agrees_with_itself(case, env):
    assert len(env.action_names) == max(env.spec.cardinalities)
    assert env.num_envs == ENVS
    step = env.reset(seed=0)
    for agent, count in enumerate(env.spec.cardinalities):
        assert step.available_actions[:, agent, :count].all() or case in FORBIDDING
        assert not step.available_actions[:, agent, count:].any()
    assert env.spec.has_action_masks == (not step.available_actions.all())


def test_reset_pays_nothing_and_ends_nothing(env):
    step = env.reset(seed=3)
    assert not step.reward.any()
    assert not step.terminated.any()
    assert not step.truncated.any()


@pytest.mark.one_in(2)
def test_final_fields_differ_only_where_an_episode_ended(env):
    env.reset(seed=5)
    ended_once = False
    for _, step in play(env, 250):
        ended = step.terminated | step.truncated
        ended_once |= ended.any()
        assert not (step.terminated & step.truncated).any()
        np.testing.assert_array_equal(step.observation[~ended], step.final_observation[~ended])
        np.testing.assert_array_equal(step.state[~ended], step.final_state[~ended])
    assert ended_once


@pytest.mark.one_in(2)
def test_no_episode_is_longer_than_the_limit(env):
    env.reset(seed=6)
    age = np.zeros(ENVS, int)
    for _, step in play(env, 250):
        age += 1
        np.testing.assert_array_equal(step.truncated, (age == env.episode_limit) & ~step.terminated)
        age[step.terminated | step.truncated] = 0


def test_same_seed_same_trajectory(case, env):
    twin = make_case(case, ENVS)
    first = [env.reset(seed=11)] + [step for _, step in play(env, 60)]
    second = [twin.reset(seed=11)] + [step for _, step in play(twin, 60)]
    for a, b in zip(first, second, strict=True):
        assert_same(a, b)


@pytest.mark.one_in(2)
def test_state_dict_resumes_exactly(env):
    env.reset(seed=12)
    *_, (_, before) = play(env, 17)
    saved = env.state_dict()
    expected = [step for _, step in play_on(env, before, 300)]
    env.reset(seed=99)
    shown = env.load_state_dict(saved)
    assert not shown.reward.any()
    np.testing.assert_array_equal(shown.available_actions, before.available_actions)
    for (_, step), want in zip(play_on(env, shown, 300), expected, strict=True):
        assert_same(step, want)
    # a state that was loaded once can be loaded again: nothing in it is shared with the environment
    assert_same(env.load_state_dict(saved), shown)


def test_state_dict_survives_json(case, env):
    env.reset(seed=13)
    *_, (_, before) = play(env, 9)
    saved = env.state_dict()
    text = json.dumps({k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in saved.items()})
    twin = make_case(case, ENVS)
    shown = twin.load_state_dict(json.loads(text))
    for (_, step), (_, want) in zip(play_on(twin, shown, 60), play_on(env, before, 60), strict=True):
        assert_same(step, want)


def test_damaged_state_is_refused(env):
    env.reset(seed=14)
    saved = env.state_dict()
    for name in saved:
        with pytest.raises(CheckpointError, match=env.name):
            env.load_state_dict({k: v for k, v in saved.items() if k != name})


def test_what_was_returned_never_changes(env):
    kept = [env.reset(seed=15)]
    copies = [[array.copy() for array in kept[0][:-1]]]
    for _, step in play(env, 40):
        kept.append(step)
        copies.append([array.copy() for array in step[:-1]])
    for step, copy in zip(kept, copies, strict=True):
        for array, before in zip(step[:-1], copy, strict=True):
            np.testing.assert_array_equal(array, before)


def test_step_before_reset_is_refused(env):
    with pytest.raises(EnvError, match=r"call reset\(\) first"):
        env.step(np.zeros((ENVS, env.spec.num_agents), int))


@pytest.mark.parametrize("value", [-1, 100])
def test_wrong_action_is_named(env, value):
    env.reset(seed=16)
    before = env.state_dict()
    actions = np.zeros((ENVS, env.spec.num_agents), int)
    actions[2, -1] = value
    agent, top = env.spec.num_agents - 1, env.spec.cardinalities[-1] - 1
    message = rf"{env.name}\[env 2\]: action of agent {agent} is {value}; it must be between 0 and {top}"
    with pytest.raises(EnvError, match=message):
        env.step(actions)
    np.testing.assert_equal(env.state_dict(), before)


def test_small_integer_actions_do_not_overflow(env):
    actions = random_actions(env.reset(seed=17), np.random.default_rng(0))
    saved = env.state_dict()
    steps = []
    for dtype in (np.int8, np.uint8, np.int64):
        env.load_state_dict(saved)
        steps.append(env.step(actions.astype(dtype)))
    assert_same(steps[0], steps[2])
    assert_same(steps[1], steps[2])


def test_negative_seed_is_refused(env):
    with pytest.raises(ConfigError, match="seed=-1 is too small"):
        env.reset(seed=-1)


@pytest.mark.one_in(2)
def test_the_door_check_finds_nothing(case):
    name, options = CASES[case]
    check_env(name, num_envs=3, **options)


def test_guarded_it_is_the_same(case, env):
    guard = guarded(make_case(case, ENVS))
    assert_same(guard.reset(seed=18), env.reset(seed=18))
    for (_, step), (_, want) in zip(play(guard, 60), play(env, 60), strict=True):
        assert_same(step, want)
    assert guard.faults_total == {}


# PettingZoo's tests play without looking at masks, so they cannot play games that forbid actions.
@pytest.mark.parametrize("case", [case for case in CASES if case not in (*FORBIDDING, "pettingzoo leaving")])
def test_pettingzoo_accepts_it(case):
    name, options = CASES[case]
    parallel_api_test(parallel_env(name, **options), num_cycles=120)
    parallel_seed_test(lambda: parallel_env(name, **options), num_cycles=40)
