import itertools

import pytest
import torch

import factor_q
from circuits import Evidence, EvidenceError
from factor_q import FactorGraph, Factors, StructureError
from tests.factor_q import factor_oracle as oracle

DOUBLE = torch.float64
CARDS = [2, 3, 2, 4]


def random_factors(scopes=((0, 1), (1, 2), (2, 0), (3, 1, 0), (1,), ()), batch=(), seed=0):
    graph = FactorGraph(CARDS, scopes)
    generator = torch.Generator().manual_seed(seed)
    return Factors.from_flat(graph, torch.randn(*batch, graph.num_entries, generator=generator, dtype=DOUBLE))


def everything():
    return torch.tensor(list(itertools.product(*map(range, CARDS))))


def test_an_observed_variable_leaves_all_scopes_and_keeps_its_table():
    f = random_factors()
    given = f.condition({1: 2})
    assert set(given.scopes) == {(0,), (), (2,), (2, 0), (3, 0), (1,)}
    assert given.cardinalities == f.cardinalities
    tables, before = dict(given), dict(f)
    assert tables[(1,)].tolist() == [-torch.inf, -torch.inf, 0.0]
    assert torch.equal(tables[(0,)], before[(0, 1)][:, 2])
    assert torch.equal(tables[()], before[()] + before[(1,)][2])
    assert given.max()[1][1] == 2


def test_scopes_that_become_equal_are_added_whatever_the_order_of_their_axes():
    f = random_factors(((0, 3, 1), (3, 2, 0)))
    given = f.condition({1: 0, 2: 1})
    first, second = f.tables
    assert given.scopes[0] == (0, 3)
    assert torch.equal(given.tables[0], first[:, :, 0] + second[:, 1].t())


def test_the_width_drops():
    graph = factor_q.complete([3] * 12)
    f = Factors.from_flat(graph, torch.zeros(graph.num_entries))
    assert factor_q.elimination_width(f.condition({i: 0 for i in range(9)}).graph) == 2


@pytest.mark.parametrize("batch", [(), (5,)])
def test_all_forms_of_evidence_agree(batch):
    f = random_factors(batch=batch)
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[1] = torch.tensor([False, True, False, False])
    mask[3] = torch.tensor([True, False, True, False])
    log_weights = torch.where(mask, 0.0, -torch.inf)
    expected = f.condition({1: 1, 3: [0, 2]})
    points = everything().reshape(-1, *(1,) * len(batch), 4)
    for evidence in (mask, mask.numpy(), log_weights, Evidence(CARDS, log_weights), {1: [1], 3: {0, 2}}):
        given = f.condition(evidence)
        assert given.graph == expected.graph
        assert torch.equal(given(points), expected(points))


def test_observed_values_may_differ_from_row_to_row():
    f = random_factors(batch=(3,))
    weights = torch.zeros(3, 4, 4, dtype=DOUBLE)
    weights[:, 1] = -torch.inf
    for row, value in enumerate([2, 0, 1]):
        weights[row, 1, value] = 0.5
    given = f.condition(weights)
    assert all(1 not in scope or scope == (1,) for scope in given.scopes)
    points = everything().unsqueeze(1)
    expected = f(points) + weights[torch.arange(3), 1, points[..., 1]]
    assert torch.allclose(given(points), expected)
    # Of two rows that leave one value and one that leaves two, none is cut out.
    weights[0, 1, 0] = 0.0
    assert (1, 2) in f.condition(weights).scopes


def test_evidence_gives_a_batch_to_factors_without_one():
    f = random_factors()
    weights = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    given = f.condition(weights)
    assert given.batch_shape == (2, 3)
    assert given.graph == f.condition(weights[0, 0]).graph
    assert torch.allclose(given.log_partition()[1, 2], f.condition(weights[1, 2]).log_partition())


def test_no_evidence_changes_nothing():
    f = random_factors()
    for evidence in ({}, torch.zeros(4, 4), {1: [0, 1, 2]}):
        assert torch.equal(f.condition(evidence).flat, f.flat)
    empty = Factors.from_flat(FactorGraph([], [()]), torch.ones(1))
    assert empty.condition({}) is empty


def test_evidence_that_nothing_satisfies_gives_minus_infinity():
    f = random_factors()
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[2] = False
    given = f.condition(mask)
    assert given.log_partition() == -torch.inf
    assert given.max()[0] == -torch.inf


def test_conditioning_twice_is_conditioning_on_both():
    f = random_factors()
    twice, once = f.condition({1: 1}).condition({3: 2}), f.condition({1: 1, 3: 2})
    points = everything()
    assert torch.equal(twice(points), once(points))
    assert f.condition({1: 1}).condition({1: 0}).log_partition() == -torch.inf


@pytest.mark.parametrize("batch", [(), (2,)])
def test_gradients_reach_the_entries_and_the_soft_evidence(batch):
    f = random_factors(batch=batch)
    weights = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    observed = torch.zeros(2, 4, 4, dtype=DOUBLE)
    observed[:, 1] = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0], [0.0, -torch.inf, -torch.inf, 0.0]])

    def query(flat, soft):
        return Factors.from_flat(f.graph, flat).condition(soft + observed).log_partition()

    assert torch.autograd.gradcheck(query, (f.flat.requires_grad_(), weights.requires_grad_()))


def test_the_slope_in_soft_evidence_is_the_marginal():
    f = random_factors(batch=(3,))
    weights = torch.zeros(3, 4, 4, dtype=DOUBLE, requires_grad=True)
    (slope,) = torch.autograd.grad(f.condition(weights).log_partition().sum(), weights)
    assert torch.allclose(slope, f.marginals())


@pytest.mark.parametrize(
    ("evidence", "message"),
    [
        ({4: 0}, "variable 4, but the variables are 0 to 3"),
        ({1: 3}, "value 3, but its values are 0 to 2"),
        (torch.zeros(4, 3), r"must end in \(variables, max cardinality\) = \(4, 4\)"),
        (torch.full((4, 4), torch.nan), "contains nan"),
    ],
)
def test_malformed_evidence_is_refused(evidence, message):
    with pytest.raises(EvidenceError, match=message):
        random_factors().condition(evidence)


def test_batches_that_do_not_fit_are_refused():
    with pytest.raises(StructureError, match="do not broadcast"):
        random_factors(batch=(5,)).condition(torch.zeros(3, 4, 4))


def test_a_query_under_evidence_equals_the_query_of_the_rest():
    instance = oracle.random_instance(11, forbidden=0.0)
    f = Factors(FactorGraph(instance.cardinalities, instance.scopes), instance.tables).to(dtype=DOUBLE)
    value, argmax = f.max()
    flat = argmax.reshape(-1, argmax.shape[-1])
    given = f.condition({0: int(flat[0, 0])})
    assert torch.allclose(given.max()[0].flatten()[0], value.flatten()[0])
