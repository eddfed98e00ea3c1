"""Samplers of every structure: pairs of variables of large circuits, calibration, forbidden values and entropy."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from circuits import CircuitDistribution, operations, structures
from circuits.evidence import EvidenceLike
from tests.exactness import BUILDERS, random_case
from tests.large import NAMES, large_policy
from tests.seeds import first_now
from tests.statistical import LEVEL, chi_square, counts_of

FAMILIES = tuple(BUILDERS)
DRAWS = 200_000


def drawable(family: str, seed: str) -> CircuitDistribution:
    """One row of a random case of the exactness program, with at least two variables and a free choice."""
    number = 0
    while (case := random_case(family, f"{seed} {number}")).n < 2 or case.circuit.num_parameters == 0:
        number += 1
    logits = case.pi.logits.reshape(-1, case.circuit.num_parameters)[0]
    return CircuitDistribution(case.circuit, logits)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("family", FAMILIES)
def test_joint_counts_follow_the_table(family: str, generator: torch.Generator) -> None:
    pi = drawable(family, "counts")
    n = pi.circuit.num_variables
    samples = pi.sample((DRAWS,), generator=generator).numpy()
    table = pi.marginal(tuple(range(n))).numpy()  # equal to enumeration, says test_exactness_families
    assert chi_square(counts_of(samples, pi.circuit.cardinalities), table) > LEVEL


@pytest.mark.full
@pytest.mark.parametrize("name", first_now(NAMES, 0.5))
def test_pairs_of_200_variables_follow_their_tables(name: str, generator: torch.Generator) -> None:
    """All neighbours and as many pairs further apart; the level is divided by the number of pairs."""
    pi = large_policy(name, rows=1)
    draws = 20_000
    samples = pi.sample((draws,), generator=generator)[:, 0].numpy()
    pairs = [(i, i + 1) for i in range(0, 199, 4)] + [(i, i + 97) for i in range(0, 100, 2)]
    cards = pi.circuit.cardinalities
    for (i, j), table in zip(pairs, pi.pair_marginals(pairs), strict=True):
        counts = counts_of(samples[:, [i, j]], (cards[i], cards[j]))
        assert chi_square(counts, table[0].numpy()) > LEVEL / len(pairs), f"variables {i} and {j}"


@pytest.mark.parametrize("family", FAMILIES)
def test_all_pairs_of_eight_variables_given_evidence(family: str, generator: torch.Generator) -> None:
    pi = drawable(family, "pairs")
    n, cards = pi.circuit.num_variables, pi.circuit.cardinalities
    allowed = torch.arange(max(cards)) == pi.sample(generator=generator).unsqueeze(-1)
    allowed |= torch.rand(n, max(cards), generator=generator) < 0.6
    given = pi.condition(allowed)
    samples = given.sample((DRAWS // 4,), generator=generator).numpy()
    pairs = list(combinations(range(n), 2))
    for (i, j), table in zip(pairs, given.pair_marginals(pairs), strict=True):
        counts = counts_of(samples[:, [i, j]], (cards[i], cards[j]))
        assert chi_square(counts, table.numpy()) > LEVEL / len(pairs), f"variables {i} and {j}"


def ranks(pi: CircuitDistribution, rounds: int, others: int, generator: torch.Generator) -> Tensor:
    """Draw x, condition on a random part of it, draw again; the rank of x by a random linear statistic."""
    n, width = pi.circuit.num_variables, max(pi.circuit.cardinalities)
    drawn = pi.sample((rounds,), generator=generator)
    observed = torch.rand(rounds, n, generator=generator) < 0.5
    allowed = (torch.arange(width) == drawn.unsqueeze(-1)) | ~observed.unsqueeze(-1)
    again = pi.condition(allowed).sample((others,), generator=generator)
    # Weights of one sign: values that should move together but do not then change the spread of the statistic.
    direction = torch.rand(n, generator=generator, dtype=torch.float64)
    ties = torch.rand(others + 1, rounds, generator=generator, dtype=torch.float64) * 1e-9
    scores = (torch.cat([drawn.unsqueeze(0), again]) * direction).sum(-1) + ties
    return (scores[1:] < scores[0]).sum(0)


def uniformity(found: Tensor, others: int, bins: int = 20) -> float:
    counts = torch.bincount(found * bins // (others + 1), minlength=bins).numpy()
    return chi_square(counts, np.full(bins, 1 / bins))


@pytest.mark.one_in(4)
@pytest.mark.parametrize("family", FAMILIES)
def test_conditional_draws_are_calibrated(family: str, generator: torch.Generator) -> None:
    """2,000 rounds of one draw among 99 more, 20 bins."""
    assert uniformity(ranks(drawable(family, "ranks"), 2000, 99, generator), 99) > LEVEL


class Forgetful(CircuitDistribution):
    """Right marginals, wrong conditionals: each variable is drawn as if the others had not been observed."""

    def condition(self, evidence: EvidenceLike) -> CircuitDistribution:
        table = self.marginals() * torch.as_tensor(evidence)
        logits = [table[..., v, :k].log() for v, k in enumerate(self.circuit.cardinalities)]
        return CircuitDistribution(structures.mean_field(self.circuit.cardinalities), torch.cat(logits, -1))


def test_an_uncalibrated_conditional_is_noticed(generator: torch.Generator) -> None:
    """Five variables that are always equal: one observation decides all, unless the sampler forgets it."""
    equal = operations.mixture(*(operations.exactly([2] * 5, count) for count in (0, 5)))
    logits = torch.zeros(equal.num_parameters, dtype=torch.float64)
    assert uniformity(ranks(CircuitDistribution(equal, logits), 2000, 99, generator), 99) > LEVEL
    assert uniformity(ranks(Forgetful(equal, logits), 2000, 99, generator), 99) < LEVEL


@pytest.mark.parametrize("family", FAMILIES)
def test_no_forbidden_value_in_100_000_draws(family: str, generator: torch.Generator) -> None:
    check_no_forbidden_value(family, 100_000, generator)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_forbidden_value_in_ten_million_draws(family: str, generator: torch.Generator) -> None:
    check_no_forbidden_value(family, 10_000_000, generator)


def check_no_forbidden_value(family: str, draws: int, generator: torch.Generator) -> None:
    """A hundred rows with random masks, of which ten leave one value per variable; float32, as policies are."""
    pi = drawable(family, "masks")
    n, width, rows = pi.circuit.num_variables, max(pi.circuit.cardinalities), 100
    logits = torch.randn(rows, pi.circuit.num_parameters, generator=generator) * 4
    pi = CircuitDistribution(pi.circuit, logits)
    allowed = torch.arange(width) == pi.sample(generator=generator).unsqueeze(-1)
    allowed[10:] |= torch.rand(rows - 10, n, width, generator=generator) < 0.3
    conditional = pi.condition(allowed)
    for _ in range(max(1, draws // 1_000_000)):
        samples = conditional.sample((min(draws, 1_000_000) // rows,), generator=generator)
        assert bool(allowed.expand(len(samples), -1, -1, -1).gather(-1, samples.unsqueeze(-1)).all())
        assert bool((samples[:, :10] == samples[0, :10]).all())


@pytest.mark.full
@pytest.mark.parametrize("family", first_now(FAMILIES, 0.5))
def test_entropy_is_the_mean_surprise_of_a_million_draws(family: str, generator: torch.Generator) -> None:
    """Of circuits that are not deterministic the bounds must enclose it."""
    pi = drawable(family, "surprise")
    counts = counts_of(pi.sample((1_000_000,), generator=generator).numpy(), pi.circuit.cardinalities)
    share = torch.from_numpy(counts).flatten() / 1_000_000
    drawn = share > 0
    surprise, share = -pi.log_prob(pi.enumerate_support()[drawn]), share[drawn]
    mean = (share * surprise).sum()
    error = 5 * ((share * (surprise - mean).square()).sum() / 1_000_000).sqrt() + 1e-12
    assert pi.entropy_lower_bound() - error <= mean <= pi.entropy_upper_bound() + error
    if pi.circuit.is_deterministic:
        assert abs(mean - pi.entropy()) <= error
