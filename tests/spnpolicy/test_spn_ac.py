"""The exact-ELBO actor-critic: losses against enumeration, known games, masks, and the reason for a joint policy."""

import itertools
import math

import numpy as np
import pytest
import torch

from spnpolicy.algorithms import make_algorithm
from spnpolicy.algorithms.protocol import Batch
from spnpolicy.envs import make_env
from spnpolicy.envs.protocol import EnvSpec
from spnpolicy.errors import ConfigError
from spnpolicy.replay import ReplayBuffer
from spnpolicy.temperature import Temperature, TemperatureConfig
from spnpolicy.training.seeding import Streams

FIXED = {"automatic": False}


def random_batch(spec, size, seed):
    generator = torch.Generator().manual_seed(seed)
    width = max(spec.cardinalities)
    exists = torch.arange(width) < torch.tensor(spec.cardinalities)[:, None]
    available = exists & (torch.rand(size, spec.num_agents, width, generator=generator) < 0.7)
    available[..., 0] = True
    observation = torch.randn(2, size, spec.num_agents, spec.observation_size, generator=generator)
    return Batch(
        observation=observation[0],
        state=observation[0].flatten(1),
        actions=torch.zeros(size, spec.num_agents, dtype=torch.long),
        reward=torch.randn(size, spec.num_agents, generator=generator),
        terminated=torch.rand(size, generator=generator) < 0.3,
        available_actions=available if spec.has_action_masks else exists.expand(size, -1, -1),
        next_observation=observation[1],
        next_state=observation[1].flatten(1),
        next_available_actions=available.flip(0) if spec.has_action_masks else exists.expand(size, -1, -1),
    )


@pytest.mark.parametrize("reference", ["uniform", "none"])
@pytest.mark.parametrize("has_action_masks", [False, True])
def test_the_bootstrap_equals_enumeration(reference, has_action_masks):
    spec = EnvSpec((3, 2, 3, 2), 5, 20, has_action_masks)
    options = {"hidden": (16,), "labels": 9, "entropy_reference": reference, "temperature": FIXED | {"initial": 0.3}}
    learner = make_algorithm("spn_ac", spec, Streams(0), **options)
    with torch.no_grad():  # away from the nearly uniform start
        for parameter in (*learner.policy.parameters(), *learner.target_critic.parameters()):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    batch = random_batch(spec, 12, 2)
    target = learner._target(batch)
    features = learner.config.features(batch.next_observation)
    pi, q = learner.policy(features), learner.target_critic(features)
    for row in range(12):
        allowed = batch.next_available_actions[row]
        joint = [
            u for u in itertools.product(*map(range, spec.cardinalities)) if all(allowed[i, a] for i, a in enumerate(u))
        ]
        values = torch.tensor(joint)
        log_p = pi.log_prob(values[:, None].expand(-1, 12, -1))[:, row]
        log_p = log_p - torch.logsumexp(log_p, 0)
        payoff = q(values[:, None].expand(-1, 12, -1))[:, row]
        soft = (log_p.exp() * (payoff - 0.3 * log_p)).sum()
        if reference == "uniform":
            soft = soft - 0.3 * math.log(len(joint))
        expected = batch.reward[row].mean() + (0.0 if batch.terminated[row] else 0.95 * soft)
        assert target[row].item() == pytest.approx(expected.item(), abs=2e-5)


def learn_game(name, game, steps, seed=0, **options):
    env = make_env("matrix_game", num_envs=32, **game)
    streams = Streams(seed)
    learner = make_algorithm(name, env.spec, streams, hidden=(32,), discount=0.0, **options)
    replay = ReplayBuffer(10_000, env.spec, streams.torch("replay"))
    step = env.reset(seed=seed)
    for iteration in range(steps):
        actions = learner.act(step, explore=True)
        following = env.step(actions)
        replay.add(step, actions, following)
        step = following
        learner.update(replay.sample(64), progress=iteration / steps)
    return learner, step


