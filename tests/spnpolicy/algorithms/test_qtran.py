"""QTRAN: its three terms and who learns from them, the games it was made for, and the two-state chain."""

import itertools

import numpy as np
import pytest
import torch

from spnpolicy.algorithms import make_algorithm
from spnpolicy.base.errors import ConfigError
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec
from spnpolicy.data.protocol import Batch
from tests.spnpolicy.learning_cases import (
    CHAIN_VALUE_OF_B,
    CLIMBING,
    as_window,
    chain,
    chain_observation,
    full_batch,
    game_spec,
    learn,
    rates,
)
from tests.spnpolicy.maths.igm import check_igm

GAME = [[8.0, -12.0, -12.0], [-12.0, 0.0, 0.0], [-12.0, 0.0, 0.0]]
VARIANTS = ["base", "alt"]


def tables(algorithm, batch):
    """Utilities [row, agent, action], joint values {joint action: [row]} and offsets [row], from the networks."""
    networks, agents = algorithm.critic, batch.actions.shape[-1]
    joint = itertools.product(range(batch.available_actions.shape[-1]), repeat=agents)
    with torch.no_grad():
        codes = networks.joint.codes(batch)
        values = {
            u: networks.joint(codes, torch.tensor(u).expand_as(batch.actions), batch.state).tolist() for u in joint
        }
        offset = networks.offset(batch.state)[..., 0].tolist()
        return networks.utilities(batch.observation).tolist(), values, offset


