"""Wolpertinger: its policy, its two losses, and what it learns."""

import itertools
import math

import numpy as np
import pytest
import torch

from spnpolicy.algorithms import make_algorithm
from spnpolicy.base.errors import EnvError
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.data.protocol import Batch
from spnpolicy.networks.nearest import JointCritic
from tests.spnpolicy.learning_cases import CHAIN_VALUE_OF_B, CLIMBING, chain, full_batch, game_spec, learn

SPEC = EnvSpec((3, 2, 4), 2, 5, True)
JOINT = list(itertools.product(range(3), range(2), range(4)))


def shaken(spec=SPEC, seed=0, **options):
    """A learner whose networks, targets included, all differ and are far from flat."""
    learner = make_algorithm("wolpertinger", spec, Streams(seed), **({"network": {"hidden": (16,)}} | options))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for network in (learner.actor, learner.critic, learner.target_actor, learner.target_critic):
            for parameter in network.parameters():
                parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    return learner


def random_batch(rows, seed=1):
    generator = torch.Generator().manual_seed(seed)
    available = torch.rand(2, rows, 3, 4, generator=generator) < 0.6
    available[..., 0] = True
    state = torch.randn(2, rows, 5, generator=generator)
    seen = torch.zeros(rows, 3, 2)
    actions = torch.stack([torch.randint(k, (rows,), generator=generator) for k in SPEC.cardinalities], -1)
    reward = torch.randn(rows, 3, generator=generator)
    ended = torch.rand(rows, generator=generator) < 0.3
    return Batch(seen, state[0], actions, reward, ended, available[0], seen, state[1], available[1])


def step_of(state, available):
    """What environments in these states show."""
    rows, agents, _ = available.shape
    seen, none = np.zeros((rows, agents, 2), np.float32), np.zeros(rows, bool)
    state, available = state.numpy(), available.numpy()
    return Step(seen, state, np.zeros((rows, agents), np.float32), none, none, available, seen, state, available)


def corner(joint):
    """The one-hot point of a joint action."""
    return [float(a == b) for a, k in zip(joint, SPEC.cardinalities, strict=True) for b in range(k)]


def best_by_hand(critic, state, point, available, count):
    """Value and action of the best of the nearest joint actions, one state at a time."""
    allowed = [u for u in JOINT if all(available[agent, action] for agent, action in enumerate(u))]
    near = sorted(allowed, key=lambda u: math.dist(corner(u), point.tolist()))[:count]
    values = {u: critic.at(state[None], torch.tensor([[corner(u)]])).item() for u in near}
    return max(values, key=lambda u: values[u]), max(values.values())


@pytest.mark.parametrize("neighbours", [24, 1000])
def test_with_all_neighbours_the_policy_is_greedy(neighbours):
    learner, batch = shaken(neighbours=neighbours), random_batch(40)
    actions = learner.act(step_of(batch.state, batch.available_actions), explore=False)
    for row in range(40):
        somewhere = torch.zeros(9)
        best, _ = best_by_hand(learner.critic, batch.state[row], somewhere, batch.available_actions[row], 1000)
        assert tuple(actions[row]) == best


@pytest.mark.parametrize("neighbours", [1, 4])
def test_the_policy_is_the_best_of_the_nearest(neighbours):
    learner, batch = shaken(neighbours=neighbours), random_batch(40)
    actions = learner.act(step_of(batch.state, batch.available_actions), explore=False)
    points = learner.actor(batch.state)
    for row in range(40):
        available = batch.available_actions[row]
        best, _ = best_by_hand(learner.critic, batch.state[row], points[row], available, neighbours)
        assert tuple(actions[row]) == best


