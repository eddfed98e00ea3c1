"""REINFORCE, IA2C and MAA2C: exact gradients on small games, values of critics, and what they are known to learn."""

import itertools
import math

import numpy as np
import pytest
import torch

from spnpolicy.algorithms import ALGORITHMS, config_class, make_algorithm
from spnpolicy.algorithms.reinforce import episode_returns
from spnpolicy.base.errors import ConfigError
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.data.protocol import Window
from spnpolicy.envs import make_env
from spnpolicy.parts.settings import RolloutSettings
from tests.spnpolicy.learning_cases import (
    CHAIN_VALUE_OF_B,
    CLIMBING,
    MONOTONIC,
    as_window,
    chain,
    chain_observation,
    full_batch,
    game_spec,
    learn,
    play,
    store_for,
)


class TwoSteps:
    """Two agents with two actions, two steps; the second state is the first joint action. Agents are paid apart."""

    num_envs = 400
    spec = EnvSpec((2, 2), 5, 5, False)

    def __init__(self):
        generator = np.random.default_rng(3)
        self.reward = generator.normal(size=(5, 2, 2, 2)).astype(np.float32)  # state, joint action, agent
        self._state = np.zeros(self.num_envs, int)

    def reset(self, *, seed=None):
        return self._show(self._state, np.zeros((self.num_envs, 2), np.float32), np.zeros(self.num_envs, bool))

    def step(self, actions):
        reward = self.reward[self._state, actions[:, 0], actions[:, 1]]
        is_last = self._state > 0
        self._state = np.where(is_last, 0, 1 + 2 * actions[:, 0] + actions[:, 1])
        return self._show(self._state, reward, is_last)

    def _show(self, state, reward, terminated):
        state = np.eye(5, dtype=np.float32)[state]
        seen, mask = np.repeat(state[:, None], 2, axis=1), np.ones((self.num_envs, 2, 2), bool)
        cut = np.zeros(self.num_envs, bool)
        return Step(seen, state, reward, terminated, cut, mask, seen, state, mask)


def exact_gradients(env, policy):
    """Gradient of every agent's own expected reward in its own policy, from all 16 trajectories."""
    probabilities = policy(torch.eye(5)[:, None].expand(5, 2, 5)).softmax(-1)  # state, agent, action
    fixed = probabilities.detach()
    total = torch.zeros(())
    for agent in range(2):

        def joint(state, first, second, agent=agent):
            own, other = (first, second) if agent == 0 else (second, first)
            return probabilities[state, agent, own] * fixed[state, 1 - agent, other]

        for a, b, c, d in itertools.product(range(2), repeat=4):
            state = 1 + 2 * a + b
            earned = float(env.reward[0, a, b, agent] + env.reward[state, c, d, agent])
            total = total + joint(0, a, b) * joint(state, c, d) * earned
    return torch.autograd.grad(total, list(policy.parameters()))


