"""Every planted fault is caught at its step, with its place; under drop-episode none of it reaches a buffer."""

import numpy as np
import pytest
import torch
from broken_envs import (
    AT_ENV,
    AT_STEP,
    BATCH_FAULTS,
    ENVS,
    GAME_FAULTS,
    ROW_FAULTS,
    Restartable,
    Sound,
    put,
    spoiled,
)

from spnpolicy.base.errors import EnvError
from spnpolicy.data.stores import ReplayBuffer
from spnpolicy.envs import make_env
from spnpolicy.envs.checks.guard import guarded
from spnpolicy.envs.pettingzoo.share import episode_seed
from spnpolicy.training.episodes import EpisodeTracker

ZEROS = np.zeros((ENVS, 2), int)


def steps_until_error(env):
    """Return the number of the step that raised and the message; None and no message if none of 10 did."""
    env.reset(seed=7)
    for number in range(1, 11):
        try:
            env.step(ZEROS)
        except EnvError as error:
            return number, str(error)
    return None, ""


def game(fault, workers=0, **options):
    """Return a batch in which env 2 has the fault in step 5 of its first episode after reset(seed=7)."""
    name = "pettingzoo:broken_envs.Broken"
    seed = episode_seed(7, AT_ENV, 0)
    return make_env(name, num_envs=ENVS, workers=workers, fault=fault, seed=seed, **options)


def test_there_are_enough_faults():
    assert len(ROW_FAULTS) + len(BATCH_FAULTS) + len(GAME_FAULTS) >= 40


def test_without_a_fault_nothing_is_found():
    assert steps_until_error(guarded(Sound())) == (None, "")
    assert steps_until_error(guarded(game("none"))) == (None, "")


@pytest.mark.parametrize("fault", ROW_FAULTS)
def test_fault_of_one_environment_is_caught_at_its_step(fault):
    spoil, words = ROW_FAULTS[fault]
    number, message = steps_until_error(guarded(spoiled(Sound, spoil)))
    assert number == AT_STEP
    assert message.startswith(f"sound[env {AT_ENV}, episode 0, step {AT_STEP}]: {words}")


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("policy", ["raise", "drop-episode"])
@pytest.mark.parametrize("fault", BATCH_FAULTS)
def test_fault_of_the_whole_batch_is_an_error_under_any_policy(fault, policy):
    spoil, words = BATCH_FAULTS[fault]
    number, message = steps_until_error(guarded(spoiled(Restartable, spoil), on_fault=policy))
    assert number == AT_STEP
    assert message.startswith(f"sound[step {AT_STEP}]: {words}")


@pytest.mark.parametrize("fault", GAME_FAULTS)
def test_fault_of_a_game_is_caught_at_its_step(fault):
    env = guarded(game(fault))
    number, message = steps_until_error(env)
    assert number == AT_STEP
    assert message.startswith(f"pettingzoo:broken_envs.Broken[env {AT_ENV}, episode 0, step {AT_STEP}]: ")
    assert GAME_FAULTS[fault] in message


@pytest.mark.parametrize("fault", ["nan reward", "no observation", "stranger"])
def test_fault_in_a_worker_reads_the_same(fault):
    env = guarded(game(fault, workers=2))
    number, message = steps_until_error(env)
    env.close()
    assert (number, message) == steps_until_error(guarded(game(fault)))
    assert GAME_FAULTS[fault] in message


def play_into_buffer(env, steps=30):
    """Play and return the buffer, the steps and the lengths of the finished episodes."""
    buffer = ReplayBuffer(1000, env.spec, torch.Generator().manual_seed(0))
    tracker = EpisodeTracker(ENVS, 0.9)
    before = env.reset(seed=7)
    seen, lengths = [before], []
    for _ in range(steps):
        following = env.step(ZEROS)
        buffer.add(before, ZEROS, following)
        lengths += tracker.add(following).lengths.tolist()
        seen.append(following)
        before = following
    return buffer, seen, lengths


def assert_nothing_bad_is_kept(buffer, seen):
    for name, column in buffer.state_dict()["columns"].items():
        assert torch.isfinite(column.float()).all(), name
        if name.endswith("available_actions"):
            assert column.any(-1).all(), name
    for step in seen:
        for name, array in zip(step._fields[:-1], step, strict=False):
            assert np.isfinite(array).all(), name
        assert step.available_actions.any(-1).all()


