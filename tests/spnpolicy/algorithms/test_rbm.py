"""The free energies of the Boltzmann machine, what its samplers draw from, and what it is known to learn."""

import itertools

import numpy as np
import pytest
import torch

from spnpolicy.algorithms import make_algorithm
from spnpolicy.algorithms.rbm import FreeEnergy, best_met, best_of_all, gibbs_sweep, tempered_block_sweep
from spnpolicy.base.errors import ConfigError
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec
from spnpolicy.data.protocol import Window
from spnpolicy.envs import make_env
from tests.spnpolicy.learning_cases import (
    CHAIN_VALUE_OF_B,
    as_window,
    chain,
    chain_observation,
    full_batch,
    game_spec,
    learn,
    rates,
)

BINARY = (2,) * 5


def machine(cardinalities, generator, scale=0.7, inputs=3, units=6):
    """A Boltzmann machine with weights that matter, in double precision."""
    network = FreeEnergy(cardinalities, inputs, units).double()
    for parameter in network.parameters():
        parameter.data = scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return network


def value_by_hidden_states(network, state, actions, temperature=1.0):
    """T log sum_h exp(-E(s, a, h) / T) by listing every hidden state: Q where T is 1."""
    s = state.numpy()
    u, w, c, b_s, b_a = (
        getattr(network, name).detach().numpy()
        for name in ("action_weight", "state_weight", "hidden_bias", "state_bias", "action_bias")
    )
    inputs = c + s @ w + sum(u[agent, action] for agent, action in enumerate(actions))
    visible = s @ b_s + sum(b_a[agent, action] for agent, action in enumerate(actions))
    hidden = np.array(list(itertools.product((0.0, 1.0), repeat=len(c))))
    return temperature * np.log(np.exp((hidden @ inputs + visible) / temperature).sum())


def boltzmann(network, state, cardinalities, temperature):
    """The policy exp(Q / T) over all joint actions, by enumeration."""
    values = [value_by_hidden_states(network, state, a) for a in itertools.product(*map(range, cardinalities))]
    weights = np.exp((np.array(values) - max(values)) / temperature)
    return weights / weights.sum()


def frequencies(sweep, network, state, temperature, generator, chains, sweeps, burn_in=20, allowed=None):
    """How often each joint action of binary agents is met by many chains."""
    agents = network.action_bias.shape[0]
    inputs = network.state_inputs(state).expand(chains, -1).detach()
    allowed = torch.ones(chains, agents, 2, dtype=torch.bool) if allowed is None else allowed.expand(chains, -1, -1)
    actions, counts = torch.zeros(chains, agents, dtype=torch.int64), torch.zeros(2**agents)
    places = 2 ** torch.arange(agents - 1, -1, -1)
    with torch.no_grad():
        for number in range(burn_in + sweeps):
            actions = sweep(network, inputs, actions, allowed, temperature, generator)
            if number >= burn_in:
                counts += torch.bincount(actions @ places, minlength=2**agents)
    return (counts / counts.sum()).numpy()


def distance(p, q):
    return 0.5 * np.abs(p - q).sum()


def test_q_is_the_free_energy_summed_over_hidden_states(generator):
    network = machine((2, 3, 4), generator)
    state = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    actions = torch.stack([torch.randint(k, (5,), generator=generator) for k in (2, 3, 4)], -1)
    expected = [value_by_hidden_states(network, s, a.tolist()) for s, a in zip(state, actions, strict=True)]
    np.testing.assert_allclose(network(state, actions).detach(), expected, rtol=1e-12)


def test_q_equals_the_form_with_mean_hidden_values_and_their_entropy(generator):
    network = machine((2, 3), generator)
    state, actions = torch.randn(3, generator=generator, dtype=torch.float64), (1, 2)
    x = network.state_inputs(state) + network.action_weight[0, 1] + network.action_weight[1, 2]
    x = x.detach().numpy()
    mean = 1 / (1 + np.exp(-x))
    entropy = -(mean * np.log(mean) + (1 - mean) * np.log(1 - mean))
    biases = (state @ network.state_bias + network.action_bias[0, 1] + network.action_bias[1, 2]).item()
    found = network(state, torch.tensor(actions)).item()
    assert found == pytest.approx((mean * x + entropy).sum() + biases, abs=1e-13)


def test_derivatives_are_mean_hidden_values_times_inputs(generator):
    network = machine((2, 3), generator)
    state, actions = torch.randn(3, generator=generator, dtype=torch.float64), torch.tensor([1, 0])
    value = network(state, actions)
    value.backward()
    mean = torch.sigmoid(network.state_inputs(state) + network.action_inputs(actions)).detach()
    one_hot = torch.zeros(2, 3, dtype=torch.float64)
    one_hot[torch.arange(2), actions] = 1.0
    by_hand = {
        "action_weight": one_hot.unsqueeze(-1) * mean,
        "state_weight": state.unsqueeze(-1) * mean,
        "hidden_bias": mean,
        "state_bias": state,
        "action_bias": one_hot,
    }
    step = 1e-6
    for name, parameter in network.named_parameters():
        differences = torch.zeros_like(parameter)
        with torch.no_grad():
            for place in np.ndindex(*parameter.shape):
                before = parameter[place].item()
                parameter[place] = before + step
                above = network(state, actions)
                parameter[place] = before - step
                differences[place] = (above - network(state, actions)) / (2 * step)
                parameter[place] = before
        torch.testing.assert_close(by_hand[name], differences, rtol=0, atol=1e-8)
        torch.testing.assert_close(parameter.grad, by_hand[name], rtol=1e-9, atol=1e-12)


