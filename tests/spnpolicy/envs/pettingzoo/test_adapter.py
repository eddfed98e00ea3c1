"""PettingZoo games as a batch: who leaves, what ends an episode, masks, spaces, seeds."""

import numpy as np
import pytest
from small_games import Masked, Pair, Spaces, Stateful

from spnpolicy.base.errors import CheckpointError, ConfigError, EnvError
from spnpolicy.envs import make_env
from spnpolicy.envs.pettingzoo.adapter import ParallelBatch
from spnpolicy.envs.pettingzoo.share import episode_seed
from tests.spnpolicy.envs.env_cases import random_actions

NAME = "pettingzoo:small_games.Pair"


def joint(env, a, b):
    return np.tile(np.array([[a, b]]), (env.num_envs, 1))


def test_what_observations_consist_of_can_be_declared():
    """The option takes JSON as it comes from the command line, and is checked against the observations."""
    own = {"name": "itself", "start": 0, "count": 1, "size": 1}
    rest = {"name": "rest", "start": 1, "count": 2, "size": 1}
    spec = make_env(NAME, entities={"own": own, "sets": [rest], "state_is_observations": True}).spec
    assert [part.name for part in spec.entities.parts] == ["itself", "rest"]
    for declared, message in (
        ({"own": own, "sets": []}, "entities ends at column 1, but an observation has 3 numbers"),
        ({"own": own, "sets": [rest | {"sise": 1}]}, "unknown setting 'sise'"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_env(NAME, entities=declared)


def test_agents_stand_in_fixed_rows_padded_with_zeros():
    env = make_env(NAME, num_envs=2)
    assert env.spec[:4] == ((2, 3), 3, 6, True)
    assert env.agent_names == ("a", "b")
    assert env.action_names == ("0", "1", "2")
    step = env.reset(seed=1)
    assert not step.observation[:, 1, 2].any()
    assert step.available_actions[0].tolist() == [[True, True, False], [True, True, True]]
    step = env.step(joint(env, 1, 2))
    np.testing.assert_allclose(step.reward, [[1.1, 2.1]] * 2)
    assert step.observation[:, :, 0].tolist() == [[1, 1], [1, 1]]
    assert step.state.base is step.observation


def test_every_episode_has_its_own_seed():
    env = make_env(NAME, num_envs=2, length=2)
    step = env.reset(seed=5)
    for episode in range(3):
        for row in range(2):
            expected = np.random.default_rng(episode_seed(5, row, episode)).random(3).astype(np.float32)
            np.testing.assert_array_equal(step.observation[row, 0, 1:], expected[1:])
        env.step(joint(env, 0, 0))
        step = env.step(joint(env, 0, 0))
    again = env.reset()
    expected = np.random.default_rng(episode_seed(5, 0, 4)).random(3).astype(np.float32)
    np.testing.assert_array_equal(again.observation[0, 0, 1:], expected[1:])


def test_whoever_left_sees_zeros_and_has_only_action_0():
    env = ParallelBatch(lambda: Pair(length=5, first_leaves=2), num_envs=1)
    env.reset(seed=0)
    env.step(joint(env, 1, 1))
    left = env.step(joint(env, 1, 1))
    assert left.available_actions[0].tolist() == [[True, False, False], [True, True, True]]
    assert left.observation[0, 0, 0] == 2
    assert left.reward[0, 0] == pytest.approx(1.2)
    with pytest.raises(EnvError, match=r"action 1 of agent 0 is not available; its mask allows \[0\]"):
        env.step(joint(env, 1, 1))
    after = env.step(joint(env, 0, 1))
    assert not after.observation[0, 0].any()
    assert after.reward[0].tolist() == pytest.approx([0.0, 1.3])
    assert not (after.terminated | after.truncated).any()
    env.step(joint(env, 0, 1))
    last = env.step(joint(env, 0, 1))
    assert last.terminated.tolist() == [True]
    assert last.available_actions[0].tolist() == [[True, True, False], [True, True, True]]


@pytest.mark.parametrize(
    ("options", "terminated"),
    [
        ({"length": 3}, True),
        ({"length": 3, "ends_by": "truncation"}, False),
        ({"length": 3, "first_leaves": 1}, True),
        ({"length": 3, "first_leaves": 1, "first_is_cut_off": True}, False),
        ({"length": 3, "first_leaves": 1, "ends_by": "truncation"}, False),
    ],
)
def test_an_episode_is_terminated_if_every_part_of_it_is(options, terminated):
    env = ParallelBatch(lambda: Pair(**options), num_envs=1)
    env.reset(seed=0)
    for _ in range(2):
        step = env.step(joint(env, 0, 0))
        assert not (step.terminated | step.truncated).any()
    step = env.step(joint(env, 0, 0))
    assert step.terminated.tolist() == [terminated]
    assert step.truncated.tolist() == [not terminated]
    assert step.final_observation[0, 1, 0] == 3
    assert step.observation[0, 1, 0] == 0


def test_masks_at_a_time_limit_say_what_would_have_been_possible():
    for options in ({"episode_limit": 3}, {"length": 3, "ends_by": "truncation"}):
        limit = options.pop("episode_limit", None)
        env = ParallelBatch(lambda options=options: Pair(**options), num_envs=1, episode_limit=limit)
        env.reset(seed=0)
        for _ in range(3):
            step = env.step(joint(env, 0, 0))
        assert step.truncated.all()
        assert step.final_available_actions[0].tolist() == [[True, True, False], [True, True, True]]


def test_the_limit_comes_from_the_environment_or_the_option():
    assert ParallelBatch(Stateful()).episode_limit == 4
    assert ParallelBatch(Stateful(), episode_limit=3).episode_limit == 3
    assert ParallelBatch(Pair()).episode_limit == 1000


def test_own_state_is_used():
    env = ParallelBatch(Stateful())
    assert env.spec.state_size == 2
    env.reset(seed=0)
    for _ in range(3):
        env.step(joint(env, 0, 0))
    last = env.step(joint(env, 0, 0))
    assert last.final_state.tolist() == [[4, -4]]
    assert last.state.tolist() == [[0, 0]]
    assert last.state.dtype == np.float32


def test_a_state_that_fails_is_named_and_replaced(caplog):
    class Broken(Stateful):
        def state(self):
            raise KeyError("map")

    env = ParallelBatch(Broken(), own_state=False)
    assert not caplog.messages
    env = ParallelBatch(Broken())
    assert env.reset(seed=0).state.shape == (1, env.spec.num_agents * env.spec.observation_size)
    assert len(caplog.messages) == 1
    assert "its state() fails (KeyError: 'map')" in caplog.text
    ParallelBatch(Pair())
    assert len(caplog.messages) == 1, "no state() at all is nothing to warn about"


def test_own_state_can_be_left_out():
    env = ParallelBatch(Stateful(), own_state=False)
    step = env.reset(seed=0)
    assert env.spec.state_size == env.spec.num_agents * env.spec.observation_size
    assert step.state.base is step.observation


@pytest.mark.parametrize("where", ["info", "observation"])
def test_masks_are_read_and_enforced(where):
    env = ParallelBatch(lambda: Masked(where=where), num_envs=2)
    step = env.reset(seed=0)
    generator = np.random.default_rng(0)
    for time in range(5):
        assert step.available_actions[:, 1].tolist() == [np.eye(3, dtype=bool)[time % 3].tolist()] * 2
        # the game itself asserts that the mask is respected
        step = env.step(random_actions(step, generator))
        assert step.discarded is None
    with pytest.raises(EnvError, match=r"action 0 of agent 1 is not available; its mask allows \[2\]"):
        env.step(joint(env, 0, 0))


def test_a_promise_is_kept_or_broken_aloud():
    env = ParallelBatch(lambda: Spaces("shifted"), agents_stay=True)
    assert not env.spec.has_action_masks
    assert env.reset(seed=0).available_actions.all()

    class Twins(Pair):
        def action_space(self, agent):
            return Pair.action_space(self, "a")

    env = ParallelBatch(lambda: Twins(first_leaves=2), agents_stay=True)
    env.reset(seed=0)
    env.step(joint(env, 0, 0))
    with pytest.raises(EnvError, match=r"step 2\]: a left early; set agents_stay=false"):
        env.step(joint(env, 0, 0))


def given(env, index):
    env.reset(seed=0)
    env.step(np.array([[index]]))
    return env._hands[0].share._games[0].env.given[0]


def test_continuous_actions_become_a_grid():
    env = ParallelBatch(Spaces("box"), bins=3)
    assert env.spec.cardinalities == (9,)
    assert env.action_names[0] == "(-1, 0)"
    assert env.action_names[5] == "(0, 3)"
    grid = [(x, y) for x in (-1.0, 0.0, 1.0) for y in (0.0, 1.5, 3.0)]
    for index, value in enumerate(grid):
        action = given(env, index)
        assert action.shape == (1, 2)
        assert action.dtype == np.float32
        np.testing.assert_array_equal(action, [value])
        assert Spaces("box").action_space("only").contains(action)


def test_several_choices_become_one():
    env = ParallelBatch(Spaces("multi"))
    assert env.spec.cardinalities == (6,)
    seen = [given(env, index) for index in range(6)]
    np.testing.assert_array_equal(seen, [(x, y) for x in (0, 1) for y in (5, 6, 7)])
    assert all(Spaces("multi").action_space("only").contains(action) for action in seen)
    assert [given(ParallelBatch(Spaces("shifted")), index) for index in range(3)] == [7, 8, 9]


def test_observations_become_vectors():
    env = ParallelBatch(Spaces("shifted", "box"))
    assert env.reset(seed=0).observation.tolist() == [[[0, 1, 2, 3]]]
    env = ParallelBatch(Spaces("shifted", "discrete"))
    assert env.reset(seed=0).observation.tolist() == [[[1, 0, 0, 0]]]
    assert env.step(np.array([[0]])).observation.tolist() == [[[0, 1, 0, 0]]]


def test_bounds_hold_for_all_that_is_shown():
    assert ParallelBatch(Pair).spec.observation_bounds == (-np.inf, np.inf)
    assert ParallelBatch(Spaces("shifted", "box")).spec.observation_bounds == (-10, 10)
    # those who have left are shown zeros
    assert ParallelBatch(Spaces("shifted", "positive")).spec.observation_bounds == (0, 3)
    assert ParallelBatch(Spaces("shifted", "negative")).spec.observation_bounds == (-3, 0)
    assert ParallelBatch(Spaces("shifted", "too large")).spec.observation_bounds == (0, np.inf)


def test_an_attribute_named_state_is_no_state(caplog):
    class Remembering(Spaces):
        state = {"only": 3}  # as in PettingZoo's rock-paper-scissors

    env = ParallelBatch(Remembering("shifted", "number"))
    assert env.spec.state_size == env.spec.observation_size == 4
    assert env.reset(seed=0).observation.tolist() == [[[1, 0, 0, 0]]]
    assert not caplog.records


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("action", "options", "message"),
    [
        ("box", {}, r"only has continuous actions, Box.*; give bins=5"),
        ("box", {"bins": 1}, "bins=1 is too small; it must be 2 or more"),
        ("box", {"bins": 101}, r"only would have 101 x 101 = 10,201 actions, more than 10,000; use fewer bins"),
        ("unbounded", {"bins": 3}, "the actions of only have no bounds"),
        ("huge", {}, r"101 x 100 = 10,100 actions, more than 10,000"),
        ("tuple", {}, r"the action space of only is Dict.*; it must be Discrete, MultiDiscrete or Box"),
        ("shifted", {"bins": 3}, "bins=3 is for continuous actions, and no agent has any"),
        ("shifted", {"num_envs": 2}, "num_envs=2 games cannot be made of one object"),
        ("shifted", {"workers": 1}, "workers=1 need the name of the environment"),
        ("shifted", {"timeout": 0}, "timeout=0 must be a number of seconds above 0"),
        ("shifted", {"episode_limit": 0}, "episode_limit=0 is too small"),
        ("shifted", {"agents_stay": 1}, "agents_stay=1 must be true or false"),
        ("shifted", {"own_state": None}, "own_state=None must be true or false"),
        ("shifted", {"colour": 1}, "unknown option 'colour'"),
    ],
)
def test_what_cannot_be_used_is_refused(action, options, message):
    with pytest.raises(ConfigError, match=f"pettingzoo:spaces: .*{message}"):
        ParallelBatch(Spaces(action), **options)


def test_strange_observation_spaces_are_refused():
    with pytest.raises(ConfigError, match="the observation space of only has a part that is Text"):
        ParallelBatch(Spaces("shifted", "text"))


def test_an_environment_without_state_dict_goes_on_with_new_episodes():
    class Forgetful(Pair):
        state_dict = load_state_dict = property()  # no such methods

    def make():
        return ParallelBatch(Forgetful, num_envs=2)

    env = make()
    assert not env.is_restorable
    env.reset(seed=3)
    for _ in range(8):
        env.step(joint(env, 0, 0))
    saved = env.state_dict()
    assert saved["restorable"] is False
    assert saved["episodes"].tolist() == [1, 1]
    twin = make()
    shown = twin.load_state_dict(saved)
    assert twin.state_dict()["episodes"].tolist() == [2, 2]
    # the episodes that would have come next, not those that have been
    for _ in range(4):
        step = env.step(joint(env, 0, 0))
    np.testing.assert_array_equal(shown.observation, step.observation)


def test_a_state_of_another_environment_is_refused():
    env, other = make_env(NAME, num_envs=2), make_env(NAME, num_envs=2, length=9)
    env.reset(seed=0)
    with pytest.raises(CheckpointError, match="was made with .*'length', 9|the saved state was made with"):
        other.load_state_dict(env.state_dict())


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_workers_change_nothing(workers):
    """Steps, states and what follows a loaded state are the same bit for bit, also across numbers of workers."""
    alone, many = (make_env(NAME, num_envs=5, workers=n, first_leaves=3) for n in (0, workers))
    generator = np.random.default_rng(0)
    try:
        step, twin = alone.reset(seed=8), many.reset(seed=8)
        for number in range(40):
            for field, a, b in zip(step._fields, step, twin, strict=True):
                np.testing.assert_array_equal(a, b, err_msg=f"{field} in step {number}")
            if number == 20:
                state = many.state_dict()
                np.testing.assert_equal(state, alone.state_dict())
                alone.reset(seed=1)
                twin = step = alone.load_state_dict(state)
                many.reset(seed=2)
                twin = many.load_state_dict(state)
            actions = random_actions(step, generator)
            step, twin = alone.step(actions), many.step(actions)
    finally:
        many.close()


def test_default_workers_follow_the_batch(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(4)), raising=False)
    counts = {n: len(make_env(NAME, num_envs=n)._hands) for n in (1, 8, 15, 16, 24, 64)}
    assert counts == {1: 1, 8: 1, 15: 1, 16: 2, 24: 3, 64: 4}


def test_a_closed_batch_can_be_used_again():
    env = make_env(NAME, num_envs=2, workers=2)
    first = env.reset(seed=1)
    env.close()
    again = env.reset(seed=1)
    np.testing.assert_array_equal(first.observation, again.observation)
    env.close()


def test_the_seeds_of_episodes_differ_and_are_fixed_for_all_time():
    seeds = {episode_seed(seed, row, episode) for seed in range(3) for row in range(20) for episode in range(20)}
    assert len(seeds) > 1190  # of 31 bits: two of 1,200 may meet by chance
    assert [episode_seed(5, 0, 0), episode_seed(5, 1, 0), episode_seed(5, 0, 1)] == [163869049, 1754758417, 1402645496]