def test_the_critic_learns_executed_actions_towards_the_whole_target_policy():
    learner, batch = shaken(neighbours=3), random_batch(40)
    batch.next_available_actions[7, 1] = False  # an episode that is over may allow nothing
    found = learner._targets(batch)
    points, online_points = learner.target_actor(batch.next_state), learner.actor(batch.next_state)
    errors, differences = [], np.zeros(2)
    for row in range(40):
        state, available = batch.next_state[row], batch.next_available_actions[row]
        value = 0.0
        if row != 7:
            _, value = best_by_hand(learner.target_critic, state, points[row], available, 3)
            _, other = best_by_hand(learner.target_critic, state, online_points[row], available, 3)
            _, nearest = best_by_hand(learner.target_critic, state, points[row], available, 1)
            differences += abs(value - other) > 1e-3, abs(value - nearest) > 1e-3
        expected = batch.reward[row].mean().item() + (0.0 if batch.terminated[row] else 0.95 * value)
        assert found[row].item() == pytest.approx(expected, abs=1e-5)
        executed = torch.tensor([[corner(batch.actions[row].tolist())]])
        errors.append((learner.critic.at(batch.state[row][None], executed).item() - expected) ** 2)
    assert (differences > 5).all()  # the target's actor and the choice among neighbours both matter
    assert learner.update(batch, progress=0.0)["critic_loss"] == pytest.approx(np.mean(errors), rel=1e-4)


