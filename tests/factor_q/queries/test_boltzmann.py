"""Marginals, entropy and samples: gradients, guards and refusals; their values are compared in test_random_graphs."""

import math

import pytest
import torch

import factor_q
from circuits import EvidenceError, ImpossibleEvidenceError
from factor_q import FactorGraph, Factors, NotTractableError, StructureError
from tests import statistical
from tests.factor_q import factor_oracle as oracle

DOUBLE = torch.float64
GRAPH = FactorGraph([2, 3, 1, 2], [(), (0,), (1, 0), (3, 1), (0, 3), (2, 1)])
QUERIES = {
    "marginals": lambda f, *options, **limits: f.marginals(*options, **limits),
    "marginal": lambda f, *options, **limits: f.marginal((1, 0), *options, **limits),
    "entropy": lambda f, *options, **limits: f.entropy(*options, **limits),
    "sample": lambda f, *options, **limits: f.sample((5,), *options, **limits),
}


def random_flat(*batch, graph=GRAPH):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*batch, graph.num_entries, generator=generator, dtype=DOUBLE)


@pytest.mark.parametrize("name", ["marginals", "marginal", "entropy"])
def test_gradcheck_in_the_entries_and_the_temperature(name):
    def query(flat, temperature):
        return QUERIES[name](Factors.from_flat(GRAPH, flat), temperature)

    temperature = torch.tensor([0.7, 1.6], dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(query, (random_flat(2).requires_grad_(), temperature))


@pytest.mark.parametrize("name", ["marginals", "marginal", "entropy"])
def test_gradients_beside_forbidden_entries_are_those_of_a_very_low_entry(name):
    flat = random_flat()
    low = flat.clone()
    flat[[4, 8, 12]] = -torch.inf
    low[[4, 8, 12]] = -200.0
    slopes = []
    for entries in (flat, low):
        entries.requires_grad_()
        answer = QUERIES[name](Factors.from_flat(GRAPH, entries))
        weights = torch.arange(1.0, answer.numel() + 1, dtype=DOUBLE).reshape(answer.shape)
        slopes.append(torch.autograd.grad((answer * weights).sum(), entries)[0])
    assert torch.allclose(*slopes, rtol=0, atol=1e-12)


def test_entropy_of_one_and_of_all_assignments():
    graph = factor_q.complete([3] * 5)
    f = Factors.from_flat(graph, torch.zeros(graph.num_entries, dtype=DOUBLE))
    assert f.entropy().item() == pytest.approx(5 * math.log(3), abs=1e-12)
    observed = f.condition({i: 1 for i in range(5)})
    assert observed.entropy().item() == 0.0
    assert observed.marginals()[:, 1].tolist() == [1.0] * 5


def test_entropy_is_precise_where_log_z_and_the_energy_are_huge():
    graph = factor_q.complete([3] * 4)
    f = Factors.from_flat(graph, torch.zeros(graph.num_entries, dtype=DOUBLE) + 1e9)
    assert f.entropy().item() == pytest.approx(4 * math.log(3), abs=1e-5)


def test_marginals_in_single_precision_sum_to_one():
    graph = factor_q.grid([3] * 30, 5, 6)
    f = Factors.from_flat(graph, 5 * random_flat(4, graph=graph).float())
    assert torch.allclose(f.marginals().sum(-1), torch.ones(4, 30), atol=1e-6)
    assert torch.allclose(f.marginals(), f.to(dtype=DOUBLE).marginals().float(), atol=1e-3)


def test_marginal_of_all_and_of_no_variables():
    f = Factors.from_flat(GRAPH, random_flat(2))
    assert torch.allclose(f.marginal(()), torch.ones(2, dtype=DOUBLE))
    joint = f.marginal((3, 2, 0, 1))
    assert joint.shape == (2, 2, 1, 2, 3)
    points = torch.tensor([[1, 2, 0, 0], [0, 1, 0, 1]])
    expected = (f(points) - f.log_partition()).exp()
    assert torch.allclose(joint[torch.arange(2), points[:, 3], points[:, 2], points[:, 0], points[:, 1]], expected)


@pytest.mark.parametrize("name", QUERIES)
def test_impossible_rows_are_named(name):
    flat = random_flat(3)
    flat[1, 1:3] = -torch.inf
    with pytest.raises(ImpossibleEvidenceError, match=f"{name}: every assignment is forbidden in batch rows 1, so"):
        QUERIES[name](Factors.from_flat(GRAPH, flat))
    with pytest.raises(ImpossibleEvidenceError, match="every assignment is forbidden, so there is no distribution"):
        QUERIES[name](Factors.from_flat(GRAPH, flat[1]))


@pytest.mark.parametrize("name", QUERIES)
def test_temperature_order_and_memory_are_checked(name):
    f = Factors.from_flat(GRAPH, random_flat(2))
    with pytest.raises(StructureError, match=f"{name}: the temperature is -1.0"):
        QUERIES[name](f, -1.0)
    with pytest.raises(StructureError, match="must name each of 4 variables once"):
        QUERIES[name](f, order=[0, 1])
    with pytest.raises(NotTractableError, match="max_entries is 5"):
        QUERIES[name](f, max_entries=5)
    wide = factor_q.complete([6] * 30)
    with pytest.raises(NotTractableError, match="weighted_mini_bucket"):
        QUERIES[name](Factors.from_flat(wide, torch.zeros(wide.num_entries)))


def test_the_result_counts_in_the_limit():
    graph = FactorGraph([4] * 10, [(i,) for i in range(10)])
    f = Factors.from_flat(graph, torch.zeros(graph.num_entries))
    assert f.marginal(range(6), max_entries=4**6 + 100).shape == (4,) * 6
    with pytest.raises(NotTractableError, match="max_entries"):
        f.marginal(range(6), max_entries=4**6 - 1)


@pytest.mark.parametrize(("variables", "message"), [((0, 4), "variable 4 does not exist"), ((1, 1), "not distinct")])
def test_wrong_variables_are_refused(variables, message):
    with pytest.raises(EvidenceError, match=message):
        Factors.from_flat(GRAPH, random_flat()).marginal(variables)


@pytest.mark.parametrize("batch", [(), (4,), (0,)])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0)])
def test_samples_have_shape_sample_batch_variables(batch, shape):
    f = Factors.from_flat(GRAPH, random_flat(*batch))
    assert f.sample(shape).shape == (*shape, *batch, 4)
    assert f.sample().dtype == torch.long


