"""Bounds of the entropy of circuits that are not deterministic: certified, and how close they come."""

import importlib
from random import Random

import pytest
import torch
from torch.autograd import gradcheck

from circuits import Circuit, CircuitBuilder, CircuitDistribution
from circuits.numerics import entropy_of, entropy_term
from circuits.properties import Disjointness
from tests import strategies
from tests.seeds import first_now

overlaps = importlib.import_module("circuits.engine.overlaps")


def true_entropy(pi: CircuitDistribution) -> torch.Tensor:
    """By enumeration; the likelihoods are checked against an independent oracle elsewhere."""
    return entropy_of(pi.log_prob(pi.enumerate_support()).exp()).sum(0)


def concavity_bound(pi: CircuitDistribution) -> torch.Tensor:
    """Sums that may overlap add nothing to the mean entropy of their children."""
    compiled = pi.circuit.compiled
    terms = entropy_term(pi.log_weights, pi.weights)
    for node, _ in Disjointness(pi.circuit.nodes, pi.circuit.scopes).unproved_sums():
        terms[pi.circuit.parameters_of(node)] = 0.0
    return (compiled.edge_sum.take(pi.flows) * terms).sum(0)


def mixture_of_factorised(cards: list[int], parts: int) -> Circuit:
    b = CircuitBuilder(cards)
    return b.build(b.sum(*(b.product(*(b.input(v) for v in range(len(cards)))) for _ in range(parts))))


def layered(cards: list[int], sums: int) -> Circuit:
    """A chain of regions with `sums` overlapping sums each: deep, and every sum mixes all pairs below."""
    b = CircuitBuilder(cards)
    nodes = [b.input(0) for _ in range(sums)]
    for variable in range(1, len(cards)):
        inputs = [b.input(variable) for _ in range(sums)]
        pairs = [b.product(node, own) for node in nodes for own in inputs]
        nodes = [b.sum(*pairs) for _ in range(sums if variable < len(cards) - 1 else 1)]
    return b.build(nodes[0])


def overlapping_circuit(seed: int) -> Circuit:
    rng = Random(f"overlapping {seed}")
    kind = seed % 4
    if kind == 0:
        return mixture_of_factorised([rng.randint(2, 3) for _ in range(rng.randint(1, 5))], rng.randint(2, 6))
    if kind == 1:
        return layered([rng.randint(2, 3) for _ in range(rng.randint(2, 5))], rng.randint(2, 3))
    while (c := strategies.hand_built_mixture(rng)).is_deterministic:
        pass
    return c


@pytest.mark.one_in(2)
@pytest.mark.parametrize("seed", first_now(range(240)))
def test_the_bounds_hold_on_circuits_that_overlap(seed: int) -> None:
    c = overlapping_circuit(seed)
    assert not c.is_deterministic
    rng = Random(seed)
    scale = rng.choice([0.1, 1.5, 6.0])
    pi = CircuitDistribution(c, strategies.random_logits(rng, c, (3,), scale=scale))
    truth, lower, upper = true_entropy(pi), pi.entropy_lower_bound(), pi.entropy_upper_bound()
    assert (lower <= truth + 1e-10).all()
    assert (upper >= truth - 1e-10).all()
    assert (lower >= concavity_bound(pi) - 1e-12).all()
    assert (lower >= 0).all()
    assert (upper <= sum(torch.tensor(float(k)).log() for k in c.cardinalities) + 1e-6).all()


def test_the_pairwise_bound_is_much_closer_than_concavity() -> None:
    """Mixtures of factorised policies, 5 agents of 3 actions: the distances that the literature's bounds leave."""
    c = mixture_of_factorised([3] * 5, 4)
    generator = torch.Generator().manual_seed(0)
    pi = CircuitDistribution(c, 1.5 * torch.randn(200, c.num_parameters, generator=generator, dtype=torch.float64))
    truth = true_entropy(pi)
    pairwise, concavity = (truth - pi.entropy_lower_bound()).mean(), (truth - concavity_bound(pi)).mean()
    assert 0 < pairwise < 0.3 * concavity
    assert (pi.entropy_upper_bound() - truth).mean() < 0.5


@pytest.mark.parametrize("family", ["markov_chain", "tree", "keep_set", "hand_built"])
def test_both_bounds_are_exact_for_deterministic_circuits(family: str) -> None:
    for seed in range(10):
        c = strategies.circuit_of(family, 30_000 + seed)
        pi = CircuitDistribution(c, strategies.random_logits(Random(seed), c, (2,)))
        assert torch.equal(pi.entropy_lower_bound(), pi.entropy())
        assert torch.equal(pi.entropy_upper_bound(), pi.entropy())


