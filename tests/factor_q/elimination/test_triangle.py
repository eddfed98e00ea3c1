"""Products of matrices against enumeration and elimination: log Z, gradient, samples, rows that leave the range."""

from itertools import product

import pytest
import torch

from factor_q import FactorGraph, Factors, ImpossibleEvidenceError, complete
from factor_q.elimination.triangle import log_partition, sample, triangle_of
from tests.statistical import chi_square


def dense(cardinalities, seed=0, batch=(3,), scale=1.0, dtype=torch.double, more=()):
    """All pairs, with every table drawn at random; and some more scopes."""
    # Every other scope the other way round: axes are to be told apart.
    scopes = [scope[:: 1 - 2 * (number % 2)] for number, scope in enumerate(complete(cardinalities).scopes)]
    graph = FactorGraph(cardinalities, [*scopes, *more])
    generator = torch.Generator().manual_seed(seed)
    flat = scale * torch.randn(*batch, graph.num_entries, generator=generator, dtype=torch.double)
    return Factors.from_flat(graph, flat.to(dtype))


def enumerated(factors):
    """Worth of every joint action, (*batch, joint actions)."""
    joint = torch.tensor(list(product(*(range(k) for k in factors.cardinalities))))
    shape = (len(joint), *(1 for _ in factors.batch_shape), joint.shape[1])
    return joint, factors(joint.reshape(shape).expand(-1, *factors.batch_shape, -1)).movedim(0, -1)


def torn(factors, strength):
    """The same function, of which one side of the triangle gives what another takes: each likes best what is not."""
    v, w, x = (block[0][0] for block in triangle_of(factors.graph).blocks)
    tables = list(factors.tables)
    for other, sign in ((w, 1.0), (x, -1.0)):
        at = next(number for number, scope in enumerate(factors.scopes) if set(scope) == {v, other})
        pull = sign * strength * torch.arange(factors.cardinalities[v]).to(factors.dtype)
        tables[at] = tables[at] + (pull.unsqueeze(-1) if factors.scopes[at][0] == v else pull)
    return Factors(factors.graph, tables)


def never(rows):
    raise AssertionError("no row should have left the range")


CASES = [
    ([5, 5, 5, 5, 5], ()),
    ([4, 3, 5, 4, 6, 2], ()),
    ([6, 1, 6, 5, 5, 5], [()]),
    ([5, 5, 5, 5, 5], [(4, 0, 3)]),
    ([3, 3, 3, 3, 3, 3, 3], [()]),
]


@pytest.mark.parametrize(("cardinalities", "more"), CASES)
def test_log_z_and_its_gradient_are_those_of_enumeration(cardinalities, more):
    factors = dense(cardinalities, more=more)
    triangle = triangle_of(factors.graph)
    assert triangle is not None
    flat = factors.flat.clone().requires_grad_()
    found = log_partition(triangle, flat, never)
    _, worth = enumerated(Factors.from_flat(factors.graph, flat))
    expected = worth.logsumexp(-1)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), flat)[0], torch.autograd.grad(expected.sum(), flat)[0], rtol=1e-10, atol=1e-12
    )


def test_the_query_takes_it_where_no_order_is_given_and_agrees_with_elimination():
    factors = dense([6] * 6, batch=(2, 3), scale=2.0)
    torch.testing.assert_close(
        factors.log_partition(0.5), factors.log_partition(0.5, order=range(6)), rtol=1e-12, atol=1e-12
    )
    large = dense([6] * 9, batch=())
    # Elimination joins 6^9 entries, far more than the limit; the matrices have 216^2.
    assert float(large.log_partition(max_entries=10**6)) > 0.0


@pytest.mark.parametrize("case", ["chain", "few", "across"])
def test_graphs_that_elimination_takes_as_fast_or_that_do_not_fall_apart_are_left_to_it(case):
    graphs = {
        "chain": FactorGraph([6] * 9, [(i, i + 1) for i in range(8)]),
        "few": complete([6] * 4),
        "across": FactorGraph([5] * 6, [*complete([5] * 6).scopes, (0, 1, 2)]),
    }
    assert triangle_of(graphs[case]) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