def test_a_generator_makes_samples_repeatable():
    f = Factors.from_flat(GRAPH, random_flat(2))
    first, second = (f.sample((9,), generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)


def test_many_samples_of_one_model():
    """Chi-square over the whole joint table; false alarm once in a million runs of other seeds."""
    instance = oracle.random_instance(5, forbidden=0.1)
    f = Factors(FactorGraph(instance.cardinalities, instance.scopes), instance.tables).to(dtype=DOUBLE)
    f = Factors.from_flat(f.graph, f.flat.reshape(-1, f.graph.num_entries)[0])
    draws = f.sample((200_000,), 1.5, generator=torch.Generator().manual_seed(8))
    counts = statistical.counts_of(draws.numpy(), f.cardinalities)
    expected = f.marginal(range(len(f.cardinalities)), 1.5)
    assert (expected > 0).sum() > 20
    assert statistical.chi_square(counts, expected.numpy()) > statistical.LEVEL


def test_models_without_variables_and_empty_batches():
    nothing = Factors.from_flat(FactorGraph([], [()]), torch.ones(3, 1))
    assert nothing.marginals().shape == (3, 0, 0)
    assert nothing.entropy().tolist() == [0.0] * 3
    assert nothing.sample((2,)).shape == (2, 3, 0)
    empty = Factors.from_flat(GRAPH, random_flat(0))
    assert empty.marginals().shape == (0, 4, 3)
    assert empty.marginal((1, 3)).shape == (0, 3, 2)
    assert empty.entropy().shape == (0,)