def train(payoff, updates, seed, variant, **options):
    """Train on all joint actions at once; return greedy payoff, transformed minus joint value, and their agreement."""
    options = {"network": {"hidden": (32,)}, "embedding": 32, **rates(critic=2e-3), "lambda_nopt": 1.0} | options
    algorithm = make_algorithm("qtran", game_spec(payoff), Streams(seed), variant=variant, **options)
    batch = full_batch(payoff)
    for update in range(updates):
        if update in (updates * 6 // 10, updates * 8 // 10):
            algorithm.critic_optimizer.param_groups[0]["lr"] /= 10.0
        algorithm.update(batch, progress=0.0)
    utilities, values, offset = tables(algorithm, batch)
    first, second = utilities[0]
    gaps = [first[a] + second[b] + offset[0] - values[a, b][0] for a, b in values]
    table = torch.tensor([[values[a, b][0] for b in range(3)] for a in range(3)])
    agreement = check_igm(table, [torch.tensor(first), torch.tensor(second)], tol=1e-2)
    return payoff[int(np.argmax(first))][int(np.argmax(second))], min(gaps), agreement


def assert_solved(seed, variant, updates):
    payoff, smallest_gap, agreement = train(GAME, updates, seed, variant)
    assert payoff == 8.0
    assert agreement.holds
    # "alt" asks for 0 and not only for no less, so it is approached from both sides
    assert smallest_gap >= {"base": -1e-3, "alt": -5e-3}[variant]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("variant", VARIANTS)
def test_its_game_is_solved_below_an_upper_bound(variant):
    assert_solved(0, variant, 450)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_its_game_is_solved_from_every_seed(variant):
    for seed in range(10):
        assert_solved(seed, variant, {"base": 600, "alt": 1000}[variant])


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_climbing_game_is_solved_from_most_seeds(variant):
    payoffs = [train(CLIMBING, 800, seed, variant)[0] for seed in range(10)]
    assert payoffs.count(11.0) >= 8


def disagreeing(**options):
    """A learner of two agents whose online and target networks differ, and a batch with masks."""
    spec = EnvSpec((3, 2), 4, 2, True)
    algorithm = make_algorithm(
        "qtran", spec, Streams(0), network={"hidden": (16,)}, embedding=8, discount=0.5, **options
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (*algorithm.critic.parameters(), *algorithm.target_critic.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    seen, following = torch.randn(2, 40, 2, 4, generator=generator)
    state, next_state = torch.randn(2, 40, 2, generator=generator)
    masks = torch.rand(2, 40, 2, 3, generator=generator) < 0.7
    masks[..., 0], masks[..., 1, 2] = True, False
    actions = torch.rand(40, 2, 3, generator=generator).masked_fill(~masks[0], -1.0).argmax(-1)
    reward, ended = torch.randn(40, 2, generator=generator), torch.arange(40) % 4 == 0
    return algorithm, Batch(seen, state, actions, reward, ended, masks[0], following, next_state, masks[1])


def terms_of(algorithm, batch):
    """The parts of the loss, towards the targets of now."""
    selector = algorithm.utilities.following(batch) if algorithm.config.double_q else None
    return algorithm.terms(batch, algorithm.targets(batch, selector))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_terms_of_agreement_equal_their_definition(variant):
    algorithm, batch = disagreeing(variant=variant)
    utilities, values, offset = tables(algorithm, batch)
    opt, nopt = [], []
    for row, taken in enumerate(batch.actions.tolist()):
        allowed = [[a for a in range(3) if batch.available_actions[row, agent, a]] for agent in range(2)]

        def gap(u, row=row):
            return sum(utilities[row][agent][u[agent]] for agent in range(2)) + offset[row] - values[tuple(u)][row]

        best = [max(allowed[agent], key=lambda a, own=utilities[row][agent]: own[a]) for agent in range(2)]
        opt.append(gap(best) ** 2)
        if variant == "base":
            nopt.append(min(gap(taken), 0.0) ** 2)
        else:
            first = min(gap([a, taken[1]]) for a in allowed[0])
            second = min(gap([taken[0], a]) for a in allowed[1])
            nopt.append(first**2 + second**2)
    terms = terms_of(algorithm, batch)
    assert terms.opt.item() == pytest.approx(np.mean(opt), rel=1e-4)
    assert terms.nopt.item() == pytest.approx(np.mean(nopt), rel=1e-4)
    if variant == "base":  # the bound is broken in some rows and kept in others
        assert 0 < np.count_nonzero(nopt) < len(nopt)


@pytest.mark.parametrize("double_q", [True, False])
def test_the_joint_value_learns_from_the_target_network_at_the_best_next_actions(double_q):
    algorithm, batch = disagreeing(double_q=double_q)
    with torch.no_grad():
        chooser = algorithm.critic if double_q else algorithm.target_critic
        utilities = chooser.utilities(batch.next_observation)
        best = utilities.masked_fill(~batch.next_available_actions, -torch.inf).argmax(-1)
        as_now = batch._replace(observation=batch.next_observation)
        following = algorithm.target_critic.joint(algorithm.target_critic.joint.codes(as_now), best, batch.next_state)
        y = batch.reward.mean(-1) + 0.5 * following * (~batch.terminated)
        now = algorithm.critic.joint(algorithm.critic.joint.codes(batch), batch.actions, batch.state)
    found = algorithm.update(batch, progress=0.0)["td"]
    assert found == pytest.approx((now - y).square().mean().item(), rel=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_gradient_goes_where_it_must_not(variant):
    algorithm, batch = disagreeing(variant=variant)
    networks = algorithm.critic
    critic = list(networks.joint.parameters())
    others = [*networks.utilities.parameters(), *networks.offset.parameters()]
    for term, learns, rests in (("td", critic, others), ("opt", others, critic), ("nopt", others, critic)):
        loss = getattr(terms_of(algorithm, batch), term)
        gradients = torch.autograd.grad(loss, [*learns, *rests], allow_unused=True)
        assert all(gradient is not None and gradient.any() for gradient in gradients[: len(learns)])
        assert all(gradient is None for gradient in gradients[len(learns) :])


def test_no_target_network_is_used_in_the_terms_of_agreement():
    algorithm, batch = disagreeing()
    before = terms_of(algorithm, batch)
    with torch.no_grad():
        for parameter in algorithm.target_critic.parameters():
            parameter.mul_(2.0)
    after = terms_of(algorithm, batch)
    assert (before.opt.item(), before.nopt.item()) == (after.opt.item(), after.nopt.item())
    assert before.td.item() != after.td.item()


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_that_are_not_valid_count_nothing(variant):
    algorithm, batch = disagreeing(variant=variant)
    kept = torch.arange(40) != 7
    expected = terms_of(algorithm, Batch(*(None if part is None else part[kept] for part in batch)))
    window = as_window(batch)
    reward, valid = window.reward.clone(), window.valid.clone()
    reward[0, 7], valid[0, 7] = 1e6, False
    found = terms_of(algorithm, window._replace(reward=reward, valid=valid))
    for ours, theirs in zip(found[:3], expected[:3], strict=True):
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


CHAIN = {"discount": 0.8, "network": {"hidden": (32,)}, "embedding": 32, **rates(critic=3e-3), "target": {"rate": 0.2}}


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("ending", "options"),
    [("terminated", {}), ("truncated", {"variant": "alt", "share_parameters": False}), ("truncated", {})],
)
def test_time_limits_bootstrap_and_ends_do_not(ending, options):
    algorithm = learn("qtran", chain(ending), updates=300, **(CHAIN | options))
    critic = algorithm.critic.joint
    joint = torch.cartesian_prod(torch.arange(2), torch.arange(3)).repeat(2, 1)
    observation, state = (part.repeat_interleave(6, 0) for part in chain_observation())
    with torch.no_grad():
        codes = critic.encoder(observation).unflatten(-1, (3, -1))
        found = critic(codes, joint, state).reshape(2, 6)
    value_b = CHAIN_VALUE_OF_B[ending]
    np.testing.assert_allclose(found, np.broadcast_to([[0.8 * value_b], [value_b]], found.shape), rtol=0.01)


def recurrent_values(algorithm):
    """Q_jt of A and then B as a recurrent critic sees them in one window that begins with an episode."""
    observation, state = (part.unsqueeze(1) for part in chain_observation())
    ended, zero = torch.zeros(2, 1, dtype=torch.bool), torch.zeros(2, 1, 2)
    mask = torch.ones(2, 1, 2, 3, dtype=torch.bool)
    # the critic must not take what the acting network remembers for its own memory
    memory = torch.full((1, 2, algorithm.needs.memory_size), 1e3)
    window = Batch(observation, state, zero.long(), zero, ended, mask, observation, state, mask, ended, ~ended, memory)
    with torch.no_grad():
        critic = algorithm.critic.joint
        return critic(critic.codes(window), window.actions, window.state).flatten()


SLOW_GUESS = pytest.param("truncated", 0.2, marks=pytest.mark.slow)


# What is remembered where the clock stops (A, B, B) is never learned from: its value is a guess of the network.
@pytest.mark.full
@pytest.mark.parametrize(
    ("ending", "tolerance"), [("terminated", 0.01), pytest.param("truncated", 0.2, marks=pytest.mark.slow)]
)
def test_a_recurrent_learner_knows_the_chain(ending, tolerance):
    options = CHAIN | {"network": {"kind": "recurrent", "hidden": (16,)}, "sequence_length": 4}
    algorithm = learn("qtran", chain(ending), updates=250, batch_size=128, **options)
    value_b = CHAIN_VALUE_OF_B[ending]
    np.testing.assert_allclose(recurrent_values(algorithm), [0.8 * value_b, value_b], rtol=tolerance)


def test_settings_are_checked():
    for name in ("lambda_opt", "lambda_nopt"):
        with pytest.raises(ConfigError, match=rf"{name} is -1.0, but must be between 0 and"):
            make_algorithm("qtran", EnvSpec((2,), 1, 1, False), Streams(0), **{name: -1.0})
    with pytest.raises(ConfigError, match=r"variant"):
        make_algorithm("qtran", EnvSpec((2,), 1, 1, False), Streams(0), variant="other")