def test_rows_whose_largest_terms_would_be_0_are_done_again(dtype, scale):
    """Blocks that each want something else: what two like best is worth nothing to the third."""
    factors = dense([5] * 5, batch=(40,), scale=scale, dtype=dtype)
    flat = factors.flat.clone().requires_grad_()
    exact = Factors.from_flat(factors.graph, factors.flat.double())
    tolerance = {torch.float32: 2e-6, torch.float64: 1e-12}[dtype]
    found = Factors.from_flat(factors.graph, flat).log_partition()
    torch.testing.assert_close(
        found.detach().double(), exact.log_partition(order=range(5)), rtol=tolerance, atol=tolerance
    )
    (marginals,) = torch.autograd.grad(found.sum(), flat)
    # Every table's marginals sum to 1.
    for table in Factors.from_flat(factors.graph, marginals).tables:
        torch.testing.assert_close(table.flatten(1).sum(-1), torch.ones(40, dtype=dtype), rtol=1e-4, atol=1e-4)


def test_a_thousand_variables_are_left_to_elimination():
    """Their joint values are more than floating point can count."""
    graph = FactorGraph([6] * 1024, [(i,) for i in range(1024)])
    assert triangle_of(graph) is None
    tables = Factors.from_flat(graph, torch.zeros(2, graph.num_entries, dtype=torch.double))
    torch.testing.assert_close(tables.log_partition() / 1024, torch.full((2,), 6.0, dtype=torch.double).log())
    assert tables.sample((3,)).shape == (3, 2, 1024)


def test_forbidden_entries_count_nothing_and_impossible_rows_are_minus_infinity():
    factors = dense([5] * 5, batch=(4,))
    flat = factors.flat.clone()
    flat[torch.rand(flat.shape, generator=torch.Generator().manual_seed(3)) < 0.3] = -torch.inf
    flat[1, : factors.graph.table_sizes[0]] = -torch.inf
    held = Factors.from_flat(factors.graph, flat)
    torch.testing.assert_close(held.log_partition(), enumerated(held)[1].logsumexp(-1), rtol=1e-12, atol=1e-12)
    assert float(held.log_partition()[1]) == -torch.inf
    with pytest.raises(ImpossibleEvidenceError):
        held.sample()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("strength", [0.0, 100.0, 1000.0])
def test_samples_have_the_probabilities_of_enumeration(strength, dtype):
    """Drawn from the matrices, from those in wider numbers, and by elimination; one false alarm in 10^6 each."""
    factors = torn(dense([2, 3, 4, 4, 4, 4], batch=(), more=[()]), strength)
    joint, worth = enumerated(factors)
    rows = Factors.from_flat(factors.graph, factors.flat.to(dtype).expand(20_000, -1))
    values = rows.sample(generator=torch.Generator().manual_seed(0))
    index = torch.zeros(20_000, dtype=torch.long)
    for variable, size in enumerate(factors.cardinalities):
        index = index * size + values[:, variable]
    counts = torch.bincount(index, minlength=len(joint))
    assert chi_square(counts.numpy(), worth.softmax(-1).numpy()) > 1e-6


@pytest.mark.parametrize(("strength", "redone"), [(0.0, False), (50.0, False), (1000.0, True)])
def test_only_what_leaves_the_widest_range_goes_to_elimination(strength, redone):
    factors = torn(dense([5] * 5, dtype=torch.float32), strength)
    called = []

    def slow(rows):
        called.append(rows)
        return Factors.from_flat(factors.graph, rows).log_partition(order=range(5))

    triangle = triangle_of(factors.graph)
    found = log_partition(triangle, factors.flat, slow)
    assert (len(called) > 0) == redone
    torch.testing.assert_close(
        found.double(), factors.to(dtype=torch.float64).log_partition(order=range(5)), rtol=1e-5, atol=1e-3
    )


def test_a_sample_never_takes_what_is_forbidden():
    factors = dense([5] * 5, batch=(500,))
    flat = factors.flat.clone()
    flat[torch.rand(flat.shape, generator=torch.Generator().manual_seed(3)) < 0.2] = -torch.inf
    held = Factors.from_flat(factors.graph, flat)
    possible = held.log_partition().isfinite()
    held = Factors.from_flat(factors.graph, flat[possible])
    triangle = triangle_of(held.graph)
    for seed in range(5):
        values = sample(triangle, held.flat, never, torch.Generator().manual_seed(seed), 5)
        assert bool(held(values).isfinite().all())