def test_a_learning_step_goes_along_the_td_error_times_the_derivative():
    batch = full_batch([[3.0, -1.0], [0.5, 2.0]])
    algorithm = make_algorithm("rbm", game_spec([[0, 0], [0, 0]]), Streams(0), max_gradient_norm=1e9)
    with torch.no_grad():
        state = algorithm.config.network.features(batch.state)
        error = batch.reward[:, 0] - algorithm.critic(state, batch.actions)
        mean = torch.sigmoid(algorithm.critic.state_inputs(state) + algorithm.critic.action_inputs(batch.actions))
        expected = torch.zeros_like(algorithm.critic.action_weight)
        for row, joint in enumerate(batch.actions.tolist()):
            for agent, action in enumerate(joint):
                expected[agent, action] += error[row] * mean[row] / 4
    algorithm.update(as_window(batch), progress=0.0)
    torch.testing.assert_close(algorithm.critic.action_weight.grad, -2 * expected)


@pytest.mark.parametrize("sweep", [gibbs_sweep, tempered_block_sweep])
def test_at_temperature_1_both_samplers_draw_from_the_boltzmann_policy(sweep, generator):
    network = machine(BINARY, generator)
    state = torch.randn(3, generator=generator, dtype=torch.float64)
    found = frequencies(sweep, network, state, 1.0, generator, chains=4000, sweeps=100)
    assert distance(found, boltzmann(network, state, BINARY, 1.0)) < 0.005


def test_at_other_temperatures_only_single_site_sampling_does(generator):
    """Why it is the default: the block sampler divides the hidden units' energy by T, but not their entropy."""
    network, temperature = machine(BINARY, generator), 0.5
    state = torch.randn(3, generator=generator, dtype=torch.float64)
    exact = boltzmann(network, state, BINARY, temperature)
    single = frequencies(gibbs_sweep, network, state, temperature, generator, chains=4000, sweeps=60, burn_in=50)
    block = frequencies(tempered_block_sweep, network, state, temperature, generator, 4000, 60, burn_in=50)
    joint = itertools.product(*map(range, BINARY))
    tempered = np.exp([value_by_hidden_states(network, state, a, temperature) / temperature for a in joint])
    tempered /= tempered.sum()
    assert distance(single, exact) < 0.01
    assert distance(block, tempered) < 0.01
    assert distance(block, exact) > 0.05


@pytest.mark.parametrize("sweep", [gibbs_sweep, tempered_block_sweep])
def test_masks_restrict_the_boltzmann_policy(sweep, generator):
    network = machine(BINARY, generator)
    state = torch.randn(3, generator=generator, dtype=torch.float64)
    allowed = torch.tensor([[True, True], [True, False], [True, True], [False, True], [True, True]])
    exact = boltzmann(network, state, BINARY, 1.0).reshape(BINARY)
    exact[:, 1], exact[:, :, :, 0] = 0.0, 0.0
    found = frequencies(sweep, network, state, 1.0, generator, chains=2000, sweeps=50, allowed=allowed)
    assert (found[exact.flatten() == 0.0] == 0.0).all()
    assert distance(found, exact.flatten() / exact.sum()) < 0.01


def test_greedy_play_finds_the_best_joint_action(generator):
    cardinalities = (3, 4, 2, 3)
    network = machine(cardinalities, generator)
    state = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    available = torch.rand(40, 4, 4, generator=generator) < 0.6
    available[..., 0] = True
    exists = torch.arange(4) < torch.tensor(cardinalities)[:, None]
    best = []
    for row, mask in zip(state, available & exists, strict=True):
        choices = [torch.nonzero(agent).flatten().tolist() for agent in mask]
        best.append(max(itertools.product(*choices), key=lambda a, s=row: value_by_hidden_states(network, s, a)))
    with torch.no_grad():
        listed = best_of_all(network, state, available, cardinalities)
        searched = best_met(network, state, available & exists, np.geomspace(10.0, 1e-3, 100).tolist())
    np.testing.assert_array_equal(listed, best)
    np.testing.assert_array_equal(searched, best)


