"""Trajectories keep order, wrap around, mark what failed, and come back from a checkpoint."""

import numpy as np
import pytest
import torch

from spnpolicy.base.errors import ConfigError
from spnpolicy.data.protocol import Window
from spnpolicy.data.rewards import RewardScale
from spnpolicy.data.stores import Trajectories
from tests.spnpolicy.chain_env import ChainEnv

ENVS = 3


def fill(store, steps, start=0, failed=()):
    """Rewards are 100 * time + env; the chain ends every second step."""
    env = ChainEnv(ENVS, "truncated")
    step = env.reset()
    for time in range(start, start + steps):
        after = env.step(np.zeros((ENVS, 2), np.int64))
        reward = (100.0 * time + np.arange(ENVS))[:, None].repeat(2, 1).astype(np.float32)
        discarded = np.array([(time, row) in failed for row in range(ENVS)])
        after = after._replace(reward=reward, discarded=discarded if discarded.any() else None)
        memory = torch.full((ENVS, 2, 4), float(time))
        store.add(step, np.full((ENVS, 2), time % 2), after, memory)
        step = after
    return store


def new(capacity, length=None, seed=0, burn_in=0):
    return Trajectories(capacity, torch.Generator().manual_seed(seed), length, burn_in)


def test_the_latest_steps_come_in_order_also_around_the_end():
    batch = fill(new(4), 13).draw(1)
    assert isinstance(batch, Window)
    assert batch.reward[:, :, 0].tolist() == [[100.0 * t + row for row in range(ENVS)] for t in (9, 10, 11, 12)]
    assert batch.memory.shape == (ENVS, 2, 4)
    assert (batch.memory == 9.0).all()
    assert batch.ended.tolist() == [[t % 2 == 1] * ENVS for t in (9, 10, 11, 12)]
    assert not batch.terminated.any()
    assert batch.valid.all()
    # After a cut the next observation is the last one of the episode, B, and not the first one of the next.
    assert (batch.next_observation[..., 1] == 1.0).all()
    with pytest.raises(ConfigError, match="newest 6 steps were asked for, but only 5"):
        fill(new(6), 5).draw(1)


def test_windows_are_consecutive_steps_of_one_environment():
    batch = fill(new(7, length=3), 20).draw(1200)
    time, row = batch.reward[0, :, 0] // 100, batch.reward[0, :, 0] % 100
    assert torch.equal(batch.reward[..., 0], (time + torch.arange(3)[:, None]) * 100 + row)
    assert torch.equal(batch.memory[:, 0, 0], time)
    # Every start and every environment is drawn: 400 draws from 15, the chance to miss one is below 2e-11.
    assert set(time.int().tolist()) == {13, 14, 15, 16, 17}
    assert set(row.int().tolist()) == {0, 1, 2}
    assert fill(new(7, length=3), 2).draw(15).reward.shape == (2, 5, 2)
    with pytest.raises(ConfigError, match="nothing has been stored"):
        new(7, length=1).draw(1)
    with pytest.raises(ConfigError, match="at least 1"):
        new(0)


def test_rows_that_only_warm_up_the_memory_come_first_and_are_not_valid():
    batch = fill(new(9, length=3, burn_in=2), 20, failed={(14, 1)}).draw(900)
    time, row = batch.reward[0, :, 0] // 100, batch.reward[0, :, 0] % 100
    assert batch.reward.shape == (5, 300, 2), "as many windows as without them"
    assert torch.equal(batch.reward[..., 0], (time + torch.arange(5)[:, None]) * 100 + row)
    assert torch.equal(batch.memory[:, 0, 0], time), "what was remembered before the first of them"
    assert not batch.valid[:2].any()
    failed = batch.reward[..., 0] == 1401.0
    assert torch.equal(batch.valid[2:], ~failed[2:])
    # What is learned from looks as far ahead as ever.
    cut = batch.ended.clone()
    cut[:-1] |= failed[1:]
    cut[-1] = True
    assert torch.equal(batch.cut[2:], cut[2:])
    assert fill(new(9, length=3), 5).draw(3).valid.all(), "what is stored stays valid"
    for steps, warming in ((4, 1), (3, 0), (2, 0)):
        batch = fill(new(9, length=3, burn_in=2), steps).draw(3)
        assert batch.valid[:, 0].tolist() == [False] * warming + [True] * (steps - warming)


def test_what_failed_is_marked_and_ends_the_episode():
    batch = fill(new(6), 6, failed={(2, 1)}).draw(1)
    assert batch.valid.sum() == 6 * ENVS - 1
    assert not batch.valid[2, 1]
    assert batch.ended[2, 1]
    # A return stops at every end, at the end of the window, and before what failed.
    cut = batch.ended.clone()
    cut[1, 1] = cut[-1] = True
    assert torch.equal(batch.cut, cut)


def test_goes_on_identically_from_a_state():
    first = fill(new(5, length=4), 8)
    second = new(5, length=4, seed=9)
    second.load_state_dict(first.state_dict())
    second._generator.set_state(first._generator.get_state())
    for store in (first, second):
        fill(store, 2, start=8)
    for a, b in zip(first.draw(36), second.draw(36), strict=True):
        assert torch.equal(a, b)


def test_standardised_rewards_have_the_moments_of_all_that_were_seen():
    rng = np.random.default_rng(0)
    scale, seen = RewardScale(), []
    step = ChainEnv(4).reset()
    for index in range(30):
        reward = rng.normal(5.0, 3.0, (4, 2)).astype(np.float32)
        failed = np.array([False, index == 3, False, False])
        scale.observe(step._replace(reward=reward, discarded=failed if failed.any() else None))
        seen.append(reward[~failed])
    values = np.concatenate(seen).astype(np.float64)
    assert scale.mean == pytest.approx(values.mean())
    assert float(scale(torch.tensor(values.max()))) == pytest.approx((values.max() - values.mean()) / values.std())
    other = RewardScale()
    other.load_state_dict(scale.state_dict())
    assert other.state_dict() == scale.state_dict()
    same = RewardScale()
    same.observe(step._replace(reward=np.full((4, 2), 2.0, np.float32)))
    assert float(same(torch.tensor(3.0))) == pytest.approx(1.0)
