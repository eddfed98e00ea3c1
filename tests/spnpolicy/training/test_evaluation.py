import numpy as np
import pytest
import torch

from circuits import CircuitDistribution, structures
from spnpolicy.base.errors import ConfigError, EnvError
from spnpolicy.data.env import BatchedEnv, EnvSpec, Step
from spnpolicy.data.protocol import Algorithm
from spnpolicy.envs import make_env
from spnpolicy.parts.solvers import sharpened
from spnpolicy.training.episodes import EpisodeTracker
from spnpolicy.training.evaluation import PLAYS, evaluate
from tests.spnpolicy.chain_env import ChainEnv


class Still(Algorithm):
    """Plays action 0 and insists on being asked for greedy play."""

    config = None

    def act(self, step, *, explore, progress=1.0):
        assert not explore
        return np.zeros(step.observation.shape[:2], dtype=np.int64)


class CountdownEnv(BatchedEnv):
    """Environment i ends after i + 1 steps and pays its two agents 1 and 3 on each."""

    name = "countdown"
    action_names = ("x",)
    episode_limit = 9
    spec = EnvSpec((1, 1), 1, 1, False)

    def __init__(self, num_envs, never_ends=False):
        self.num_envs = num_envs
        self._limits = np.arange(num_envs) + (100 if never_ends else 1)

    def reset(self, *, seed=None):
        self._clock = np.zeros(self.num_envs, dtype=int)
        return self.step(None, start=True)

    def step(self, actions, start=False):
        self._clock += not start
        done = self._clock == self._limits
        self._clock[done] = 0
        zeros = np.zeros((self.num_envs, 2, 1), dtype=np.float32)
        reward = np.tile(np.array([1.0, 3.0], dtype=np.float32), (self.num_envs, 1))
        none, mask = np.zeros_like(done), np.ones((self.num_envs, 2, 1), dtype=bool)
        return Step(zeros, zeros[:, 0], reward, done, none, mask, zeros, zeros[:, 0], mask)

    def optimal_return(self, discount):
        assert not self._clock.any(), "must be asked at the start of the episodes"
        return np.where(self._limits == 2, 0.0, 4.0)


def test_one_whole_episode_per_environment():
    result = evaluate(Still(), CountdownEnv(5), 5, 0.5, 0)
    assert result.episodes.env.tolist() == [0, 1, 2, 3, 4]
    assert result.episodes.lengths.tolist() == [1, 2, 3, 4, 5]
    assert result.episodes.returns.tolist() == [2.0, 4.0, 6.0, 8.0, 10.0]
    discounted = [2.0, 3.0, 3.5, 3.75, 3.875]
    assert result.episodes.discounted_returns.tolist() == discounted
    expected = np.array(discounted) / 4
    expected[1] = np.nan
    np.testing.assert_array_equal(result.fraction_of_optimum, expected)
    summary = result.summary()
    assert summary["success"] == 1.0
    assert summary["length"] == 3.0
    assert summary["fraction_of_optimum"] == pytest.approx(np.nanmean(expected))


@pytest.mark.parametrize(("ending", "success"), [("terminated", 1.0), ("truncated", 0.0)])
def test_success_is_a_paid_true_end(ending, success):
    result = evaluate(Still(), ChainEnv(3, ending), 3, 0.5, 0)
    assert result.fraction_of_optimum is None
    assert result.summary() == {"return": 1.0, "discounted_return": 0.5, "length": 2.0, "success": success}


def test_errors():
    with pytest.raises(ConfigError, match="Make it with num_envs=4"):
        evaluate(Still(), CountdownEnv(3), 4, 0.9, 0)
    with pytest.raises(EnvError, match=r"countdown\[env 0\].*after 9 steps"):
        evaluate(Still(), CountdownEnv(3, never_ends=True), 3, 0.9, 0)


def test_tracker_state_round_trip():
    env = CountdownEnv(4)
    env.reset()
    first, second = EpisodeTracker(4, 0.9), EpisodeTracker(4, 0.9)
    for _ in range(3):
        first.add(env.step(None))
    second.load_state_dict(first.state_dict())
    step = env.step(None)
    for ours, theirs in zip(first.add(step), second.add(step), strict=True):
        np.testing.assert_array_equal(ours, theirs)


class Loaded(Still):
    """Its greedy play is action 0, which its joint policy draws with probability 2/3 for each of two agents."""

    def draw(self, step, *, generator, sharpness=1.0):
        circuit = structures.mean_field([2, 2])
        logits = torch.log(torch.tensor([2.0, 1.0, 2.0, 1.0])).expand(len(step.observation), -1)
        return sharpened(CircuitDistribution(circuit, logits), sharpness).sample(generator=generator).numpy()


def test_drawn_play_meets_the_same_episodes_and_is_the_same_every_time():
    env = make_env("matrix_game", num_envs=900, payoff=[[1.0, 0.0], [0.0, 0.0]])
    first, second = (evaluate(Loaded(), env, 900, 0.5, 7, plays=tuple(PLAYS)) for _ in range(2))
    assert first.summary()["return"] == 1.0
    for play, share in {"sampled": 2 / 3, "cooled": 2**4 / (2**4 + 1)}.items():
        # Five standard errors: a false alarm in one of two million seeds.
        tolerance = 5 * (share**2 * (1 - share**2) / 900) ** 0.5
        assert first.summary()[f"{play}_return"] == pytest.approx(share**2, abs=tolerance)
        np.testing.assert_array_equal(first.drawn[play].episodes.returns, second.drawn[play].episodes.returns)
    assert list(evaluate(Loaded(), env, 900, 0.5, 7).drawn) == ["sampled"]
    assert not evaluate(Still(), env, 900, 0.5, 7).drawn