def test_parts_that_cannot_meet_are_mixed_exactly() -> None:
    """Numbers, not structure, separate the parts here: the overlap is zero and so is the error."""
    c = mixture_of_factorised([2, 2], 2)
    logits = torch.randn(c.num_parameters, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first = [c.parameters_of(i) for i in range(c.num_nodes) if c.nodes[i] == c.nodes[0]]
    logits[first[0]] = torch.tensor([0.0, -torch.inf], dtype=torch.float64)
    logits[first[1]] = torch.tensor([-torch.inf, 0.0], dtype=torch.float64)
    pi = CircuitDistribution(c, logits)
    assert not c.is_deterministic
    torch.testing.assert_close(pi.entropy_lower_bound(), true_entropy(pi), rtol=0, atol=1e-14)
    torch.testing.assert_close(pi.entropy_upper_bound(), true_entropy(pi), rtol=0, atol=1e-14)


def test_equal_parts_add_nothing() -> None:
    c = mixture_of_factorised([2, 3], 3)
    pi = CircuitDistribution(c, torch.zeros(c.num_parameters, dtype=torch.float64))
    torch.testing.assert_close(pi.entropy_lower_bound(), torch.tensor(6.0, dtype=torch.float64).log())
    torch.testing.assert_close(pi.entropy_upper_bound(), torch.tensor(6.0, dtype=torch.float64).log())


@pytest.mark.parametrize(("limit", "value"), [("_MOST_CHILDREN", 4), ("_BUDGET", 40), ("_BUDGET", 0)])
def test_beyond_the_limits_the_bound_falls_back_to_concavity(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(overlaps, limit, value)
    between = 0
    for seed in range(1, 40, 4):
        c = overlapping_circuit(seed)
        pi = CircuitDistribution(c, strategies.random_logits(Random(seed), c, (3,)))
        lower, concavity = pi.entropy_lower_bound(), concavity_bound(pi)
        assert (lower <= true_entropy(pi) + 1e-10).all()
        assert (lower >= concavity - 1e-12).all()
        between += bool((lower > concavity + 1e-9).any())
    assert between == 0 if value == 0 else between > 0


@pytest.mark.parametrize("seed", range(16))
def test_gradients_equal_finite_differences(seed: int) -> None:
    torch.manual_seed(seed)
    number = seed
    while (c := overlapping_circuit(number)).num_parameters > 60:
        number += 4
    noise = torch.randn(2, c.num_parameters, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    logits = noise.requires_grad_()
    for name in ("entropy_lower_bound", "entropy_upper_bound"):
        assert gradcheck(
            lambda x, name=name: getattr(CircuitDistribution(c, x), name)(), (logits,), eps=1e-6, fast_mode=True
        ), f"{name} {number}"


def test_gradients_next_to_switched_off_edges_hold_no_nan() -> None:
    c = mixture_of_factorised([2, 2], 3)
    logits = torch.randn(c.num_parameters, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits[c.parameters_of(c.num_nodes - 1)] = torch.tensor([0.0, -torch.inf, 0.3], dtype=torch.float64)
    logits[c.parameters_of(0)] = torch.tensor([0.0, -torch.inf], dtype=torch.float64)
    pi = CircuitDistribution(c, logits.requires_grad_())
    total = pi.entropy_lower_bound() + pi.entropy_upper_bound()
    (gradient,) = torch.autograd.grad(total, logits)
    assert torch.isfinite(gradient).all()


def test_a_large_deterministic_part_below_an_overlap_is_quick() -> None:
    """Two chains of 100 variables under one overlapping sum: the pairs stay on the diagonal."""
    b = CircuitBuilder([2] * 100)
    roots = []
    for _ in range(2):
        below = [b.input(0, [0]), b.input(0, [1])]
        for variable in range(1, 100):
            below = [b.product(b.sum(*below), b.input(variable, [value])) for value in (0, 1)]
        roots.append(b.sum(*below))
    c = b.build(b.sum(*roots))
    pi = CircuitDistribution(c, torch.randn(2, c.num_parameters, generator=torch.Generator().manual_seed(0)))
    lower, upper = pi.entropy_lower_bound(), pi.entropy_upper_bound()
    assert (lower <= upper).all()
    assert (upper - lower < 0.6932).all()
