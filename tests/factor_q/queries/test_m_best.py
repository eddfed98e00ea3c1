"""Max-marginals and the m best: shapes, ties and refusals; their values are compared in test_random_graphs."""

import itertools

import pytest
import torch

import factor_q
from factor_q import FactorGraph, Factors, NotTractableError, StructureError

DOUBLE = torch.float64
GRAPH = FactorGraph([2, 3, 1, 2], [(), (0,), (1, 0), (3, 1), (0, 3), (2, 1)])


def random_factors(*batch, graph=GRAPH):
    generator = torch.Generator().manual_seed(0)
    return Factors.from_flat(graph, torch.randn(*batch, graph.num_entries, generator=generator, dtype=DOUBLE))


def test_the_largest_max_marginal_of_each_variable_is_the_maximum():
    f = random_factors(2, 3)
    found = f.max_marginals()
    assert found.shape == (2, 3, 4, 3)
    value, argmax = f.max()
    assert torch.allclose(found.amax(-1), value.unsqueeze(-1).expand(2, 3, 4))
    assert torch.equal(found.argmax(-1), argmax)
    assert (found[..., 0, 2] == -torch.inf).all()


def test_max_marginals_of_an_impossible_row_are_minus_infinity():
    f = random_factors(2)
    flat = f.flat.clone()
    flat[0, 1:3] = -torch.inf
    found = Factors.from_flat(GRAPH, flat).max_marginals()
    assert (found[0] == -torch.inf).all()
    assert torch.equal(found[1], f.max_marginals()[1])


def test_gradient_of_max_marginals():
    flat = random_factors(2).flat.requires_grad_()

    def query(entries):
        found = Factors.from_flat(GRAPH, entries).max_marginals()
        return found[found > -torch.inf]

    assert torch.autograd.gradcheck(query, (flat,))


def test_all_assignments_in_order_of_value():
    f = random_factors(2)
    values, found = f.m_best(12)
    assert values.shape == (12, 2, 4)
    assert found.shape == (12, 2)
    assert (found.diff(dim=0) <= 0).all()
    assert torch.equal(f(values), found)
    for row in range(2):
        listed = sorted(map(tuple, values[:, row].tolist()))
        assert listed == list(itertools.product(range(2), range(3), range(1), range(2)))


def test_equal_values_are_listed_once_each():
    graph = factor_q.complete([2] * 5)
    f = Factors.from_flat(graph, torch.zeros(3, graph.num_entries))
    values, found = f.m_best(32)
    assert len(values[:, 1].unique(dim=0)) == 32
    assert (found == 0).all()


def test_the_values_are_differentiable():
    flat = random_factors(2).flat.requires_grad_()
    values, found = Factors.from_flat(GRAPH, flat).m_best(3)
    (slope,) = torch.autograd.grad(found.sum(), flat)
    assert slope.sum().item() == pytest.approx(3 * 2 * GRAPH.num_factors)


def test_more_than_there_are_is_refused():
    f = random_factors(3)
    with pytest.raises(ValueError, match="asked for 13 assignments, but only 12 are possible in batch row 0"):
        f.m_best(13)
    flat = f.flat.clone()
    flat[1, 1] = -torch.inf
    with pytest.raises(ValueError, match="only 6 are possible in batch row 1"):
        Factors.from_flat(GRAPH, flat).m_best(7)
    with pytest.raises(ValueError, match="at least 1, a whole number, not 0"):
        f.m_best(0)
    nothing = Factors.from_flat(FactorGraph([], [()]), torch.ones(1))
    assert nothing.m_best(1)[1].tolist() == [1.0]
    with pytest.raises(ValueError, match="only 1 are possible"):
        nothing.m_best(2)
    assert random_factors(0).m_best(2)[0].shape == (2, 0, 4)


def test_rows_that_do_not_fit_together_take_turns():
    graph = factor_q.complete([4] * 4)
    f = random_factors(30, graph=graph)
    values, found = f.m_best(4)
    again = f.m_best(4, max_entries=40_000)
    assert torch.equal(values, again[0])
    assert torch.equal(found, again[1])
    with pytest.raises(NotTractableError, match="max_entries is 900"):
        f.m_best(4, max_entries=900)


@pytest.mark.parametrize("query", [lambda f, **o: f.max_marginals(**o), lambda f, **o: f.m_best(2, **o)])
def test_order_and_memory_are_checked(query):
    with pytest.raises(StructureError, match="must name each of 4 variables once"):
        query(random_factors(), order=[0, 1])
    with pytest.raises(NotTractableError, match="max_entries is 5"):
        query(random_factors(), max_entries=5)


def test_the_second_best_of_a_long_chain():
    """A chain of 200 variables; the second best differs where the loss is least."""
    graph = FactorGraph([3] * 200, [(i,) for i in range(200)])
    tables = -torch.arange(1.0, 201.0, dtype=DOUBLE).unsqueeze(1) * torch.tensor([0.0, 1.0, 2.5], dtype=DOUBLE)
    f = Factors.from_flat(graph, tables.flatten())
    values, found = f.m_best(4)
    assert found.tolist() == [0.0, -1.0, -2.0, -2.5]
    assert values[1, 0] == 1
    assert values[2, 1] == 1
    assert values[3, 0] == 2