def test_greedy_play_with_many_joint_actions_is_repeatable_and_moves_no_stream():
    env = make_env("matrix_game", payoff=np.zeros((2,) * 13).tolist(), num_envs=3)
    streams = Streams(0)
    algorithm = make_algorithm("rbm", env.spec, streams, sweeps=5)
    step, before = env.reset(seed=0), streams.torch("exploration").get_state()
    actions = [algorithm.act(step, explore=False) for _ in range(2)]
    np.testing.assert_array_equal(*actions)
    assert torch.equal(streams.torch("exploration").get_state(), before)
    algorithm.act(step, explore=True)
    assert not torch.equal(streams.torch("exploration").get_state(), before)


def test_targets_use_the_action_that_followed_and_draw_the_missing_ones(generator):
    """With one action available where a' is drawn, the target is known for every row of a window."""
    spec = EnvSpec((3, 2), 2, 2, True)
    algorithm = make_algorithm("rbm", spec, Streams(0), rollout=3, sweeps=3, discount=0.5)
    for parameter in algorithm.critic.parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator)
    window = chain_window(generator)
    forced = torch.zeros(3, 4, 2, 3, dtype=torch.bool)
    forced[..., 0, 2] = forced[..., 1, 1] = True
    drawn, following = torch.tensor([2, 1]), window.actions.roll(-1, 0)
    expected = torch.zeros(3, 4)
    for t, env in np.ndindex(3, 4):
        expected[t, env] = window.reward[t, env].mean()
        if not window.terminated[t, env]:
            action = drawn if t == 2 or window.ended[t, env] else following[t, env]
            state = algorithm.config.network.features(window.next_state[t, env])
            expected[t, env] += 0.5 * algorithm.critic(state, action).item()
    torch.testing.assert_close(algorithm._targets(window._replace(next_available_actions=forced), 0.3), expected)


def chain_window(generator):
    """Three steps of four environments: one goes on, one is cut off, one terminates, one does so at the end."""
    mask = torch.ones(3, 4, 2, 3, dtype=torch.bool)
    seen, states = torch.zeros(3, 4, 2, 2), torch.randn(2, 3, 4, 2, generator=generator)
    actions = torch.stack([torch.randint(k, (3, 4), generator=generator) for k in (3, 2)], -1)
    terminated, ended = torch.zeros(2, 3, 4, dtype=torch.bool)
    ended[0, 1] = ended[1, 2] = ended[2, 3] = True
    terminated[1, 2] = terminated[2, 3] = True
    batch = full_batch([[0.0]])._replace(
        observation=seen, state=states[0], actions=actions, reward=torch.randn(3, 4, 2, generator=generator),
        terminated=terminated, available_actions=mask, next_observation=seen, next_state=states[1],
        next_available_actions=mask, ended=ended, valid=torch.ones_like(ended), memory=torch.zeros(4, 2, 0),
    )  # fmt: skip
    return Window(*batch)


LEARNING_RATES = {"terminated": 0.002, "truncated": 0.01}
"""Adam's steps must be small for values of 1, and large enough to reach values of 5 within the test."""


@pytest.mark.one_in(2)
@pytest.mark.parametrize("ending", CHAIN_VALUE_OF_B)
def test_time_limits_bootstrap_and_ends_do_not(ending):
    env = chain(ending, num_envs=8)
    options = {
        "discount": 0.8,
        "network": {"hidden": (4,)},
        "rollout": 2,
        "sweeps": 1,
        "critic": {"learning_rate": LEARNING_RATES[ending]},
    }
    algorithm = learn("rbm", env, updates=400, **options)
    every = torch.cartesian_prod(torch.arange(2), torch.arange(3))
    with torch.no_grad():
        values = algorithm.critic(algorithm.config.network.features(chain_observation()[1]).unsqueeze(1), every)
    best = CHAIN_VALUE_OF_B[ending]
    np.testing.assert_allclose(values, np.outer([0.8 * best, best], np.ones(6)), rtol=0.01)


def test_a_bandit_of_32_joint_actions_ends_in_its_best():
    payoff = np.random.default_rng(0).normal(size=BINARY)
    env = make_env("matrix_game", payoff=payoff.tolist(), num_envs=64)
    algorithm = learn("rbm", env, updates=300, progress=lambda share: share, rollout=1, sweeps=3, **rates(critic=0.05))
    step = env.reset(seed=0)
    np.testing.assert_allclose(env.step(algorithm.act(step, explore=False)).reward, payoff.max())
    # By now it plays what it believes to be best, without being told to be greedy.
    assert env.step(algorithm.act(step, explore=True, progress=1.0)).reward.mean() > 0.9 * payoff.max()


def test_settings_out_of_range_are_refused():
    spec = EnvSpec((2, 2), 1, 1, False)
    for options, text in (
        ({"network": {"hidden": (8, 8)}}, "hidden is"),
        ({"sweeps": 0}, "sweeps is 0"),
        ({"rollout": 0}, "rollout is 0"),
        ({"temperature": {"end": 0.0}}, "temperature.end is 0.0"),
        ({"sampler": "block"}, "sampler"),
    ):
        with pytest.raises(ConfigError, match=text):
            make_algorithm("rbm", spec, Streams(0), **options)
