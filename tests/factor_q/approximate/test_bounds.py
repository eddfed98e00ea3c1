import pytest
import torch

from factor_q import FactorGraph, Factors, NotTractableError, StructureError, complete, log_partition
from factor_q.approximate import mini_bucket_maximum, tree_reweighted, weighted_mini_bucket
from factor_q.approximate.bounds.forests import spanning_forests
from tests.factor_q import factor_oracle as oracle
from tests.factor_q.approximate.models import DOUBLE, TEMPERATURES, at_most, build, equal, ising, truth
from tests.seeds import first_now


def random_factors(graph, batch, seed):
    generator = torch.Generator().manual_seed(seed)
    return Factors.from_flat(graph, torch.randn(*batch, graph.num_entries, dtype=DOUBLE, generator=generator))


@pytest.mark.parametrize("seed", first_now(range(200)))
@pytest.mark.parametrize("max_entries", [1, 6, 2**16])
def test_mini_buckets_bound_from_above(seed, max_entries):
    instance, temperature = oracle.random_instance(seed), TEMPERATURES[seed % 3]
    f, (log_z, best) = build(instance), truth(instance, temperature)
    assert at_most(best, mini_bucket_maximum(f, max_entries=max_entries).flatten())
    seen = []
    for steps in (0, 4) if seed % 4 == 0 else (0,):
        result = weighted_mini_bucket(
            f, temperature, max_entries=max_entries, steps=steps, on_step=lambda _, value: seen.append(value)
        )
        upper = result.upper_bound.flatten()
        assert result.upper_bound.shape == f.batch_shape
        assert at_most(log_z, upper)
        assert not upper.isnan().any()
        if result.is_exact:
            assert equal(upper, log_z)
            assert equal(mini_bucket_maximum(f, max_entries=max_entries).flatten(), best)
    # What is reported on the way is a mean of bounds.
    assert all(value >= log_z.mean() - 1e-9 for value in seen)
    assert seen == sorted(seen, reverse=True)


def test_no_split_is_exact_and_more_memory_helps():
    f = ising(8)
    log_z = log_partition(f).item()
    gaps = [weighted_mini_bucket(f, max_entries=size).upper_bound.item() - log_z for size in (4, 32, 256, 2**16)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] == pytest.approx(0, abs=1e-9)
    assert gaps[0] > 1


def test_tightening_lowers_the_bound_of_every_row():
    graph = complete([3] * 6)
    f = random_factors(graph, (4,), seed=3)
    plain = weighted_mini_bucket(f, max_entries=27)
    tight = weighted_mini_bucket(f, max_entries=27, steps=40)
    assert (tight.upper_bound < plain.upper_bound - 0.01).all()
    assert at_most(log_partition(f), tight.upper_bound)
    assert tight.steps == 40


def test_weighted_mini_bucket_is_differentiable():
    graph = complete([2, 3, 2, 2])
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(2, graph.num_entries, dtype=DOUBLE, generator=generator, requires_grad=True)
    temperature = torch.tensor([0.7, 1.6], dtype=DOUBLE, requires_grad=True)

    def upper(entries, scale):
        return weighted_mini_bucket(Factors.from_flat(graph, entries), scale, max_entries=6).upper_bound

    assert torch.autograd.gradcheck(upper, (flat, temperature))
    blocked = flat.detach().clone()
    blocked[:, ::5] = -torch.inf
    blocked.requires_grad_()
    value = upper(blocked, temperature).sum()
    assert torch.autograd.grad(value, [blocked, temperature])[0].isfinite().all()


