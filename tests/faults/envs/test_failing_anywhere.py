"""Environments in which every episode fails, in any part and at any step: door and guard name the true cause."""

import itertools

import numpy as np
import pytest
from broken_envs import ANYWHERE

from spnpolicy.base.errors import EnvError
from spnpolicy.envs import check_env, make_env
from spnpolicy.envs.checks.guard import guarded

NAME = "pettingzoo:broken_envs.Failing"
AFTER_RESET = [pair for pair in itertools.product(ANYWHERE, (1, 2, 4)) if pair[0] != "reset" and pair != ("mask", 4)]
"""Parts and steps; at the end of an episode nothing needs to be allowed."""
ACTIONS = np.zeros((2, 2), int)


def can_start(part):
    """Say whether a part can fail in reset: nobody is paid there, and nothing ends."""
    return part not in ("step", "reward", "end")


@pytest.mark.parametrize("part", list(filter(can_start, ANYWHERE)))
def test_starts_that_fail_are_named(part):
    words = ANYWHERE[part].partition(" raised ")[2] or ANYWHERE[part]
    for use in (check_env, lambda env: guarded(env, on_fault="drop-episode").reset(seed=7)):
        with pytest.raises(EnvError, match="3 resets in a row failed") as error:
            use(make_env(NAME, num_envs=2, part=part, at=0))
        assert words.partition(".")[0] in str(error.value)


@pytest.mark.parametrize(("part", "at"), AFTER_RESET)
def test_the_door_names_the_true_cause_and_no_other(part, at):
    with pytest.raises(EnvError) as error:
        check_env(NAME, num_envs=2, part=part, at=at)
    message = str(error.value)
    assert ANYWHERE[part].partition(". ")[0] in message or f"RuntimeError: no {part}" in message
    assert "1 problem found" in message
    assert f"step {at}" in message


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.full)])
@pytest.mark.parametrize(("part", "at"), [pair for pair in AFTER_RESET if pair[1] > 1])
def test_the_guard_drops_every_episode_and_says_why(part, at, workers):
    reported = []
    env = make_env(NAME, num_envs=2, part=part, at=at, workers=workers)
    env = guarded(env, on_fault="drop-episode", report=reported.append)
    env.reset(seed=7)
    for number in range(1, 13):
        step = env.step(ACTIONS)
        assert (step.discarded is not None and step.discarded.all()) == (number % at == 0)
        assert np.isfinite(step.reward).all()
        assert step.available_actions.all()
    env.unguarded.close()
    # two games, each of which begins anew whenever its episode was dropped
    assert {f"]: {ANYWHERE[part]}" in fault.message for fault in reported} == {True}
    assert {(fault.env, fault.step) for fault in reported} == {(0, at), (1, at)}
    assert sum(env.faults_total.values()) >= 2 * 12 // at


def test_without_its_state_a_game_whose_state_fails_is_fine():
    check_env(NAME, num_envs=2, part="state", own_state=False)
    check_env(NAME, num_envs=2)