def test_two_equal_optima_a_joint_policy_keeps_both_and_mean_field_keeps_one():
    """10 on the diagonal of a 2x2 table: the smallest reason to want a joint policy."""
    options = {"temperature": FIXED | {"initial": 1.0}, "learning_rate": 1e-2, "policy_learning_rate": 1e-2}
    joint, step = learn_game("spn_ac", {"game": "diagonal"}, 400, **options)
    pi = joint.policy_at(step)
    table = pi.marginal([0, 1])[0]
    assert pi.total_correlation()[0].item() == pytest.approx(math.log(2), abs=0.02)
    assert table[0, 1] + table[1, 0] < 0.01
    assert table.diagonal().min() > 0.4
    independent, step = learn_game("mean_field", {"game": "diagonal"}, 400, **options)
    pi = independent.policy_at(step)
    assert pi.total_correlation()[0].item() == pytest.approx(0.0, abs=1e-5)
    assert pi.marginal([0, 1])[0].diagonal().max() > 0.95


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 8))])
def test_climbing_reaches_the_optimum(seed):
    options = {"temperature": {"initial": 10.0, "start": 1.0, "end": 0.1, "learning_rate": 3e-2}}
    rates = {"learning_rate": 1e-2, "policy_learning_rate": 1e-2}
    learner, step = learn_game("spn_ac", {"game": "climbing"}, 600, seed=seed, **options, **rates)
    assert learner.act(step, explore=False)[0].tolist() == [0, 0]


def test_masked_actions_are_never_drawn():
    spec = EnvSpec((4, 3, 2), 5, 15, has_action_masks=True)
    learner = make_algorithm("spn_ac", spec, Streams(0), hidden=(16,))
    batch = random_batch(spec, 2_000, 5)
    pi = learner._policy(learner.config.features(batch.observation), batch.available_actions)
    drawn = pi.sample((50,), generator=torch.Generator().manual_seed(0))
    allowed = batch.available_actions.expand(50, -1, -1, -1).gather(-1, drawn.unsqueeze(-1))
    assert allowed.all()
    assert batch.available_actions.gather(-1, pi.mode.unsqueeze(-1)).all()


def test_a_terminal_batch_has_the_reward_as_its_target():
    spec = EnvSpec((3, 3), 4, 8, has_action_masks=False)
    learner = make_algorithm("spn_ac", spec, Streams(0), hidden=(8,))
    batch = random_batch(spec, 20, 6)._replace(terminated=torch.ones(20, dtype=torch.bool))
    np.testing.assert_array_equal(learner._target(batch).numpy(), batch.reward.mean(-1).numpy())


def test_many_agents_get_a_bounded_number_of_pairs_that_touch_everyone():
    spec = EnvSpec((3,) * 12, 4, 48, has_action_masks=False)
    learner = make_algorithm("spn_ac", spec, Streams(0), hidden=(8,), num_pairs=20)
    pairs = [scope for scope in learner.critic.graph.scopes if len(scope) == 2]
    assert len(set(pairs)) == 20
    assert {agent for pair in pairs for agent in pair} == set(range(12))


def test_temperature_finds_the_target_entropy_of_a_fixed_problem():
    """Policies exp(q / alpha) of fixed random q: the tuned alpha brings their mean entropy to the target."""
    q = torch.randn(64, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    temperature = Temperature(TemperatureConfig(initial=1.0, start=0.5, end=0.5, learning_rate=0.02))
    largest = math.log(10)
    for _ in range(2_000):
        entropy = torch.distributions.Categorical(logits=q / temperature.value).entropy().mean().item()
        temperature.update(entropy, largest, 0.0)
    assert abs(entropy - 0.5 * largest) < 0.01


@pytest.mark.parametrize("options", [{"start": 1.2}, {"end": -0.1}, {"initial": 0.0}, {"learning_rate": 0.0}])
def test_targets_beyond_the_largest_entropy_and_other_nonsense_are_refused(options):
    with pytest.raises(ConfigError, match=r"temperature\."):
        TemperatureConfig(**options)
