import math
import subprocess
import sys
import time

import pytest
import torch

import factor_q
from factor_q import FactorGraph, Factors, NotTractableError, StructureError
from tests.factor_q import factor_oracle as oracle

DOUBLE = torch.float64


def build(instance):
    return Factors(FactorGraph(instance.cardinalities, instance.scopes), instance.tables).to(dtype=DOUBLE)


def close(found, expected):
    """Equal up to 1e-10; the same infinity counts as equal."""
    return found == expected or abs(found - expected) < 1e-10


@pytest.mark.one_in(2)
@pytest.mark.parametrize("seed", range(300))
def test_max_argmax_log_partition_and_marginals_equal_enumeration(seed):
    instance = oracle.random_instance(seed)
    f = build(instance)
    temperature = [1.0, 0.3, 2.5][seed % 3]
    flat = f.flat.detach().requires_grad_()
    log_z = Factors.from_flat(f.graph, flat).log_partition(temperature)
    best, argmax = f.max()
    assert log_z.shape == best.shape == f.batch_shape
    assert argmax.shape == (*f.batch_shape, len(instance.cardinalities))
    slope = torch.autograd.grad(log_z.sum(), flat)[0] if f.graph.num_factors else flat
    slopes = [table.reshape(instance.num_rows, -1) for table in Factors.from_flat(f.graph, slope).tables]
    for row in range(instance.num_rows):
        values = oracle.all_values(instance.cardinalities, instance.scopes, instance.row(row))
        top = max(values.values())
        expected = oracle.log_sum_exp([v / temperature for v in values.values()])
        assert close(log_z.flatten()[row].item(), expected)
        assert close(best.flatten()[row].item(), top)
        chosen = tuple(argmax.reshape(instance.num_rows, -1)[row].tolist())
        assert close(values[chosen], top)
        probability = oracle.boltzmann(values, temperature)
        for scope, shape, found in zip(f.graph.scopes, f.graph.table_shapes, slopes, strict=True):
            marginal = torch.zeros(shape, dtype=DOUBLE)
            for u, p in probability.items():
                marginal[tuple(u[variable] for variable in scope)] += p
            assert torch.allclose(found[row], marginal.flatten() / temperature, rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", range(20))
def test_every_order_gives_the_same_answer(seed):
    f = build(oracle.random_instance(seed, max_variables=5))
    reference, best = f.log_partition(), f.max()[0]
    for order in torch.stack([torch.randperm(f.graph.num_variables) for _ in range(4)]).tolist():
        assert torch.allclose(factor_q.log_partition(f, order=order), reference, rtol=0, atol=1e-10)
        value, argmax = factor_q.max_assignment(f, order=order)
        assert torch.allclose(value, best, rtol=0, atol=1e-10)
        assert torch.equal(f(argmax), value)


def test_log_partition_passes_gradcheck_twice():
    graph = FactorGraph([2, 3, 2], [(), (0,), (1, 0), (2, 1), (0, 2)])
    flat = torch.randn(2, graph.num_entries, dtype=DOUBLE, requires_grad=True)
    temperature = torch.tensor([0.7, 1.6], dtype=DOUBLE, requires_grad=True)

    def soft(entries, scale):
        return Factors.from_flat(graph, entries).log_partition(scale)

    assert torch.autograd.gradcheck(soft, (flat, temperature))
    assert torch.autograd.gradgradcheck(soft, (flat, temperature))


def test_temperature_per_row_equals_one_row_at_a_time():
    f = build(oracle.random_instance(4, forbidden=0.0))
    graph, flat = f.graph, f.flat.reshape(-1, f.graph.num_entries)[:1]
    temperature = torch.tensor([0.5, 1.0, 4.0], dtype=DOUBLE)
    together = Factors.from_flat(graph, flat).log_partition(temperature)
    alone = [Factors.from_flat(graph, flat[0]).log_partition(t.item()).item() for t in temperature]
    assert together.tolist() == pytest.approx(alone, abs=1e-12)


def test_low_temperature_tends_to_the_maximum_without_overflow():
    f = build(oracle.random_instance(12, forbidden=0.2))
    best, _ = f.max()
    assert torch.allclose(1e-6 * f.log_partition(1e-6), best, atol=1e-4)


def test_one_impossible_row_leaves_the_others_alone():
    graph = FactorGraph([2, 2], [(0,), (0, 1)])
    flat = torch.randn(2, graph.num_entries, dtype=DOUBLE)
    flat[1, 2:] = -torch.inf
    flat.requires_grad_()
    temperature = torch.tensor([1.0, 2.0], dtype=DOUBLE, requires_grad=True)
    f = Factors.from_flat(graph, flat)
    log_z = f.log_partition(temperature)
    log_z.nan_to_num(neginf=0.0).sum().backward()
    assert log_z[1] == -torch.inf
    assert log_z[0].isfinite()
    assert flat.grad[1].tolist() == [0.0] * 6
    assert flat.grad[0, 2:].sum() == pytest.approx(1)
    assert temperature.grad.isfinite().all()
    assert temperature.grad[1] == 0
    value, argmax = f.max()
    assert value[1] == -torch.inf
    assert ((argmax >= 0) & (argmax < 2)).all()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_value_that_every_partner_forbids_has_gradient_zero(order):
    flat = torch.tensor([-torch.inf, -torch.inf, 0.0, 1.0], dtype=torch.float64, requires_grad=True)
    factors = Factors.from_flat(FactorGraph([2, 2], [(0, 1)]), flat)
    (gradient,) = torch.autograd.grad(factors.log_partition(order=order), flat)
    torch.testing.assert_close(gradient, flat.detach().softmax(0))


def test_gradient_of_the_temperature_ignores_forbidden_entries():
    f = Factors(FactorGraph([3], [(0,)]), [torch.tensor([1.0, -torch.inf, 2.0], dtype=DOUBLE)])
    temperature = torch.tensor(0.5, dtype=DOUBLE, requires_grad=True)
    f.log_partition(temperature).backward()
    weights = [math.exp(1 / 0.5), math.exp(2 / 0.5)]
    mean = (weights[0] + 2 * weights[1]) / sum(weights)
    assert temperature.grad.item() == pytest.approx(-mean / 0.25)


def test_gradient_of_the_maximum_marks_the_entries_used():
    graph = FactorGraph([2, 3], [(), (0,), (1, 0)])
    flat = torch.randn(4, graph.num_entries, requires_grad=True)
    f = Factors.from_flat(graph, flat)
    value, argmax = f.max()
    value.sum().backward()
    assert flat.grad.sum(-1).tolist() == [3.0] * 4
    first, second = argmax.unbind(-1)
    used = 1 + 2 + 2 * second + first
    assert flat.grad[torch.arange(4), used].tolist() == [1.0] * 4


def test_ties_go_to_the_lowest_index():
    graph = factor_q.complete([3, 4, 2])
    f = Factors.from_flat(graph, torch.zeros(5, graph.num_entries))
    assert f.max()[1].unique().tolist() == [0]
    f = Factors(FactorGraph([2, 2], [(0, 1)]), [torch.eye(2)])
    assert f.max()[1].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("cardinalities", "scopes", "log_count"),
    [
        ([], [], 0.0),
        ([], [()], 0.0),
        ([3], [], math.log(3)),
        ([3, 1, 4], [], math.log(12)),
        ([3, 2], [()], math.log(6)),
        ([1, 1], [(0, 1), (1,)], 0.0),
        ([2, 3, 2, 5], [(0, 2), ()], math.log(60)),
    ],
)
@pytest.mark.parametrize("batch", [(), (4,), (0,)])
def test_structures_without_interaction(cardinalities, scopes, log_count, batch):
    graph = FactorGraph(cardinalities, scopes)
    f = Factors.from_flat(graph, torch.ones(*batch, graph.num_entries, dtype=DOUBLE))
    assert f.log_partition().shape == batch
    assert torch.allclose(f.log_partition(), torch.full(batch, log_count + len(scopes), dtype=DOUBLE))
    value, argmax = f.max()
    assert torch.equal(value, torch.full(batch, float(len(scopes)), dtype=DOUBLE))
    assert torch.equal(argmax, torch.zeros(*batch, len(cardinalities), dtype=torch.long))


