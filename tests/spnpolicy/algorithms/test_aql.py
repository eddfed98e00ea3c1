"""Amortized Q-learning: proposals against enumeration, targets against Q-learning, and what it learns."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from circuits import structures
from spnpolicy.algorithms import make_algorithm
from spnpolicy.base.errors import EnvError
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.data.protocol import Batch
from spnpolicy.networks import proposals
from spnpolicy.networks.encoders import Flat
from spnpolicy.networks.features import FourierFeatures
from tests.spnpolicy.learning_cases import CHAIN_VALUE_OF_B, CLIMBING, ENDINGS, chain, full_batch, game_spec, learn

KINDS = ["autoregressive", "circuit"]
CARDINALITIES = (3, 2, 4)
JOINT = torch.tensor(list(itertools.product(*map(range, CARDINALITIES))))
FALSE_ALARM = 1e-6
"""Probability with which a chi-square test of correct draws fails."""


def shake(module, seed=0, size=0.5):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return module


def proposal_of(kind, size=5):
    encoder = Flat(FourierFeatures(0), size)
    if kind == "circuit":
        return shake(proposals.CircuitProposal(CARDINALITIES, encoder, (8,), 12), size=0.2)
    return shake(proposals.AutoregressiveProposal(CARDINALITIES, encoder, (8,)))


def joint_log_probs(proposal, seen, available):
    """Log probability of every joint action in each state, shape (states, joint actions)."""
    everything = JOINT.expand(len(seen), -1, -1)
    if isinstance(proposal, proposals.CircuitProposal):
        return proposal.distribution(seen, available).log_prob(everything.movedim(1, 0)).T
    log_probs = []
    for actions in everything.unbind(1):
        log_probs.append(proposal.fit_terms(seen, available, actions, actions.unsqueeze(-2))[0])
    return torch.stack(log_probs, -1)


def random_masks(rows, seed=3):
    generator = torch.Generator().manual_seed(seed)
    exists = torch.arange(4) < torch.tensor(CARDINALITIES)[:, None]
    available = (torch.rand(rows, 3, 4, generator=generator) < 0.6) & exists
    available[..., 0] = True
    return available


def allowed_joint(available):
    """Which joint actions the masks allow, shape (rows, joint actions)."""
    return torch.stack([available[:, agent, JOINT[:, agent]] for agent in range(3)]).all(0)


def require_frequencies(draws, probability):
    """Chi-square test of draws, shape (draws, agents), of joint actions with these probabilities."""
    index = (draws[:, 0] * 2 + draws[:, 1]) * 4 + draws[:, 2]
    counts = torch.bincount(index, minlength=24)
    assert (counts[probability == 0] == 0).all()
    possible = probability > 0
    expected, counts = (probability * len(draws))[possible].double(), counts[possible].double()
    # The approximation by a chi-square distribution wants 5 expected draws in each cell: rare ones share a cell.
    rare = expected < 5
    if rare.any():
        expected = torch.cat([expected[~rare], expected[rare].sum(0, keepdim=True).clamp_min(1e-9)])
        counts = torch.cat([counts[~rare], counts[rare].sum(0, keepdim=True)])
    result = stats.chisquare(counts.numpy(), (expected * len(draws) / expected.sum()).numpy())
    assert result.pvalue > FALSE_ALARM


@pytest.mark.parametrize("kind", KINDS)
def test_proposals_are_normalised_draw_exactly_and_never_what_is_forbidden(kind, generator):
    proposal = proposal_of(kind)
    seen, available = torch.randn(4, 5, generator=generator), random_masks(4)
    with torch.no_grad():
        probability = joint_log_probs(proposal, seen, available).exp()
    torch.testing.assert_close(probability.sum(-1), torch.ones(4))
    assert torch.equal(probability > 0, allowed_joint(available))
    spread = probability.amax(-1) / probability.where(probability > 0, 1.0).amin(-1)
    assert (spread > 2).all()  # far from uniform
    draws = proposal.draw(seen, available, 20_000, generator)
    for row in range(4):
        require_frequencies(draws[row], probability[row])
    likely = proposal.draw(seen, available, 1, None)[:, 0]
    if kind == "circuit":
        assert torch.equal(likely, JOINT[probability.argmax(-1)])
    else:
        log_probs, _ = proposal.log_probs(seen, available, likely.unsqueeze(1))
        first = torch.stack([probability[:, JOINT[:, 0] == a].sum(-1) for a in range(3)], -1)
        torch.testing.assert_close(log_probs[:, 0, 0].exp(), first.amax(-1))


@pytest.mark.parametrize("kind", KINDS)
def test_the_terms_of_the_loss_equal_enumeration(kind, generator):
    proposal = proposal_of(kind)
    seen, available = torch.randn(3, 5, generator=generator), random_masks(3)
    with torch.no_grad():
        log_prob = joint_log_probs(proposal, seen, available)
        draws = proposal.draw(seen, available, 4000, generator)
        best = draws[:, 0]
        found, entropy = proposal.fit_terms(seen, available, best, draws)
    place = (JOINT == best.unsqueeze(1)).all(-1).int().argmax(-1)
    torch.testing.assert_close(found, log_prob.gather(-1, place.unsqueeze(-1)).squeeze(-1))
    exact = -(log_prob.exp() * log_prob.where(log_prob.isfinite(), 0.0)).sum(-1)
    torch.testing.assert_close(entropy, exact, atol=1e-5 if kind == "circuit" else 0.05, rtol=0)


def test_the_entropy_estimate_and_its_gradient_are_right_on_average(generator):
    """Two agents with tables as conditionals; the average over draws is taken by enumeration, not by sampling."""
    first = torch.randn(2, dtype=torch.float64, generator=generator).requires_grad_()
    second = torch.randn(2, 3, dtype=torch.float64, generator=generator).requires_grad_()

    def tables():
        return first.log_softmax(-1), second.log_softmax(-1)

    one, two = tables()
    joint = one[:, None] + two
    exact = -(joint.exp() * joint).sum()
    slopes = torch.autograd.grad(exact, (first, second))
    pairs = list(itertools.product(range(2), range(3)))
    probability = joint.exp().detach()
    for count in (1, 2):
        value, gradients = 0.0, [torch.zeros(2).double(), torch.zeros(2, 3).double()]
        without_score = torch.zeros(2).double()
        for drawn in itertools.product(pairs, repeat=count):
            one, two = tables()
            log_prob = torch.stack([torch.stack([one[a], two[a, b]]) for a, b in drawn])
            entropy = torch.stack(
                [torch.stack([-(one.exp() * one).sum(), -(two[a].exp() * two[a]).sum()]) for a, _ in drawn]
            )
            estimate = proposals.entropy_estimate(log_prob, entropy)
            weight = math.prod(probability[pair].item() for pair in drawn)
            value += weight * estimate.item()
            found = torch.autograd.grad(estimate, (first, second), retain_graph=True)
            gradients = [total + weight * slope for total, slope in zip(gradients, found, strict=True)]
            (plain,) = torch.autograd.grad(entropy.sum(-1).mean(), first)
            without_score += weight * plain
        assert value == pytest.approx(exact.item())
        for found, expected in zip(gradients, slopes, strict=True):
            torch.testing.assert_close(found, expected)
        assert (without_score - slopes[0]).abs().max() > 0.01  # the score is needed


def test_uniform_draws_are_uniform_over_what_is_available(generator):
    available = random_masks(4)
    draws = proposals.uniform_joint_actions(available, 20_000, generator)
    allowed = allowed_joint(available).float()
    for row in range(4):
        require_frequencies(draws[row], allowed[row] / allowed[row].sum())
    counts = proposals.num_distinct(draws[:, :10])
    assert counts.tolist() == [len({tuple(action) for action in row[:10].tolist()}) for row in draws]
    actions = torch.zeros(20_000, 3, dtype=torch.long)
    masks = available[:1].expand(20_000, -1, -1)
    before = generator.get_state()
    assert proposals.sometimes_uniform(actions, masks, epsilon=0.0, generator=generator) is actions
    assert torch.equal(generator.get_state(), before)
    mixed = proposals.sometimes_uniform(actions, masks, epsilon=0.25, generator=generator)
    share = 0.25 * allowed[0] / allowed[0].sum()
    share[0] += 0.75
    require_frequencies(mixed, share)


SPEC = EnvSpec(CARDINALITIES, 2, 5, True)


def random_batch(rows, seed=1):
    generator = torch.Generator().manual_seed(seed)
    state = torch.randn(2, rows, 5, generator=generator)
    seen = torch.zeros(rows, 3, 2)
    actions = torch.stack([torch.randint(k, (rows,), generator=generator) for k in CARDINALITIES], -1)
    reward = torch.randn(rows, 3, generator=generator)
    ended = torch.rand(rows, generator=generator) < 0.3
    return Batch(seen, state[0], actions, reward, ended, random_masks(rows, 5), seen, state[1], random_masks(rows, 6))


def step_of(state, available):
    rows, agents, _ = available.shape
    seen, none = np.zeros((rows, agents, 2), np.float32), np.zeros(rows, bool)
    state, available = state.numpy(), available.numpy()
    return Step(seen, state, np.zeros((rows, agents), np.float32), none, none, available, seen, state, available)


@pytest.mark.parametrize("kind", KINDS)
def test_with_candidates_that_cover_everything_it_is_q_learning(kind):
    # A given one of 24 joint actions is missing from 800 uniform draws with a probability of 2e-15.
    learner = make_algorithm("aql", SPEC, Streams(0), network={"hidden": (16,)}, proposal=kind, num_uniform=800)
    shake(learner.critic)
    shake(learner.target_critic, 1)
    batch = random_batch(60)
    batch.next_available_actions[7, 1] = False  # an episode that is over may allow nothing
    everything = JOINT.expand(60, -1, -1)
    with torch.no_grad():
        following = learner.target_critic(batch.next_state, everything)
        following = following.where(allowed_joint(batch.next_available_actions), -math.inf)
        largest = following.amax(-1)
        largest[7] = 0.0
        reward = batch.reward.mean(-1)
        expected = torch.where(batch.terminated, reward, reward + 0.95 * largest)
        torch.testing.assert_close(learner._targets(batch), expected)
        everything_values = learner.critic(batch.state, everything)
        values = everything_values.where(allowed_joint(batch.available_actions), -math.inf)
    actions = learner.act(step_of(batch.state, batch.available_actions), explore=False)
    np.testing.assert_array_equal(actions, JOINT[values.argmax(-1)])
    numbers = learner.update(batch, progress=0.0)
    counts = allowed_joint(batch.available_actions).sum(-1).float().mean().item()
    assert numbers["candidates"] == pytest.approx(counts)
    assert numbers["best_value"] == pytest.approx(values.amax(-1).mean().item(), abs=1e-5)
    place = (JOINT == batch.actions.unsqueeze(1)).all(-1).int().argmax(-1)
    taken = everything_values.gather(-1, place.unsqueeze(-1)).squeeze(-1)
    assert numbers["critic_loss"] == pytest.approx((taken - expected).square().mean().item(), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_few_candidates_underestimate_and_never_exceed(kind):
    learner = make_algorithm("aql", SPEC, Streams(0), proposal=kind, num_uniform=2, num_proposed=1, discount=1.0)
    shake(learner.target_critic, 1)
    batch = random_batch(200)
    batch = batch._replace(terminated=torch.zeros(200) > 0, reward=torch.zeros(200, 3))
    with torch.no_grad():
        following = learner.target_critic(batch.next_state, JOINT.expand(200, -1, -1))
    largest = following.where(allowed_joint(batch.next_available_actions), -math.inf).amax(-1)
    found = learner._targets(batch)
    assert (found <= largest + 1e-5).all()
    assert (found < largest - 1e-3).float().mean() > 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_play_is_fixed_by_the_state_and_considers_the_likeliest(kind):
    options = {"num_uniform": 0, "num_proposed": 1, "proposal": kind, "entropy_draws": 1}
    streams = Streams(0)
    learner = make_algorithm("aql", SPEC, streams, **options)
    shake(learner.critic)
    shake(learner.actor, 1, 0.3)
    batch = random_batch(50)
    generators = learner._generator, learner._candidate_generator
    before = [generator.get_state() for generator in generators]
    step = step_of(batch.state, batch.available_actions)
    actions = learner.act(step, explore=False)
    np.testing.assert_array_equal(actions, learner.act(step, explore=False))
    assert all(map(torch.equal, before, [generator.get_state() for generator in generators]))
    with torch.no_grad():
        likely = learner.actor.draw(batch.state, batch.available_actions, 1, None)
        chosen = torch.from_numpy(actions).unsqueeze(1)
        assert (learner.critic(batch.state, chosen) >= learner.critic(batch.state, likely)).all()
    assert (learner.act(step, explore=True, progress=0.0) != actions).any()
    batch.available_actions[3, 1] = False
    with pytest.raises(EnvError, match="env 3: agent 1 has no available action"):
        learner.act(step_of(batch.state, batch.available_actions), explore=False)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_what_the_definition_says_and_rows_that_failed_do_not_count(kind):
    learner = make_algorithm("aql", SPEC, Streams(0), proposal=kind, entropy_weight=0.3, network={"hidden": (16,)})
    shake(learner.actor, 1, 0.3)
    batch = random_batch(30)
    valid = torch.arange(30) < 20
    state = learner._candidate_generator.get_state()
    loss, numbers = learner.actor_loss(batch._replace(valid=valid))
    learner._candidate_generator.set_state(state)
    with torch.no_grad():
        candidates = learner._candidates(batch.state, batch.available_actions, learner._candidate_generator)
        values = learner.critic(batch.state, candidates)
        best = candidates[torch.arange(30), values.argmax(-1)]
        log_prob, entropy = learner.actor.fit_terms(batch.state, batch.available_actions, best, candidates[:, :8])
    assert loss.item() == pytest.approx(-(log_prob + 0.3 * entropy)[:20].mean().item(), rel=1e-5)
    assert numbers["entropy"] == pytest.approx(entropy[:20].mean().item(), rel=1e-5)


FEW = {"num_proposed": 5, "num_uniform": 20, "entropy_draws": 2}


@pytest.mark.parametrize("kind", ["autoregressive", pytest.param("circuit", marks=pytest.mark.slow)])
@pytest.mark.parametrize("ending", ENDINGS)
def test_time_limits_bootstrap_and_ends_do_not(ending, kind):
    options = {
        "discount": 0.8,
        "network": {"hidden": (32,)},
        "critic": {"learning_rate": 1e-2},
        "target": {"rate": 0.2},
        "proposal": kind,
    }
    learner = learn("aql", chain(ending), updates=150, batch_size=64, **options, **FEW)
    joint = torch.tensor(list(itertools.product(range(2), range(3)))).expand(2, 6, 2)
    values = learner.critic(torch.eye(2), joint).amax(-1).detach()
    expected = [0.8 * CHAIN_VALUE_OF_B[ending], CHAIN_VALUE_OF_B[ending]]
    np.testing.assert_allclose(values, expected, rtol=0.01)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("kind", KINDS)
def test_the_best_joint_action_of_climbing(kind):
    options = {
        "network": {"hidden": (32,), "features": {"frequencies": 0}},
        "critic": {"learning_rate": 1e-2},
        "actor": {"learning_rate": 1e-2},
    }
    learner = make_algorithm("aql", game_spec(CLIMBING), Streams(0), proposal=kind, **options, **FEW)
    batch = full_batch(CLIMBING)
    for _ in range(200):
        learner.update(batch, progress=0.0)
    step = step_of(batch.state[:1], batch.available_actions[:1])
    assert learner.act(step, explore=False).tolist() == [[0, 0]]
    assert learner.actor.draw(batch.state[:1], batch.available_actions[:1], 1, None).tolist() == [[[0, 0]]]


class PairwiseValues(nn.Module):
    """Fixed random values: a table per pair of agents, linear in the state."""

    def __init__(self, embedding, agents, actions, state_size, seed):
        super().__init__()
        self.embedding, self.agents, self.actions = embedding, agents, actions
        self.pairs = list(itertools.combinations(range(agents), 2))
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(len(self.pairs), actions, actions, state_size, generator=generator)

    def forward(self, state, actions):
        tables = torch.einsum("pabs,ns->npab", self.weight, state).flatten(1)
        places = [(p * self.actions + actions[..., i]) * self.actions + actions[..., j] for p, (i, j) in self.listed()]
        places = torch.stack(places, -1)
        return tables.gather(1, places.flatten(1)).view(places.shape).sum(-1)

    def listed(self):
        return list(enumerate(self.pairs))

    def largest(self, state):
        """The true maximum of each state, by building the whole table."""
        found = []
        for tables in torch.einsum("pabs,ns->npab", self.weight, state):
            total = torch.zeros([self.actions] * self.agents)
            for p, (i, j) in self.listed():
                shape = [1] * self.agents
                shape[i] = shape[j] = self.actions
                total += tables[p].view(shape)
            found.append(total.max())
        return torch.stack(found)


@pytest.mark.full
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_proposal_beats_many_more_uniform_draws(kind, seed):
    """On 6^6 joint actions: the best of 100 draws against the best of 500 uniform ones and the true maximum."""
    states, agents, actions = 16, 6, 6
    spec = EnvSpec((actions,) * agents, 1, 4, False)
    options = {"network": {"hidden": (64,), "features": {"frequencies": 0}}, "actor": {"learning_rate": 3e-3}}
    learner = make_algorithm("aql", spec, Streams(seed), proposal=kind, **options)
    learner.critic = PairwiseValues(learner.critic.embedding, agents, actions, 4, seed)
    generator = torch.Generator().manual_seed(seed)
    state = 2.0 * torch.rand(states, 4, generator=generator) - 1.0
    mask = torch.ones(states, agents, actions, dtype=torch.bool)
    zero, seen = torch.zeros(states, agents), torch.zeros(states, agents, 1)
    batch = Batch(seen, state, zero.long(), zero, torch.ones(states) > 0, mask, seen, state, mask)
    for _ in range(100):
        loss, _ = learner.actor_loss(batch)
        learner.actor_optimizer.zero_grad()
        loss.backward()
        learner.actor_optimizer.step()
    drawn = learner.critic(state, learner.actor.draw(state, mask, 100, generator)).amax(-1).mean()
    uniform = learner.critic(state, proposals.uniform_joint_actions(mask, 500, generator)).amax(-1).mean()
    largest = learner.critic.largest(state).mean()
    print(f"{kind}, seed {seed}: closes {(drawn - uniform) / (largest - uniform):.3f} of the gap")
    # 0.81 or more in a pilot of three seeds.
    assert drawn - uniform > 0.7 * (largest - uniform)


def test_the_circuit_can_be_as_large_as_wanted():
    learner = make_algorithm("aql", EnvSpec((3,) * 6, 1, 4, False), Streams(0), proposal="circuit", labels=9)
    expected = structures.keep_set((3,) * 6, labels=9).num_parameters
    assert learner.actor.policy.circuit.num_parameters == expected
