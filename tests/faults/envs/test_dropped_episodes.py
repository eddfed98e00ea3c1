"""Environments that lose one episode after the other: whoever waits for one that ends is told, and does not wait on."""

import numpy as np
import pytest

from spnpolicy.base.errors import EnvError
from spnpolicy.cli.progress import result_text
from spnpolicy.data.protocol import Algorithm
from spnpolicy.envs.checks.guard import MOST_DROPPED, guarded
from spnpolicy.envs.pettingzoo.adapter import ParallelBatch
from spnpolicy.training.config import RunConfig, TrainConfig
from spnpolicy.training.evaluation import evaluate
from spnpolicy.training.loop import TrainResult, train
from tests.spnpolicy.chain_env import ChainEnv
from tests.spnpolicy.envs.pettingzoo.small_games import Pair


class Losing(ChainEnv):
    """Drops an episode when it is about to end, if `is_lost` says so to the environment and the episode's number."""

    def __init__(self, num_envs=2, is_lost=lambda env, episode: True):
        super().__init__(num_envs)
        self._is_lost, self._episodes = is_lost, np.zeros(num_envs, int)

    def step(self, actions):
        step = super().step(actions)
        lost = np.array([self._is_lost(env, episode) for env, episode in enumerate(self._episodes)]) & step.terminated
        self._episodes += step.terminated
        return step._replace(terminated=step.terminated & ~lost, truncated=lost, discarded=lost)


class Still(Algorithm):
    """Always plays action 0."""

    def act(self, step, *, explore, progress=1.0):
        return np.zeros(step.observation.shape[:2], dtype=np.int64)


class Forgetful(Pair):
    """Its `state()` fails once an agent has left."""

    def state(self):
        return np.stack([self.look()[agent][:2] for agent in ("a", "b")])


def steps_until_given_up(env, most):
    env = guarded(env, on_fault="drop-episode")
    env.reset(seed=0)
    for count in range(most):
        try:
            env.step(np.zeros((env.num_envs, env.spec.num_agents), int))
        except EnvError as problem:
            return count + 1, str(problem)
    return None, ""


@pytest.mark.parametrize("num_envs", [1, 2, 64])
def test_when_nothing_but_drops_follow_each_other_the_environment_is_given_up(num_envs):
    steps, message = steps_until_given_up(Losing(num_envs), 1_000)
    dropped = steps // 2 * num_envs
    assert max(MOST_DROPPED, 4 * num_envs) <= dropped < max(MOST_DROPPED, 4 * num_envs) + num_envs
    assert f"chain: {dropped} episodes in a row were dropped" in message


def test_one_environment_that_loses_all_its_episodes_is_found_among_others():
    steps, message = steps_until_given_up(Losing(8, lambda env, episode: env == 3), 1_000)
    assert steps == 2 * MOST_DROPPED
    assert f"chain: {MOST_DROPPED} episodes in a row were dropped in env 3 and none came to its end" in message


def test_episodes_that_end_now_and_then_are_enough():
    assert steps_until_given_up(Losing(2, lambda env, episode: (episode + 1) % 40 > 0), 1_000) == (None, "")


def test_an_evaluation_ends_and_says_what_to_do_about_a_state_that_fails():
    env = guarded(ParallelBatch(lambda: Forgetful(3, first_leaves=2), num_envs=2), on_fault="drop-episode")
    with pytest.raises(EnvError, match=r"episodes in a row were dropped(?s:.*)own_state false(?s:.*)KeyError: 'a'"):
        evaluate(Still(), env, 2, 0.9, 0)


def test_training_ends_as_well_and_what_was_survived_is_said(tmp_path):
    settings = TrainConfig(steps=600, num_envs=2, warmup_steps=500, evaluation_episodes=2, on_env_fault="drop-episode")
    config = RunConfig("vdn", "chain", {"network": {"hidden": [4]}}, {}, settings)
    with pytest.raises(EnvError, match="episodes in a row were dropped"):
        train(config, tmp_path / "run", make_env=lambda name, **options: Losing(**options))
    text = result_text(tmp_path / "my run", config, TrainResult(600, True, {}, 1.0, faults=7))
    assert f"faults survived: 7, see {tmp_path / 'my run' / 'faults.jsonl'}; episodes that failed are in no" in text
    # What is to be given next is ready for the shell.
    assert f"next: spnpolicy evaluate '{tmp_path / 'my run'}'" in text