def test_many_single_valued_variables_do_not_add_axes():
    graph = factor_q.complete([1] * 70 + [2, 3])
    f = Factors.from_flat(graph, torch.zeros(graph.num_entries, dtype=DOUBLE))
    assert f.log_partition().item() == pytest.approx(math.log(6))
    assert f.max()[1].sum() == 0


def test_ring_of_thirty_equals_the_transfer_matrix():
    graph = factor_q.ring([4] * 30)
    generator = torch.Generator().manual_seed(7)
    f = Factors.from_flat(graph, torch.randn(graph.num_entries, generator=generator, dtype=DOUBLE))
    tables = dict(f)
    unary = [tables[(i,)].tolist() for i in range(30)]
    pairs = [tables[(i, i + 1)].tolist() for i in range(29)] + [tables[(0, 29)].t().tolist()]
    log_z, best = oracle.ring_by_transfer(unary, pairs)
    assert f.log_partition().item() == pytest.approx(log_z, abs=1e-10)
    value, argmax = f.max()
    assert value.item() == pytest.approx(best, abs=1e-10)
    assert f(argmax) == value


def test_single_precision_stays_close():
    graph = factor_q.complete([6] * 4)
    f = Factors.from_flat(graph, 3 * torch.randn(8, graph.num_entries, dtype=DOUBLE))
    single = f.to(dtype=torch.float32).log_partition()
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), f.log_partition(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("heuristic", ["best", "min_fill", "min_degree"])
def test_orders_are_permutations_and_trees_have_width_one(heuristic):
    for seed in range(30):
        graph = build(oracle.random_instance(seed)).graph
        order = factor_q.elimination_order(graph, heuristic)
        assert sorted(order) == list(range(graph.num_variables))
    star = FactorGraph([2] * 9, [(0, i) for i in range(1, 9)])
    assert factor_q.elimination_width(star, factor_q.elimination_order(star, heuristic)) == 1
    ring = factor_q.ring([3] * 12)
    assert factor_q.elimination_width(ring, factor_q.elimination_order(ring, heuristic)) == 2


def test_width_and_largest_table_follow_the_order():
    star = FactorGraph([5, 2, 2, 2], [(0, 1), (0, 2), (0, 3)])
    assert factor_q.elimination_width(star, [0, 1, 2, 3]) == 3
    assert factor_q.largest_table(star, [0, 1, 2, 3]) == 40
    assert factor_q.largest_table(star) == 10
    assert factor_q.elimination_width(factor_q.complete([2] * 7)) == 6
    assert factor_q.elimination_width(factor_q.grid([2] * 25, 5, 5)) == 5
    assert factor_q.elimination_width(FactorGraph([], [])) == 0
    assert factor_q.largest_table(FactorGraph([], [])) == 1


@pytest.mark.parametrize("order", [[0, 1], [0, 1, 1], [0, 1, 3], [0, 1, 2, 3]])
def test_orders_that_are_not_permutations_are_refused(order):
    f = build(oracle.Instance([2, 2, 2], [], [], ()))
    for query in (factor_q.max_assignment, factor_q.log_partition):
        with pytest.raises(StructureError, match="must name each of 3 variables once"):
            query(f, order=order)


@pytest.mark.usefixtures("without_type_checks")
def test_unknown_heuristic_is_refused():
    with pytest.raises(StructureError, match="'magic' is not 'best'"):
        factor_q.elimination_order(FactorGraph([2], []), "magic")


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_temperature_must_be_positive(temperature):
    f = build(oracle.Instance([2], [(0,)], [torch.zeros(2)], ()))
    with pytest.raises(StructureError, match="must be positive and finite"):
        f.log_partition(temperature)
    with pytest.raises(StructureError, match="must be positive and finite"):
        f.log_partition(torch.tensor([1.0, temperature]))


@pytest.mark.parametrize("query", [factor_q.max_assignment, factor_q.log_partition])
def test_hopeless_width_is_refused_at_once(query):
    graph = factor_q.complete([6] * 40)
    f = Factors.from_flat(graph, torch.zeros(2, graph.num_entries))
    start = time.perf_counter()
    with pytest.raises(NotTractableError) as caught:
        query(f)
    assert time.perf_counter() - start < 1
    message = str(caught.value)
    for part in ("40 variables", "induced width 39", "10^31", "bytes", "67,108,864", "max_entries", "keep_set"):
        assert part in message


def test_the_limit_counts_all_batch_rows_exactly():
    graph = factor_q.complete([3] * 4)
    flat = torch.zeros(10, graph.num_entries)
    joined, messages = [81, 27, 9, 3], [27, 9, 3, 1]
    f = Factors.from_flat(graph, flat)
    # The first step holds most: its joined table and its message. The maximum remembers one byte per message entry.
    live = 10 * (joined[0] + messages[0])
    for query, held in ((factor_q.log_partition, live), (factor_q.max_assignment, live + 10 * sum(messages) // 4)):
        assert query(f, max_entries=held) is not None
        with pytest.raises(NotTractableError, match="induced width 3"):
            query(f, max_entries=held - 1)
    # Autograd keeps every joined table.
    f = Factors.from_flat(graph, flat.requires_grad_())
    assert factor_q.log_partition(f, max_entries=10 * sum(joined)).requires_grad
    with pytest.raises(NotTractableError, match="81 for each of 10 batch rows"):
        factor_q.log_partition(f, max_entries=10 * sum(joined) - 1)


def test_large_tables_in_slices_equal_small_ones():
    """A joined table of 2^20 entries is made in slices; another order makes small ones only."""
    star = FactorGraph([3] + [2] * 20, [(0, i) for i in range(1, 21)] + [(i,) for i in range(21)])
    f = Factors.from_flat(star, torch.randn(star.num_entries, generator=torch.Generator().manual_seed(3), dtype=DOUBLE))
    worst = range(21)
    assert factor_q.largest_table(star, worst) == 3 * 2**20
    assert close(factor_q.log_partition(f, order=worst).item(), f.log_partition().item())
    value, argmax = factor_q.max_assignment(f, order=worst)
    assert close(value.item(), f.max()[0].item())
    assert torch.equal(argmax, f.max()[1])
    draws = f.sample((2000,), order=worst, generator=torch.Generator().manual_seed(4))
    share = torch.stack([(draws == x).double().mean(0) for x in range(3)], -1)
    assert torch.allclose(share, f.marginals(), atol=0.06)  # five standard deviations


def test_messages_over_the_same_variables_are_added_before_they_pile_up():
    """Twenty variables that each see the same twelve: twenty equal messages, of which one is held."""
    graph = FactorGraph([2] * 32, [(i, j) for i in range(20) for j in range(20, 32)])
    f = Factors.from_flat(graph, torch.randn(graph.num_entries, generator=torch.Generator().manual_seed(5)))
    order = range(32)
    assert torch.isfinite(factor_q.log_partition(f, order=order, max_entries=2**15))
    flat = f.flat.double().requires_grad_()
    (slope,) = torch.autograd.grad(Factors.from_flat(graph, flat).log_partition(), flat)
    pairs = slope.reshape(-1, 2, 2)
    assert torch.allclose(pairs.sum((1, 2)), torch.ones(240, dtype=DOUBLE))
    assert torch.allclose(f.to(dtype=DOUBLE).marginal((3, 21)), dict(zip(graph.scopes, pairs, strict=True))[(3, 21)])


def test_where_autograd_has_too_little_room_joined_tables_are_made_twice():
    graph = factor_q.ring([4] * 40)
    flat = torch.randn(3, graph.num_entries, generator=torch.Generator().manual_seed(6), dtype=DOUBLE)
    whole, tight = flat.clone().requires_grad_(), flat.clone().requires_grad_()
    needed = 3 * sum([64] * 38 + [16, 4])
    factor_q.log_partition(Factors.from_flat(graph, whole), max_entries=needed).sum().backward()
    factor_q.log_partition(Factors.from_flat(graph, tight), max_entries=needed // 2).sum().backward()
    assert torch.allclose(whole.grad, tight.grad, rtol=0, atol=1e-12)
    with pytest.raises(NotTractableError):
        factor_q.log_partition(Factors.from_flat(graph, tight), max_entries=needed // 5)


@pytest.mark.parametrize("order", ["best", "min_fill", "min_degree"])
def test_orders_by_name(order):
    f = build(oracle.random_instance(3))
    assert torch.equal(factor_q.max_assignment(f, order=order)[0], f.max()[0])
    assert torch.allclose(factor_q.log_partition(f, order=order), f.log_partition())


def test_the_first_maximum_of_a_process_does_not_load_sympy():
    program = (
        "import sys, torch, factor_q; g = factor_q.ring([4] * 30);"
        "factor_q.Factors.from_flat(g, torch.randn(g.num_entries)).max(); print('sympy' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
