"""The compiled circuit is the Boltzmann distribution itself; the oracle enumerates."""

import itertools
import math
import random

import pytest
import torch

import factor_q
from circuits.errors import ImpossibleEvidenceError
from factor_q import FactorGraph, Factors, NotTractableError, StructureError
from tests.factor_q import factor_oracle as oracle

DOUBLE = torch.float64


def build(instance):
    return Factors(FactorGraph(instance.cardinalities, instance.scopes), instance.tables).to(dtype=DOUBLE)


def enumerated(instance, temperature):
    """Probabilities of all assignments for each batch row."""
    for row in range(instance.num_rows):
        values = oracle.all_values(instance.cardinalities, instance.scopes, instance.row(row))
        yield oracle.boltzmann(values, temperature)


@pytest.mark.parametrize("seed", range(60))
def test_every_assignment_has_its_boltzmann_probability(seed):
    instance = oracle.random_instance(seed)
    temperature = [1.0, 0.4, 3.0][seed % 3]
    f = build(instance)
    expected = list(enumerated(instance, temperature))
    if any(sum(row.values()) == 0 for row in expected):
        with pytest.raises(ImpossibleEvidenceError, match="forbidden"):
            factor_q.compile(f, temperature)
        return
    pi = factor_q.compile(f, temperature)
    assert pi.batch_shape == f.batch_shape
    assert pi.circuit.is_deterministic
    points = torch.tensor(list(oracle.assignments(instance.cardinalities)))
    found = pi.log_prob(points.reshape(len(points), *(1,) * len(f.batch_shape), -1)).exp()
    for row, truth in enumerate(expected):
        wanted = torch.tensor([truth[tuple(point)] for point in points.tolist()], dtype=DOUBLE)
        assert torch.allclose(found.reshape(len(points), -1)[:, row], wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_the_bound_is_tight_in_any_order_and_the_mode_is_the_maximum(seed):
    f = build(oracle.random_instance(seed, forbidden=0.0))
    rng = random.Random(seed)
    log_z, best = f.log_partition(), f.max()[0]
    for _ in range(3):
        order = rng.sample(range(f.graph.num_variables), f.graph.num_variables)
        pi = factor_q.compile(f, order=order)
        assert torch.allclose(pi.expectation(f) + pi.entropy(), log_z, rtol=0, atol=1e-10)
        assert torch.allclose(pi.map()[1] + log_z, best, rtol=0, atol=1e-10)
        assert torch.allclose(f(pi.map()[0]), best, rtol=0, atol=1e-10)


def test_conditions_and_marginals_of_the_compiled_policy_equal_those_of_the_factors():
    f = build(oracle.random_instance(7, forbidden=0.0))
    evidence = {0: 0, 2: [0, 1]} if f.graph.num_variables > 2 else {0: 0}
    pi = factor_q.compile(f).condition(evidence)
    assert torch.allclose(pi.marginals(), f.condition(evidence).marginals(), rtol=0, atol=1e-12)


def test_gradients_reach_the_tables_and_the_temperature():
    graph = FactorGraph([2, 3, 2], [(0, 1), (1, 2), (0, 2), (1,)])
    generator = torch.Generator().manual_seed(3)
    flat = torch.randn(2, graph.num_entries, generator=generator, dtype=DOUBLE, requires_grad=True)
    points = torch.tensor(list(itertools.product(range(2), range(3), range(2))))

    def log_probs(flat, temperature):
        return factor_q.compile(Factors.from_flat(graph, flat), temperature).log_prob(points.unsqueeze(1))

    temperature = torch.tensor([0.7, 1.3], dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(log_probs, (flat, temperature))


def test_rows_share_one_circuit_that_is_built_once():
    graph = factor_q.ring([3] * 6)
    first, second = (factor_q.compile(Factors.from_flat(graph, torch.randn(4, graph.num_entries))) for _ in range(2))
    assert first.circuit is second.circuit


def test_too_wide_graphs_are_refused_before_anything_is_built():
    f = Factors.from_flat(graph := factor_q.complete([4] * 40), torch.zeros(graph.num_entries))
    with pytest.raises(NotTractableError, match=r"width 39.*max_parameters is 1,048,576") as caught:
        factor_q.compile(f)
    assert "maximize_elbo" in str(caught.value)
    with pytest.raises(NotTractableError, match="max_parameters is 10"):
        factor_q.compile(Factors.from_flat(g := factor_q.ring([2] * 5), torch.zeros(g.num_entries)), max_parameters=10)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_must_be_positive_and_finite(temperature):
    f = Factors.from_flat(graph := factor_q.ring([2] * 3), torch.zeros(graph.num_entries))
    with pytest.raises(StructureError, match="temperature"):
        factor_q.compile(f, temperature)


def test_variables_without_factors_or_choices_are_uniform_or_fixed():
    pi = factor_q.compile(Factors(FactorGraph([2, 1, 3], [(1,)]), [torch.tensor([5.0])]))
    assert torch.allclose(pi.marginals(), torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]]))