def test_the_actor_follows_the_slope_at_its_own_point():
    learner, batch = shaken(), random_batch(20)
    actor, critic = learner.actor.double(), learner.critic.double()
    batch = batch._replace(state=batch.state.double())
    loss, value = learner._actor_loss(batch)
    loss.backward()
    assert all(parameter.grad is None for parameter in critic.parameters())

    def mean_value():
        with torch.no_grad():
            return critic.at(batch.state, actor(batch.state).unsqueeze(-2)).mean().item()

    assert value.item() == pytest.approx(mean_value())
    step = 1e-5
    for parameter in actor.parameters():
        flat, slope = parameter.data.view(-1), parameter.grad.view(-1)
        for place in range(0, len(flat), max(1, len(flat) // 5)):
            flat[place] += step
            above = mean_value()
            flat[place] -= 2 * step
            below = mean_value()
            flat[place] += step
            assert -slope[place].item() == pytest.approx((above - below) / (2 * step), abs=1e-7)
    assert actor.network[1][0].weight.grad.abs().max() > 1e-3
    # What was executed has no part in it.
    other, _ = learner._actor_loss(batch._replace(actions=torch.zeros_like(batch.actions)))
    assert other.item() == pytest.approx(loss.item(), rel=1e-12)


def test_noise_moves_the_point_before_the_search():
    options = {"neighbours": 1, "exploration": {"start": 0.0, "end": 0.0}}
    batch = random_batch(200)
    step = step_of(batch.state, batch.available_actions)
    quiet = shaken(**options, noise={"start": 0.0, "end": 0.0})
    np.testing.assert_array_equal(quiet.act(step, explore=True), quiet.act(step, explore=False))
    loud = shaken(**options, noise={"start": 0.7, "end": 0.7})
    greedy = loud.act(step, explore=False)
    before = loud._generator.get_state()
    assert (loud.act(step, explore=True) != greedy).any(-1).mean() > 0.3
    # With one neighbour, what is played is the nearest to the noisy point.
    loud._generator.set_state(before)
    noise = torch.randn(200, 9, generator=loud._generator)
    loud._generator.set_state(before)
    played = loud.act(step, explore=True)
    points = loud.actor(batch.state).detach() + 0.7 * noise
    for row in range(200):
        nearest, _ = best_by_hand(loud.critic, batch.state[row], points[row], batch.available_actions[row], 1)
        assert tuple(played[row]) == nearest
    # Far noise changes nothing if all joint actions are neighbours: random joint actions do then.
    everything = shaken(neighbours=24, exploration={"start": 1.0, "end": 1.0})
    assert (everything.act(step, explore=True) != everything.act(step, explore=False)).any(-1).mean() > 0.5


def test_an_agent_that_may_do_nothing_is_reported():
    batch = random_batch(5)
    batch.available_actions[3, 1] = False
    batch.available_actions[3, 1, 3] = True  # the second agent has two actions only
    with pytest.raises(EnvError, match="env 3: agent 1 has no available action"):
        shaken().act(step_of(batch.state, batch.available_actions), explore=False)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("ending", CHAIN_VALUE_OF_B)
def test_time_limits_bootstrap_and_ends_do_not(ending):
    options = {
        "discount": 0.8,
        "network": {"hidden": (32,)},
        "critic": {"learning_rate": 1e-2},
        "target": {"rate": 0.2},
        "neighbours": 2,
    }
    learner = learn("wolpertinger", chain(ending), updates=400, batch_size=64, **options)
    joint = torch.tensor(list(itertools.product(range(2), range(3)))).expand(2, 6, 2)
    values = learner.critic(torch.eye(2), joint).amax(-1).detach()
    expected = [0.8 * CHAIN_VALUE_OF_B[ending], CHAIN_VALUE_OF_B[ending]]
    np.testing.assert_allclose(values, expected, rtol=0.01)


def test_the_best_joint_action_of_climbing():
    options = {"network": {"hidden": (32,), "features": {"frequencies": 0}}, "critic": {"learning_rate": 1e-2}}
    learner = make_algorithm("wolpertinger", game_spec(CLIMBING), Streams(0), **options)
    batch = full_batch(CLIMBING)
    for _ in range(300):
        learner.update(batch, progress=0.0)
    step = step_of(batch.state[:1], batch.available_actions[:1])
    assert learner.act(step, explore=False).tolist() == [[0, 0]]


ACTIONS = 1000
"""Actions of the agent on a line, from -1 to 1."""


class _Parabola(JointCritic):
    """A critic that knows the reward -(x - x*)^2."""

    def __init__(self, embedding, best):
        torch.nn.Module.__init__(self)
        self.embedding, self.best = embedding, best

    def at(self, state, points):
        return -(points[..., 0] - self.best).square()

    def forward(self, state, actions):
        return self.at(state, self.embedding(actions))


@pytest.mark.parametrize("star", [123, 700])
def test_the_point_climbs_a_smooth_value_to_the_best_cell(star):
    spec = EnvSpec((ACTIONS,), 1, 1, False)
    options = {"network": {"hidden": (16,)}, "embedding": "code", "neighbours": 1, "actor": {"learning_rate": 3e-3}}
    learner = make_algorithm("wolpertinger", spec, Streams(0), **options)
    learner.critic = _Parabola(learner.critic.embedding, -1.0 + 2.0 * star / (ACTIONS - 1))
    batch = Batch(*(torch.ones(1, 1) for _ in Batch._fields[:9]))
    step = step_of(torch.ones(1, 1), torch.ones(1, 1, ACTIONS, dtype=torch.bool))
    assert abs(learner.act(step, explore=False)[0, 0] - star) > 100
    for _ in range(400):
        loss, _ = learner._actor_loss(batch)
        learner.actor_optimizer.zero_grad()
        loss.backward()
        learner.actor_optimizer.step()
    assert abs(learner.act(step, explore=False)[0, 0] - star) <= 1


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "star"), [(0, 700), (1, 123), (2, 400)])
def test_a_thousand_actions_on_a_line_are_learned_from_rewards(seed, star):
    """Here the critic is learned too. In a pilot, these seeds ended 3 cells off at most; 5 are allowed."""
    spec = EnvSpec((ACTIONS,), 1, 1, False)
    options = {
        "network": {"hidden": (64, 64)},
        "critic": {"learning_rate": 2e-3},
        "actor": {"learning_rate": 1e-3},
        "target": {"rate": 0.05},
    }
    options |= {"embedding": "code", "neighbours": 50, "noise": {"start": 0.5, "end": 0.02, "share": 0.6}}
    options |= {"exploration": {"start": 0.2, "end": 0.0, "share": 0.6}}
    learner = make_algorithm("wolpertinger", spec, Streams(seed), **options)
    generator = torch.Generator().manual_seed(seed)
    step = step_of(torch.ones(16, 1), torch.ones(16, 1, ACTIONS, dtype=torch.bool))
    one, mask, ended = torch.ones(64, 1, 1), torch.ones(64, 1, ACTIONS, dtype=torch.bool), torch.ones(64) > 0
    played = torch.zeros(0, dtype=torch.long)
    for update in range(1500):
        new = learner.act(step, explore=True, progress=update / 1500)[:, 0]
        played = torch.cat([played, torch.from_numpy(new)])[-2000:]
        actions = played[torch.randint(len(played), (64,), generator=generator)]
        away = 2.0 * (actions - star) / (ACTIONS - 1)
        reward = -100.0 * away.square()[:, None]
        learner.update(
            Batch(one, one[:, 0], actions[:, None], reward, ended, mask, one, one[:, 0], mask), progress=update / 1500
        )
    assert abs(learner.act(step, explore=False)[0, 0] - star) <= ACTIONS / 200