def sampled_gradients(count, *, mean_baseline=False, bonus=0.0):
    """Many gradients of fresh rollouts, taken from the update itself, and the exact one, flat."""
    env = TwoSteps()
    env.reward += bonus
    algorithm = make_algorithm(
        "reinforce", env.spec, Streams(0), discount=1.0, actor={"learning_rate": 1e-30}, max_gradient_norm=1e9,
        entropy={"start": 0.0, "end": 0.0}, rollout=2, share_parameters=False, mean_baseline=mean_baseline,
        normalize_advantage=False,
        network={"hidden": (6,), "features": {"frequencies": 0}},
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # no policy near the uniform one
        for parameter in algorithm.actor.parameters():
            parameter.add_(0.7 * torch.randn(parameter.shape, generator=generator))
    store, player, step, found = store_for(algorithm, env.spec), None, None, []
    for _ in range(count):
        player, step = play(algorithm, env, store, 2, player=player, step=step)
        algorithm.update(store.draw(64), progress=0.0)
        # The loss is minus the mean over 2 steps and 2 agents.
        found.append(-4.0 * torch.cat([parameter.grad.flatten() for parameter in algorithm.actor.parameters()]))
    exact = torch.cat([gradient.flatten() for gradient in exact_gradients(env, algorithm.actor)])
    return torch.stack(found), exact


def test_the_mean_gradient_of_reinforce_is_the_exact_one():
    found, exact = sampled_gradients(40)
    errors = found.std(0) / math.sqrt(len(found))
    assert (exact.abs() > 10.0 * errors).any(), "the test could tell"
    assert ((found.mean(0) - exact).abs() <= 4.0 * errors + 1e-6).all()


def test_the_mean_as_baseline_changes_the_gradient_little_and_its_variance_much():
    plain, exact = sampled_gradients(30, bonus=3.0)
    compared, _ = sampled_gradients(30, bonus=3.0, mean_baseline=True)
    assert compared.var(0).sum() < 0.5 * plain.var(0).sum()
    errors = compared.std(0) / math.sqrt(len(compared))
    assert ((compared.mean(0) - exact).abs() <= 4.0 * errors + 0.01 * exact.abs().max()).all()


def test_reinforce_without_a_baseline_keeps_the_mean():
    with pytest.raises(ConfigError, match="mean_baseline is False, but normalize_advantage is True"):
        make_algorithm("reinforce", game_spec(MONOTONIC), Streams(0), mean_baseline=False)


def window_of(reward, terminated, ended, valid):
    """A window of one environment with one agent from lists over time."""
    time = len(reward)
    blank, mask = torch.zeros(time, 1, 1, 1), torch.ones(time, 1, 1, 2, dtype=torch.bool)
    flags = [torch.tensor(flag, dtype=torch.bool)[:, None] for flag in (terminated, ended, valid)]
    pay = torch.tensor(reward)[:, None, None]
    state, memory = torch.zeros(time, 1, 1), torch.zeros(1, 1, 0)
    actions = torch.zeros(time, 1, 1, dtype=torch.long)
    return Window(blank, state, actions, pay, flags[0], mask, blank, state, mask, flags[1], flags[2], memory)


def test_returns_go_to_the_end_of_the_episode_and_are_known_only_if_it_was_seen():
    #          the end of one that began before | a failure   | a time limit | goes on
    batch = window_of(
        reward=[1.0, 2.0, 4.0, 8.0, math.nan, 16.0, 32.0, 64.0],
        terminated=[0, 1, 0, 0, 0, 0, 0, 0],
        ended=[0, 1, 0, 0, 1, 0, 1, 0],
        valid=[1, 1, 1, 1, 0, 1, 1, 1],
    )
    returns, known = episode_returns(batch, 0.5, time_limit_ends=True)
    assert returns.flatten().tolist() == [2.0, 2.0, 0.0, 0.0, 0.0, 32.0, 32.0, 0.0]
    assert known.flatten().tolist() == [True, True, False, False, False, True, True, False]
    returns, known = episode_returns(batch, 0.5, time_limit_ends=False)
    assert returns.flatten().tolist() == [2.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert known.flatten().tolist() == [True, True] + [False] * 6


@pytest.mark.parametrize("ending", ["terminated", "truncated"])
def test_returns_of_the_chain_stop_at_every_end_or_leave_time_limits_out(ending):
    """A policy gradient without a critic cannot know the 5 behind a time limit: it stops there, or learns nothing."""
    env = chain(ending)
    for truncation in ("end", "exclude"):
        options = {"network": {"hidden": (8,)}, "rollout": 50, "truncation": truncation}
        algorithm = make_algorithm("reinforce", env.spec, Streams(0), discount=0.8, **options)
        store = store_for(algorithm, env.spec)
        play(algorithm, env, store, 51)  # the window begins and ends in mid-episode
        batch = store.draw(64)
        returns, known = episode_returns(batch, 0.8, time_limit_ends=truncation == "end")
        before = [parameter.clone() for parameter in algorithm.actor.parameters()]
        numbers = algorithm.update(batch, progress=0.0)
        is_same = all(map(torch.equal, before, algorithm.actor.parameters()))
        if (ending, truncation) == ("truncated", "exclude"):
            assert not known.any()
            assert is_same
            assert numbers["complete"] == 0.0
            continue
        in_b = batch.observation[..., 0, 1] == 1.0
        assert known.float().mean() == pytest.approx(49 / 50)
        assert (returns[known & in_b] == 1.0).all()
        np.testing.assert_allclose(returns[known & ~in_b], 0.8, rtol=1e-6)
        assert not is_same
        assert numbers["complete"] == pytest.approx(49 / 50)


def test_reinforce_learns_the_best_joint_action_of_an_easy_game():
    env = make_env("matrix_game", game="linear", num_envs=32)
    algorithm = learn("reinforce", env, updates=30, rollout=2, network={"hidden": (16,)}, actor={"learning_rate": 0.05})
    assert (algorithm.act(env.reset(), explore=False) == 1).all()


WITH_CRITIC = ("ia2c", "maa2c", "ippo", "mappo")
FAST = {"network": {"hidden": (32,)}, "critic": {"learning_rate": 0.01}, "target": {"rate": 0.5}}


def values_of(name, algorithm, observation, state):
    return algorithm.critic(observation, state).squeeze(-1).detach()


def fit(name, batch, spec, updates=220, **options):
    """Learn the critics from one window, on which the values do not depend on what the policies do."""
    epochs = {"epochs": 3} if name.endswith("ppo") else {}
    algorithm = make_algorithm(name, spec, Streams(0), **(FAST | epochs | options))
    for _ in range(updates // 4 if epochs else updates):
        algorithm.update(batch, progress=0.0)
    return algorithm


@pytest.mark.one_in(4)
@pytest.mark.parametrize(("ending", "value_b"), CHAIN_VALUE_OF_B.items())
@pytest.mark.parametrize(
    ("name", "share_parameters"), [("ia2c", True), ("maa2c", False), ("ippo", False), ("mappo", True)]
)
def test_critics_bootstrap_at_time_limits_and_not_at_ends(name, ending, value_b, share_parameters):
    env = chain(ending, 4)
    algorithm = make_algorithm(name, env.spec, Streams(0), rollout=6)
    store = store_for(algorithm, env.spec)
    play(algorithm, env, store, 7)  # the window begins and ends in mid-episode
    options = {"discount": 0.8, "share_parameters": share_parameters, "rollout": 6}
    algorithm = fit(name, store.draw(64), env.spec, **options)
    values = values_of(name, algorithm, *chain_observation())
    np.testing.assert_allclose(values, np.array([[0.8, 0.8], [1.0, 1.0]]) * value_b, rtol=0.01)


@pytest.mark.parametrize("name", WITH_CRITIC)
def test_a_one_step_game_is_worth_its_mean_payoff_and_not_a_sum_over_imagined_repetitions(name):
    batch = as_window(full_batch(MONOTONIC))
    algorithm = fit(name, batch, game_spec(MONOTONIC), discount=0.95)
    values = values_of(name, algorithm, batch.observation[0, :1], batch.state[0, :1])
    np.testing.assert_allclose(values, [[2.5, 2.5]], atol=0.01)


@pytest.mark.parametrize("name", WITH_CRITIC)
def test_every_agent_is_valued_by_its_own_reward(name):
    batch = as_window(full_batch(MONOTONIC))
    batch = batch._replace(reward=torch.tensor([1.0, 3.0]).expand(1, 4, 2))
    algorithm = fit(name, batch, game_spec(MONOTONIC))
    values = values_of(name, algorithm, batch.observation[0, :1], batch.state[0, :1])
    np.testing.assert_allclose(values, [[1.0, 3.0]], atol=0.02)


@pytest.mark.parametrize("name", WITH_CRITIC)
def test_central_critics_see_the_state_and_policies_never_do(name):
    """A state that no observation tells; the reward is the state."""
    batch = as_window(full_batch(MONOTONIC))
    state = torch.tensor([[[1.0], [0.0], [1.0], [0.0]]])
    batch = batch._replace(state=state, next_state=state, reward=state.expand(-1, -1, 2))
    algorithm = fit(name, batch, game_spec(MONOTONIC))
    values = values_of(name, algorithm, batch.observation, batch.state)
    is_central = name.startswith("ma")
    expected = state.expand(-1, -1, 2) if is_central else torch.full((1, 4, 2), 0.5)
    np.testing.assert_allclose(values, expected, atol=0.02)
    policy = algorithm.actor
    first, other = policy.now(batch), policy.now(batch._replace(state=1.0 - state))
    assert torch.equal(first, other)


@pytest.mark.parametrize("name", ["reinforce", *WITH_CRITIC])
def test_only_rows_without_a_failure_count(name):
    """The rows that failed hold absurd rewards; the update is the one without them."""
    env = chain("terminated", 6)
    found = []
    for absurd in (0.0, math.nan, 1e9):
        options = {} if name == "reinforce" else FAST
        algorithm = make_algorithm(name, env.spec, Streams(0), rollout=8, **options)
        store = store_for(algorithm, env.spec)
        play(algorithm, chain("terminated", 6), store, 8)
        batch = store.draw(64)
        failed = torch.zeros_like(batch.valid)
        failed[3, 2] = failed[6, 4] = failed[0, 0] = True
        reward = batch.reward.masked_fill(failed[..., None], absurd)
        # as the guard does it: an end that is no real one
        batch = batch._replace(reward=reward, valid=~failed, ended=batch.ended | failed)
        batch = batch._replace(terminated=batch.terminated & ~failed)
        assert all(map(math.isfinite, algorithm.update(batch, progress=0.5).values()))
        networks = algorithm.state_dict()
        found.append({part: networks[part] for part in networks if part in ("policy", "actors", "critic", "critics")})
    for other in found[1:]:
        for part, state in found[0].items():
            for place in state:
                assert torch.equal(state[place], other[part][place]), (part, place)


@pytest.mark.parametrize("name", ["reinforce", *WITH_CRITIC])
def test_entropy_is_sought_by_its_weight_at_this_point_of_training(name):
    batch = as_window(full_batch(MONOTONIC))
    batch = batch._replace(reward=torch.zeros(1, 4, 2))
    learned = []
    for progress in (0.0, 1.0):
        options = {
            "network": {"hidden": (8,)},
            "actor": {"learning_rate": 0.05},
            "entropy": {"start": 1.0, "end": 0.0, "share": 1.0},
        }
        algorithm = make_algorithm(name, game_spec(MONOTONIC), Streams(0), **options)
        policy = algorithm.actor
        with torch.no_grad():
            policy.head[-1].bias.copy_(torch.tensor([1.0, 0.0]))
        for _ in range(6 if name.endswith("ppo") else 30):
            algorithm.update(batch, progress=progress)
        learned.append(float(policy.now(batch).detach().softmax(-1)[0, 0, 0, 0]))
    assert learned[0] == pytest.approx(0.5, abs=0.1)
    assert learned[1] == pytest.approx(0.73, abs=0.05)


ON_POLICY = [name for name in ALGORITHMS if issubclass(config_class(name), RolloutSettings)]


@pytest.mark.parametrize("name", ON_POLICY)
def test_normalized_advantages_know_no_scale(name):
    """The entropy weight then means the same whatever a reward is worth, in all whose gradients need fresh steps."""
    gradients = {}
    for normalize in (True, False):
        for scale in (1.0, 100.0):
            options = {
                "normalize_advantage": normalize, "entropy": {"start": 1.0, "end": 1.0}, "network": {"hidden": (8,)},
                "max_gradient_norm": 1e9,
            } | ({"epochs": 1} if name.endswith("ppo") else {})  # fmt: skip
            algorithm = make_algorithm(name, game_spec(MONOTONIC), Streams(0), **options)
            batch = as_window(full_batch(MONOTONIC))
            with torch.no_grad():
                for judge in (getattr(algorithm, part, None) for part in ("critic", "values")):
                    last = [module for module in judge.modules() if hasattr(module, "bias")][-1:] if judge else []
                    for module in last:
                        module.weight.normal_(generator=torch.Generator().manual_seed(0)).mul_(scale)
            algorithm.update(batch._replace(reward=batch.reward * scale), progress=0.0)
            gradients[normalize, scale] = torch.cat([p.grad.flatten() for p in algorithm.actor.parameters()])
    torch.testing.assert_close(gradients[True, 1.0], gradients[True, 100.0], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(gradients[False, 1.0], gradients[False, 100.0], rtol=0.1, atol=1e-4)


CLIMBING_OPTIONS = {
    "network": {"hidden": (16,)}, "actor": {"learning_rate": 0.02}, "critic": {"learning_rate": 0.02}, "rollout": 1,
    "target": {"rate": 1.0}, "entropy": {"start": 2.0, "end": 0.01},
}  # fmt: skip


def payoff_of_greedy_play(algorithm):
    (row, column), *_ = algorithm.act(make_env("matrix_game", game="climbing").reset(), explore=False)
    return CLIMBING[row][column]


@pytest.mark.full
@pytest.mark.parametrize("name", ["ia2c", "maa2c", "reinforce"])
def test_defaults_leave_no_policy_where_it_could_do_better_alone(name):
    """(C, C) of climbing pays 5 and is no equilibrium: small weights in units of reward ended there."""
    env = make_env("matrix_game", game="climbing", num_envs=32)
    options = {"network": {"hidden": (32,)}, "actor": {"learning_rate": 0.003}, "rollout": 1}
    algorithm = learn(name, env, updates=500, progress=lambda share: share, **options)
    assert payoff_of_greedy_play(algorithm) == 7.0


def test_sampled_maa2c_earns_7_on_climbing():
    env = make_env("matrix_game", game="climbing", num_envs=64)
    algorithm = learn("maa2c", env, updates=300, progress=lambda share: share, **CLIMBING_OPTIONS)
    assert payoff_of_greedy_play(algorithm) == 7.0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ia2c", "maa2c"])
def test_sampled_actor_critics_earn_7_on_climbing_in_ten_of_ten_seeds(name):
    env = make_env("matrix_game", game="climbing", num_envs=64)
    earned = [
        payoff_of_greedy_play(
            learn(name, env, updates=300, progress=lambda share: share, seed=seed, **CLIMBING_OPTIONS)
        )
        for seed in range(10)
    ]
    assert earned == [7.0] * 10
