"""Samples follow the distribution, respect masks and repeat with their seed."""

from random import Random

import numpy as np
import pytest
import torch

from circuits import CircuitDistribution, structures
from circuits.numerics import choose
from tests import oracles, strategies
from tests.contracts import build_case
from tests.statistical import LEVEL, chi_square, counts_of

DRAWS = 200_000


@pytest.mark.one_in(4)
@pytest.mark.parametrize("family", strategies.FAMILIES)
@pytest.mark.parametrize("seed", [0, 3])
def test_joint_samples_follow_the_table(family: str, seed: int, generator: torch.Generator) -> None:
    case = build_case(family, seed)  # seeds divisible by three have batch shape ()
    samples = case.pi.sample((DRAWS,), generator=generator)
    assert samples.shape == (DRAWS, case.n)
    assert chi_square(counts_of(samples.numpy(), case.cards), case.joint) > LEVEL


@pytest.mark.one_in(4)
@pytest.mark.parametrize("family", strategies.FAMILIES)
def test_conditional_samples_follow_the_table(family: str, generator: torch.Generator) -> None:
    case = build_case(family, 1)  # batch shape (3,)
    evidence, log_weights = strategies.random_evidence(Random(4), case.cards, case.batch, "soft")
    joint, log_evidence = oracles.condition(case.joint, oracles.evidence_table(log_weights, case.cards), case.n)
    possible = np.flatnonzero(np.isfinite(log_evidence)).tolist()
    assert possible
    pi = CircuitDistribution(case.circuit, case.pi.logits[possible])
    samples = pi.condition(evidence[possible]).sample((DRAWS // 2,), generator=generator)
    for position, row in enumerate(possible):
        counts = counts_of(samples[:, position].numpy(), case.cards)
        assert chi_square(counts, joint[row]) > LEVEL, f"batch row {row}"


@pytest.mark.parametrize("error", [0.02, 0.05])
def test_a_wrong_sampler_is_caught(error: float, generator: torch.Generator) -> None:
    """Power: a sampler that is off by a total-variation error of 0.02 must fail the same check."""
    circuit = structures.keep_set([2, 2, 2], labels=8)
    logits = torch.randn(circuit.num_parameters, generator=generator, dtype=torch.float64) / 2
    pi = CircuitDistribution(circuit, logits)
    joint = pi.marginal([0, 1, 2]).numpy()
    samples = pi.sample((DRAWS,), generator=generator)
    assert chi_square(counts_of(samples.numpy(), (2, 2, 2)), joint) > LEVEL
    spoiled = torch.rand(DRAWS, generator=generator) < error / joint.ravel()[:-1].sum()
    samples[spoiled] = 1
    assert chi_square(counts_of(samples.numpy(), (2, 2, 2)), joint) < LEVEL


def test_chi_square_has_its_false_alarm_rate() -> None:
    noise = np.random.default_rng(0)
    table = noise.dirichlet(np.ones(30))
    levels = [chi_square(noise.multinomial(5000, table), table) for _ in range(2000)]
    assert 0.07 < np.mean(np.array(levels) < 0.1) < 0.13
    impossible = np.array([100, 0, 1])
    assert chi_square(impossible, np.array([0.5, 0.5, 0.0])) == 0.0


def test_a_million_draws_hold_no_forbidden_action(generator: torch.Generator) -> None:
    circuit = structures.keep_set([3, 4, 2, 3], labels=12)
    logits = torch.randn(100, circuit.num_parameters, generator=generator) * 4
    allowed = torch.rand(100, 4, 4, generator=generator) < 0.4
    allowed[..., 0] |= ~allowed[..., :2].any(-1)
    samples = CircuitDistribution(circuit, logits).condition(allowed).sample((10_000,), generator=generator)
    picked = allowed.expand(10_000, -1, -1, -1).gather(-1, samples.unsqueeze(-1))
    assert samples.shape == (10_000, 100, 4)
    assert bool(picked.all())


def test_one_allowed_value_is_always_drawn(generator: torch.Generator) -> None:
    circuit = structures.markov_chain([3, 3, 3])
    pi = CircuitDistribution(circuit, torch.randn(circuit.num_parameters, generator=generator) * 20)
    samples = pi.condition({0: 2, 1: 0, 2: [1]}).sample((1000,), generator=generator)
    assert (samples == torch.tensor([2, 0, 1])).all()


def test_the_raw_choice_never_picks_weight_zero() -> None:
    """Uniform numbers at both ends of [0, 1), tiny and huge weights, zeros at the ends and in the middle."""
    last = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0)).item()
    uniform = torch.tensor([0.0, 1e-45, 0.5, last])
    for weights in ([0, 1, 0, 1, 0], [0, 1e-38, 0, 0, 0], [0, 1e38, 0, 1e-38, 0], [0, 1 / 3, 1 / 3, 1 / 3, 0]):
        picked = choose(torch.tensor([weights] * 4), uniform)
        assert all(weights[i] > 0 for i in picked.tolist()), (weights, picked)


def test_the_same_seed_gives_the_same_samples() -> None:
    case = build_case("keep_set", 1)
    first, again, other = (case.pi.sample((50,), generator=torch.Generator().manual_seed(s)) for s in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(11)
    from_global = case.pi.sample((50,))
    torch.manual_seed(11)
    assert torch.equal(from_global, case.pi.sample((50,)))


def test_sample_shapes() -> None:
    case = build_case("tree", 2)
    assert case.pi.sample().shape == (2, 3, case.n)
    assert case.pi.sample((4, 5)).shape == (4, 5, 2, 3, case.n)
    assert case.pi.sample((0,)).shape == (0, 2, 3, case.n)


@pytest.mark.parametrize("family", ["keep_set", "hand_built"])
def test_entropy_is_the_mean_surprise_of_samples(family: str, generator: torch.Generator) -> None:
    pi = build_case(family, 0).pi
    surprise = -pi.log_prob(pi.sample((100_000,), generator=generator))
    error = surprise.std() / 100_000**0.5
    assert abs(surprise.mean() - pi.entropy()) < 5 * error + 1e-12


@pytest.mark.parametrize("family", ["tree", "keep_set", "hand_built_mixture"])
def test_ranks_of_a_conditioned_draw_are_uniform(family: str, generator: torch.Generator) -> None:
    """Draw x, condition on a part of it, draw 19 more: x is as likely to have any rank among them."""
    case = build_case(family, 3)
    rounds, others = 4000, 19
    drawn = case.pi.sample((rounds,), generator=generator)
    observed = torch.rand(rounds, case.n, generator=generator) < 0.5
    values = torch.arange(max(case.cards)).expand(rounds, case.n, -1)
    allowed = (values == drawn.unsqueeze(-1)) | ~observed.unsqueeze(-1)
    again = case.pi.condition(allowed).sample((others,), generator=generator)
    direction = torch.randn(case.n, generator=generator, dtype=torch.float64)
    ties = torch.rand(others + 1, rounds, generator=generator, dtype=torch.float64) * 1e-9
    scores = torch.cat([drawn.unsqueeze(0), again]).double() @ direction + ties
    ranks = (scores[1:] < scores[0]).sum(0)
    counts = torch.bincount(ranks, minlength=others + 1).numpy()
    assert chi_square(counts, np.full(others + 1, 1 / (others + 1))) > LEVEL
