"""What the guard passes on, counts and saves."""

import json

import numpy as np
import pytest

from spnpolicy.base.errors import CheckpointError, ConfigError
from spnpolicy.envs import BatchedEnv, Step, make_env
from spnpolicy.envs.checks.guard import guarded
from spnpolicy.envs.checks.inspection import Inspector
from tests.spnpolicy.chain_env import ChainEnv


def zeros(env):
    return np.zeros((env.num_envs, env.spec.num_agents), int)


def test_it_is_an_environment_and_passes_everything_on():
    env = make_env("coverage", num_envs=2)
    guard = guarded(env)
    assert isinstance(guard, BatchedEnv)
    for name in ("name", "num_envs", "spec", "episode_limit", "action_names"):
        assert getattr(guard, name) == getattr(env, name)
    guard.reset(seed=0)
    np.testing.assert_array_equal(guard.optimal_return(0.9), env.optimal_return(0.9))
    assert guard.render().shape[2] == 3
    assert guard.unguarded is env
    assert not hasattr(guard, "nothing_of_the_kind")
    assert not hasattr(guarded(make_env("matrix_game")), "render")


def test_the_same_arrays_come_out():
    env = make_env("coverage", num_envs=2)
    guard = guarded(env)
    guard.reset(seed=0)
    step = guard.step(zeros(env))
    assert step.final_observation is step.observation
    assert step.state.base is step.observation


@pytest.mark.usefixtures("as_installed")
def test_policies_are_checked():
    with pytest.raises(ConfigError, match="unknown on_fault 'drop'; did you mean 'drop-episode'"):
        guarded(make_env("coverage"), on_fault="drop")


def test_episodes_and_steps_are_counted_and_saved():
    env = guarded(make_env("coverage", num_envs=3, episode_limit=4, size=12))
    env.reset(seed=0)
    for _ in range(9):
        env.step(zeros(env))
    env.faults_total["reward"] = 2
    saved = env.state_dict()
    assert saved["episodes"].tolist() == [2, 2, 2]
    assert saved["ages"].tolist() == [1, 1, 1]
    expected = env.step(zeros(env))
    twin = guarded(make_env("coverage", num_envs=3, episode_limit=4, size=12))
    text = json.dumps(saved, default=lambda array: array.tolist())
    twin.load_state_dict(json.loads(text))
    assert twin.faults_total == {"reward": 2}
    np.testing.assert_array_equal(twin.step(zeros(env)).observation, expected.observation)
    assert twin.state_dict()["ages"].tolist() == [2, 2, 2]
    env.reset()
    assert env.state_dict()["episodes"].tolist() == [3, 3, 3]
    env.reset(seed=0)
    assert env.state_dict()["episodes"].tolist() == [0, 0, 0]


def test_new_episodes_after_a_state_that_cannot_be_restored():
    env = guarded(make_env("pettingzoo:mpe2.simple_spread_v3", num_envs=2))
    assert env.is_restorable is False
    env.reset(seed=0)
    for _ in range(30):
        env.step(zeros(env))
    saved = env.state_dict()
    env.load_state_dict(saved)
    now = env.state_dict()
    assert now["episodes"].tolist() == [2, 2]
    assert now["ages"].tolist() == [0, 0]
    # the environment counts its episodes the same way
    np.testing.assert_array_equal(now["env"]["episodes"], now["episodes"])


def test_damaged_states_are_refused():
    env = guarded(make_env("coverage", num_envs=2))
    env.reset(seed=0)
    saved = env.state_dict()
    for name in saved:
        with pytest.raises(CheckpointError, match="coverage"):
            env.load_state_dict({k: v for k, v in saved.items() if k != name})
    with pytest.raises(CheckpointError, match="counters are not those of 2 environments"):
        env.load_state_dict(saved | {"ages": np.zeros(3, int)})


def test_a_mask_without_leave_is_found():
    """An environment that promised to forbid nothing must not."""
    env = make_env("coverage", num_envs=2)
    step = env.reset(seed=0)
    mask = step.available_actions.copy()
    mask[1, 2, 4] = False
    inspector = Inspector(env.spec, 2)
    assert inspector.is_sound(step)
    bad = step._replace(available_actions=mask)
    assert not inspector.is_sound(bad)
    (problem,) = inspector.problems_of_rows(bad)
    assert (problem.env, problem.agent) == (1, 2)
    assert "forbids action 4, but spec.has_action_masks is False" in problem.text


@pytest.mark.parametrize("ending", ["terminated", "truncated", None])
def test_masks_may_be_empty_only_where_an_episode_ended(ending):
    env = ChainEnv(3, cardinalities=(2, 3), has_action_masks=True)
    step = env.reset(seed=0)
    over = np.array([False, True, False])
    ended = step._replace(**{ending: over}) if ending else step
    mask = step.final_available_actions.copy()
    mask[1, 1] = False
    inspector = Inspector(env.spec, 3)
    at_end = ended._replace(final_available_actions=mask)
    assert inspector.is_sound(at_end) == bool(ending)
    assert [problem[:3] for problem in inspector.problems_of_rows(at_end)] == (
        [] if ending else [("final_available_actions", "allows no action", 1)]
    )
    at_start = ended._replace(available_actions=mask)
    assert not inspector.is_sound(at_start)
    assert [problem.field for problem in inspector.problems_of_rows(at_start)] == ["available_actions"]


@pytest.mark.parametrize("field", ["state", "final_observation", "final_state"])
def test_arrays_that_only_look_alike_are_not_trusted(field):
    """A state that is no view, or a final observation of its own, is looked at as well."""
    env = make_env("coverage", num_envs=2)
    step = env.reset(seed=0)
    array = getattr(step, field).copy()
    array[(1,) * array.ndim] = np.nan
    bad = step._replace(**{field: array})
    inspector = Inspector(env.spec, 2)
    assert not inspector.is_sound(bad)
    assert [problem.field for problem in inspector.problems_of_rows(bad)] == [field]


def test_tuples_are_no_steps():
    step = make_env("coverage").reset(seed=0)
    inspector = Inspector(make_env("coverage").spec, 1)
    assert inspector.problem_of_batch(tuple(step)).text == "is a tuple; it must be a spnpolicy.envs.Step"
    assert inspector.problem_of_batch(Step(*step)) is None
