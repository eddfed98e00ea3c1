import math

import pytest
import torch

import factor_q
from factor_q import FactorGraph, Factors, NotTractableError, StructureError
from factor_q.elimination.cutset import choose_cutset
from factor_q.elimination.fix import fixed_graph
from factor_q.elimination.plan import peak
from tests.factor_q import factor_oracle as oracle

DOUBLE = torch.float64


def random_factors(graph, batch=(), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Factors.from_flat(graph, torch.randn(*batch, graph.num_entries, generator=generator, dtype=DOUBLE))


@pytest.mark.parametrize("batch", [(), (3,), (2, 2)])
@pytest.mark.parametrize("cutset", [[0], [3, 1], [5, 0, 4], [0, 1, 2, 3, 4, 5]])
def test_any_cutset_gives_the_same_answers(batch, cutset):
    f = random_factors(factor_q.complete([2, 3, 2, 3, 2, 1]), batch)
    assert torch.allclose(factor_q.log_partition(f, cutset=cutset), f.log_partition(), rtol=0, atol=1e-12)
    value, argmax = factor_q.max_assignment(f, cutset=cutset)
    assert torch.allclose(value, f.max()[0], rtol=0, atol=1e-12)
    assert torch.equal(argmax, f.max()[1])


def test_rows_may_have_their_maximum_at_different_assignments_of_the_cutset():
    graph = FactorGraph([2, 2, 3], [(0, 1), (1, 2), (0, 2)])
    f = random_factors(graph, (50,))
    _, argmax = factor_q.max_assignment(f, cutset=[2])
    assert argmax[:, 2].unique().tolist() == [0, 1, 2]
    assert torch.equal(argmax, f.max()[1])


def test_forbidden_entries_and_impossible_rows():
    graph = FactorGraph([2, 2, 2], [(0, 1), (1, 2), (0, 2)])
    f = random_factors(graph, (2,))
    flat = f.flat.clone()
    flat[0, :3] = -torch.inf
    flat[1, 4:8] = -torch.inf
    flat.requires_grad_()
    log_z = Factors.from_flat(graph, flat).log_partition(cutset=[1])
    assert log_z[1] == -torch.inf
    assert log_z[0].isfinite()
    (slope,) = torch.autograd.grad(log_z[0], flat)
    assert slope.isfinite().all()
    assert factor_q.max_assignment(f, cutset=[1])[0].isfinite().all()


def test_with_a_cutset_less_has_to_fit():
    graph = factor_q.complete([4] * 8)
    f = random_factors(graph)
    limit = 4**6
    with pytest.raises(NotTractableError, match="would fix about 3 variables and loop over their 64 assignments"):
        f.log_partition(max_entries=limit)
    assert torch.allclose(f.log_partition(cutset="auto", max_entries=limit), f.log_partition(), rtol=0, atol=1e-12)
    value, argmax = f.max(cutset="auto", max_entries=limit)
    assert torch.allclose(value, f.max()[0])
    assert torch.equal(argmax, f.max()[1])


def test_the_gradient_through_a_cutset_is_the_marginal_and_stays_within_the_limit():
    graph = factor_q.complete([3] * 6)
    flat = random_factors(graph, (2,)).flat.requires_grad_()
    temperature = torch.tensor([0.7, 1.5], dtype=DOUBLE, requires_grad=True)
    f = Factors.from_flat(graph, flat)
    whole = torch.autograd.grad(f.log_partition(temperature).sum(), [flat, temperature])
    parts = f.log_partition(temperature, cutset="auto", max_entries=700)
    found = torch.autograd.grad(parts.sum(), [flat, temperature])
    for one, other in zip(found, whole, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)


def test_gradcheck():
    graph = FactorGraph([2, 3, 2], [(0, 1), (1, 2), (0, 2), (1,)])
    flat = random_factors(graph).flat.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: Factors.from_flat(graph, x).log_partition(cutset=[1]), (flat,))


@pytest.mark.parametrize("seed", range(30))
def test_a_chosen_cutset_lets_the_rest_fit(seed):
    instance = oracle.random_instance(seed)
    graph = FactorGraph(instance.cardinalities, instance.scopes)
    for limit in (12, 24, 60):
        try:
            cutset = choose_cutset(graph, limit, batch=2)
        except NotTractableError:
            bare = fixed_graph(graph, tuple(range(graph.num_variables)))
            assert peak(bare, None, batch=2) > limit
            continue
        assert peak(fixed_graph(graph, cutset), None, batch=2) <= limit
        assert (cutset == ()) == (peak(graph, None, batch=2) <= limit)


def test_an_order_is_kept():
    graph = factor_q.ring([3] * 8)
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    cutset = choose_cutset(graph, 30, order=order)
    assert cutset
    assert peak(fixed_graph(graph, cutset), order) <= 30
    f = random_factors(graph)
    assert torch.allclose(f.log_partition(cutset=cutset, order=order), f.log_partition(), rtol=0, atol=1e-12)


def test_a_long_loop_is_refused():
    f = random_factors(factor_q.complete([4] * 10))
    with pytest.raises(NotTractableError, match="10 variables 0, 1, 2, 3, 4, 5, 6, 7, ... would loop over 1,048,576"):
        f.log_partition(cutset=range(10))
    with pytest.raises(NotTractableError, match="max_assignments = 16 assignments"):
        f.max(cutset="auto", max_entries=4**6, max_assignments=16)
    with pytest.raises(NotTractableError, match="not even one assignment"):
        choose_cutset(f.graph, 2)


@pytest.mark.parametrize("cutset", [[0, 0], [3], [-1]])
def test_wrong_cutsets_are_refused(cutset):
    f = random_factors(factor_q.complete([2] * 3))
    with pytest.raises(StructureError, match="must name distinct variables from 0 to 2"):
        f.log_partition(cutset=cutset)


@pytest.mark.usefixtures("without_type_checks")
def test_wrong_words_are_refused():
    f = random_factors(factor_q.complete([2] * 3))
    with pytest.raises(StructureError, match="'magic', but it must be variables, 'auto' or None"):
        f.log_partition(cutset="magic")


@pytest.mark.slow
def test_a_grid_too_wide_for_the_limit():
    graph = factor_q.grid([2] * 256, 16, 16)
    f = random_factors(graph)
    whole = f.log_partition()
    assert math.isclose(f.log_partition(cutset="auto", max_entries=2**15).item(), whole.item(), rel_tol=1e-12)