@pytest.mark.parametrize("fault", ROW_FAULTS)
def test_dropped_episode_of_one_environment_leaves_nothing_behind(fault):
    spoil, words = ROW_FAULTS[fault]
    reported = []
    env = guarded(spoiled(Restartable, spoil), on_fault="drop-episode", report=reported.append)
    buffer, seen, lengths = play_into_buffer(env)
    assert_nothing_bad_is_kept(buffer, seen)
    expected = np.zeros(ENVS, bool)
    expected[AT_ENV] = True
    for number, step in enumerate(seen):
        assert (step.discarded is None) == (number != AT_STEP)
    np.testing.assert_array_equal(seen[AT_STEP].discarded, expected)
    assert len(buffer) == 30 * ENVS - 1
    # 30 steps in episodes of 8: three each, and in env 2 as well, whose count begins anew at step 5
    assert lengths == [8] * 12
    assert [(fault.env, fault.episode, fault.step) for fault in reported] == [(AT_ENV, 0, AT_STEP)]
    assert words in reported[0].message
    assert env.faults_total == {reported[0].field: 1}


@pytest.mark.parametrize("fault", GAME_FAULTS)
def test_dropped_episode_of_a_game_leaves_nothing_behind(fault):
    reported = []
    env = guarded(game(fault), on_fault="drop-episode", report=reported.append)
    buffer, seen, lengths = play_into_buffer(env, steps=26)
    assert_nothing_bad_is_kept(buffer, seen)
    assert [number for number, step in enumerate(seen) if step.discarded is not None] == [AT_STEP]
    assert seen[AT_STEP].discarded.tolist() == [False, False, True, False]
    assert len(buffer) == 26 * ENVS - 1
    assert lengths == [20] * 4
    # the game of env 2 began anew: the first number that is seen counts its steps
    assert seen[AT_STEP].observation[:, 0, 0].tolist() == [5, 5, 0, 5]
    assert seen[AT_STEP + 1].observation[:, 0, 0].tolist() == [6, 6, 1, 6]
    assert [(fault.env, fault.episode, fault.step) for fault in reported] == [(AT_ENV, 0, AT_STEP)]
    assert GAME_FAULTS[fault] in reported[0].message


def test_a_bad_end_needs_no_restart():
    """Where the episode ends with the fault, the next one has begun already, also without a method to restart."""
    env = guarded(spoiled(Sound, put("reward", (2, 0), np.nan), at_step=8), on_fault="drop-episode")
    buffer, seen, lengths = play_into_buffer(env)
    assert_nothing_bad_is_kept(buffer, seen)
    np.testing.assert_array_equal(seen[8].discarded, [False, False, True, False])
    assert lengths == [8] * 11


def test_what_cannot_be_restarted_is_named():
    env = guarded(spoiled(Sound, put("reward", (2, 0), np.nan)), on_fault="drop-episode")
    number, message = steps_until_error(env)
    assert number == AT_STEP
    assert "env 2 must be started anew without the others, and Spoiled has no method restart(rows)" in message


def test_a_bad_start_is_dropped_too():
    env = guarded(spoiled(Restartable, put("observation", (1, 0, 0), np.nan), at_step=0), on_fault="drop-episode")
    step = env.reset(seed=3)
    assert np.isfinite(step.observation).all()
    assert np.isfinite(step.final_observation).all()
    assert step.discarded is None
    assert env.faults_total == {"observation": 1}
    with pytest.raises(EnvError, match=r"sound\[env 1, episode 0, step 0\]: observation of agent 0, entry 0, is nan\."):
        guarded(spoiled(Sound, put("observation", (1, 0, 0), np.nan), at_step=0)).reset(seed=3)


def test_endless_restarts_end():
    class Hopeless(Restartable):
        def restart(self, rows):
            return put("state", (0, 0), np.nan)(super().restart(rows))

    env = guarded(spoiled(Hopeless, put("reward", (2, 0), np.nan)), on_fault="drop-episode")
    number, message = steps_until_error(env)
    assert number == AT_STEP
    assert "sound[env 2]: state is nan after 3 restarts in a row" in message


def test_two_environments_at_once():
    def spoil(step):
        return put("reward", (3, 1), np.inf)(put("observation", (0, 0, 0), np.nan)(step))

    reported = []
    env = guarded(spoiled(Restartable, spoil), on_fault="drop-episode", report=reported.append)
    buffer, seen, _ = play_into_buffer(env)
    assert_nothing_bad_is_kept(buffer, seen)
    np.testing.assert_array_equal(seen[AT_STEP].discarded, [True, False, False, True])
    assert env.faults_total == {"observation": 1, "reward": 1}
    assert len(buffer) == 30 * ENVS - 2
