import numpy as np
import pytest
import torch

from spnpolicy.base.errors import ConfigError, EnvError
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.data.stores import ReplayBuffer
from tests.spnpolicy.chain_env import ChainEnv


def numbered_step(number, envs=3, agents=2, shared_state=False):
    observation = (number * 100 + np.arange(envs * agents * 2.0)).reshape(envs, agents, 2).astype(np.float32)
    final = observation + 0.5
    state = observation.reshape(envs, -1) if shared_state else observation[:, 0, :1].copy()
    final_state = final.reshape(envs, -1) if shared_state else final[:, 0, :1].copy()
    mask = np.ones((envs, agents, 2), dtype=bool)
    done = np.full(envs, number % 2 == 0)
    reward = np.full((envs, agents), float(number), dtype=np.float32)
    return Step(observation, state, reward, done, ~done, mask, final, final_state, mask)


def everything(replay):
    """All rows in the order of storage, by sampling with a generator that yields every index."""
    state = replay.state_dict()
    return {name: rows.numpy() for name, rows in state["columns"].items()}


def filled(capacity, steps, **options):
    size = 4 if options.get("shared_state") else 1
    replay = ReplayBuffer(capacity, EnvSpec((2, 2), 2, size, False), torch.Generator().manual_seed(0))
    for number in range(steps):
        actions = np.full((3, 2), number % 2)
        replay.add(numbered_step(number, **options), actions, numbered_step(number + 1, **options))
    return replay


def test_wraps_around_and_keeps_the_newest_rows():
    replay = filled(capacity=7, steps=4)
    assert len(replay) == 7
    # 12 rows went into 7 places: rows 7..11 are in places 0..4, rows 5 and 6 in places 5 and 6.
    source = [7, 8, 9, 10, 11, 5, 6]
    expected = [100.0 * (row // 3) + 4.0 * (row % 3) for row in source]
    columns = everything(replay)
    np.testing.assert_array_equal(columns["observation"][:, 0, 0], expected)
    np.testing.assert_array_equal(columns["next_observation"][:, 0, 0], [value + 100.5 for value in expected])
    np.testing.assert_array_equal(columns["reward"][:, 0], [row // 3 + 1.0 for row in source])
    np.testing.assert_array_equal(columns["terminated"], [(row // 3 + 1) % 2 == 0 for row in source])


def test_sampled_fields_belong_to_one_transition():
    batch = filled(capacity=100, steps=5).draw(64)
    number = (batch.observation[:, 0, 0] // 100).long()
    assert torch.equal(batch.actions, (number % 2)[:, None].expand(-1, 2))
    assert torch.equal(batch.reward[:, 0], number + 1.0)
    assert torch.equal(batch.next_observation, batch.observation + 100.5)
    assert torch.equal(batch.next_state, batch.next_observation[:, 0, :1])
    assert batch.available_actions.all()
    assert batch.available_actions.shape == (64, 2, 2)


@pytest.mark.parametrize("ending", ["terminated", "truncated"])
def test_time_limits_are_not_ends_and_final_observations_are_kept(ending):
    env = ChainEnv(4, ending)
    replay = ReplayBuffer(100, env.spec, torch.Generator().manual_seed(0))
    step = env.reset(seed=0)
    for _ in range(6):
        following = env.step(np.zeros((4, 2), dtype=np.int64))
        replay.add(step, np.zeros((4, 2), dtype=np.int64), following)
        step = following
    batch = replay.draw(200)
    in_b = batch.observation[:, 0, 1] == 1
    assert in_b.any()
    assert not in_b.all()
    # Whatever happened, B comes next: the first observation of the following episode (A) must not appear.
    assert (batch.next_observation[..., 1] == 1).all()
    assert (batch.next_state[:, 1] == 1).all()
    assert torch.equal(batch.terminated, in_b if ending == "terminated" else torch.zeros_like(in_b))
    # Agent 0 has two actions, the third does not exist.
    assert batch.available_actions[0].tolist() == [[True, True, False], [True, True, True]]


def test_a_state_that_is_the_observation_is_not_stored_twice():
    replay = filled(capacity=20, steps=4, shared_state=True)
    assert "state" not in replay.state_dict()["columns"]
    batch = replay.draw(8)
    assert torch.equal(batch.state, batch.observation.reshape(8, -1))
    assert torch.equal(batch.next_state, batch.next_observation.reshape(8, -1))
    step = numbered_step(0, shared_state=True)
    replay.add(step._replace(state=step.state.copy()), np.zeros((3, 2), dtype=np.int64), step)
    with pytest.raises(EnvError, match="no longer is"):
        replay.add(step._replace(state=step.state + 1), np.zeros((3, 2), dtype=np.int64), step)


def test_masks_are_stored_where_the_environment_has_them():
    env = ChainEnv(16, has_action_masks=True)
    replay = ReplayBuffer(64, env.spec, torch.Generator().manual_seed(0))
    before, after = env.reset(seed=1), env.step(np.zeros((16, 2), dtype=np.int64))
    replay.add(before, np.zeros((16, 2), dtype=np.int64), after)
    columns = everything(replay)
    np.testing.assert_array_equal(columns["available_actions"], before.available_actions)
    np.testing.assert_array_equal(columns["next_available_actions"], after.final_available_actions)


def test_state_round_trip_goes_on_identically():
    first = filled(capacity=7, steps=4)
    second = ReplayBuffer(7, EnvSpec((2, 2), 2, 1, False), torch.Generator().manual_seed(9))
    second.load_state_dict(first.state_dict())
    first._generator.manual_seed(9)
    for replay in (first, second):
        replay.add(numbered_step(9), np.zeros((3, 2), dtype=np.int64), numbered_step(10))
    assert len(first) == len(second)
    ours, theirs = first.draw(32), second.draw(32)
    assert all(torch.equal(a, b) for a, b in zip(ours[:9], theirs[:9], strict=True))
    assert ours[9:] == theirs[9:] == (None, None, None)


def test_errors_say_what_to_do():
    spec = EnvSpec((2, 2), 2, 1, False)
    with pytest.raises(ConfigError, match="empty"):
        ReplayBuffer(4, spec, torch.Generator()).draw(1)
    with pytest.raises(ConfigError, match="at least 3"):
        ReplayBuffer(2, spec, torch.Generator()).add(numbered_step(0), np.zeros((3, 2), dtype=int), numbered_step(1))
    with pytest.raises(ConfigError, match="at least 1"):
        ReplayBuffer(0, spec, torch.Generator())