@pytest.mark.parametrize("seed", first_now(range(200), 0.3))
def test_tree_reweighted_bounds_from_above_at_every_iterate(seed):
    instance, temperature = oracle.of_at_most(2, oracle.random_instance(seed)), TEMPERATURES[seed % 3]
    f, (log_z, _) = build(instance), truth(instance, temperature)
    seen = []
    result = tree_reweighted(
        f,
        temperature,
        steps=[0, 3, 12][seed % 3],
        forests=[1, 3][seed % 2],
        on_step=lambda _, value: seen.append(value),
    )
    assert result.upper_bound.shape == f.batch_shape
    assert at_most(log_z, result.upper_bound.flatten())
    assert not result.upper_bound.isnan().any()
    assert not result.marginals.isnan().any()
    assert all(value >= log_z.mean() - 1e-9 for value in seen)
    assert seen == sorted(seen, reverse=True)
    possible = result.upper_bound > -torch.inf
    assert equal(result.marginals.sum(-1)[possible], torch.ones(()), 1e-9)


def all_splits(f, forests):
    """The best bound over all splits of a pairwise model with equal weights, every forest with numbers of its own."""
    count = len(forests)
    has = torch.zeros(count, f.graph.num_entries, dtype=DOUBLE)
    for scope, offset, size in zip(f.scopes, f.graph.offsets, f.graph.table_sizes, strict=True):
        for i, forest in enumerate(forests):
            has[i, offset : offset + size] = float(len(scope) == 1 or scope in forest)
    moved = torch.zeros(count, f.graph.num_entries, dtype=DOUBLE, requires_grad=True)
    optimizer = torch.optim.LBFGS([moved], max_iter=500, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

    def bound():
        share = has.mean(0)
        split = has * (f.flat / share + moved - (has * moved).mean(0) / share)
        return log_partition(Factors.from_flat(f.graph, split)).mean()

    def closure():
        optimizer.zero_grad()
        value = bound()
        value.backward()
        return value

    optimizer.step(closure)
    return bound().item()


def test_tree_reweighted_reaches_the_best_of_all_splits():
    """Free weights do no worse than the optimum of equal weights, found by another parametrisation and optimiser."""
    f = random_factors(complete([2] * 5), (), seed=3)
    edges = tuple(scope for scope in f.scopes if len(scope) == 2)
    covers = spanning_forests(5, edges, 6, f.device).covers
    forests = [{edge for edge, used in zip(edges, row.tolist(), strict=True) if used} for row in covers]
    best = all_splits(f, forests)
    found = tree_reweighted(f, forests=6, steps=400).upper_bound.item()
    assert log_partition(f).item() <= found <= best + 1e-4


def test_every_edge_is_in_a_forest_and_no_forest_has_a_cycle():
    graph = complete([2] * 9, unary=False)
    forests = spanning_forests(9, graph.scopes, 1, torch.device("cpu"))
    assert (forests.covers.sum(0) > 0).all()
    assert (forests.covers.sum(1) == 8).all()
    assert sum(len(level.variables) for level in forests.levels) == 9 * len(forests.covers)


def test_tree_reweighted_is_differentiable_and_per_row():
    f = ising(4)
    temperature = torch.tensor([0.5, 1.0, 3.0], dtype=DOUBLE, requires_grad=True)
    result = tree_reweighted(f, temperature, steps=30)
    assert at_most(log_partition(f, temperature).detach(), result.upper_bound.detach())
    (slope,) = torch.autograd.grad(result.upper_bound.sum(), temperature)
    assert slope.isfinite().all()


def test_refusals():
    triple = Factors(FactorGraph([2, 2, 2], [(0, 1, 2)]), [torch.zeros(2, 2, 2)])
    with pytest.raises(NotTractableError, match=r"scope \(0, 1, 2\).*\n?.*weighted_mini_bucket"):
        tree_reweighted(triple)
    with pytest.raises(StructureError, match="forests is 0"):
        tree_reweighted(ising(3), forests=0)
    with pytest.raises(StructureError, match="max_entries is 0"):
        weighted_mini_bucket(triple, max_entries=0)
    with pytest.raises(StructureError, match="each of 3 variables once"):
        mini_bucket_maximum(triple, order=[0, 1])
