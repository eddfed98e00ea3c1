import pytest
import torch

from factor_q import EvidenceError, FactorGraph, Factors, StructureError
from tests.factor_q import factor_oracle as oracle

DOUBLE = torch.float64


def build(instance):
    return Factors(FactorGraph(instance.cardinalities, instance.scopes), instance.tables)


def random_factors(cardinalities, scopes, batch=(), seed=0):
    graph = FactorGraph(cardinalities, scopes)
    generator = torch.Generator().manual_seed(seed)
    return Factors.from_flat(graph, torch.randn(*batch, graph.num_entries, generator=generator, dtype=DOUBLE))


def random_values(cardinalities, shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    columns = [torch.randint(0, k, shape, generator=generator) for k in cardinalities]
    return torch.stack(columns, dim=-1)


@pytest.mark.parametrize("seed", range(100))
def test_values_and_gains_equal_enumeration(seed):
    instance = oracle.random_instance(seed)
    f = build(instance)
    values = random_values(instance.cardinalities, (4, *f.batch_shape), seed)
    found = f(values).reshape(4, instance.num_rows)
    gains = [f.gain(agent, values) for agent in range(len(instance.cardinalities))]
    flat_values = values.reshape(4, instance.num_rows, -1).tolist()
    for row in range(instance.num_rows):
        tables = instance.row(row)
        for sample in range(4):
            chosen = flat_values[sample][row]
            expected = oracle.value(instance.scopes, tables, chosen)
            assert found[sample, row].item() == pytest.approx(expected, abs=1e-10)
            for agent, cardinality in enumerate(instance.cardinalities):
                swaps = [[*chosen[:agent], a, *chosen[agent + 1 :]] for a in range(cardinality)]
                gain = gains[agent].reshape(4, instance.num_rows, cardinality)[sample, row].tolist()
                assert gain == pytest.approx([oracle.value(instance.scopes, tables, swap) for swap in swaps], abs=1e-10)


@pytest.mark.parametrize(
    ("batch", "points", "expected"),
    [
        ((), (), ()),
        ((3,), (), (3,)),
        ((), (5,), (5,)),
        ((3,), (5, 3), (5, 3)),
        ((2, 3), (4, 5, 2, 3), (4, 5, 2, 3)),
        ((2, 3), (4, 1, 3), (4, 2, 3)),
        ((1,), (5,), (5,)),
        ((0,), (2, 0), (2, 0)),
    ],
)
def test_samples_stand_before_the_batch_and_shapes_broadcast(batch, points, expected):
    f = random_factors([2, 3], [(0,), (1, 0)], batch)
    values = random_values([2, 3], points)
    assert f(values).shape == expected
    assert f.gain(1, values).shape == (*expected, 3)
    # Every result equals the one computed for that batch row alone.
    rows = f.flat.expand((*expected, -1)).reshape(-1, f.graph.num_entries)
    points_flat = values.expand((*expected, -1)).reshape(-1, 2)
    alone = [Factors.from_flat(f.graph, row)(point).item() for row, point in zip(rows, points_flat, strict=True)]
    assert f(values).flatten().tolist() == pytest.approx(alone, abs=1e-12)


def test_any_integer_type_is_a_value():
    f = random_factors([2, 3], [(0, 1)])
    assert f(torch.tensor([1, 2], dtype=torch.uint8)) == f(torch.tensor([1, 2], dtype=torch.int32))


def test_iteration_gives_scopes_and_views_of_flat():
    f = random_factors([2, 3], [(), (1, 0), (1,)], (5,))
    pairs = list(f)
    assert len(f) == 3
    assert [scope for scope, _ in pairs] == [(), (1, 0), (1,)]
    assert [tuple(table.shape) for _, table in pairs] == [(5,), (5, 3, 2), (5, 3)]
    assert torch.equal(torch.cat([table.reshape(5, -1) for _, table in pairs], -1), f.flat)
    assert pairs[1][1].untyped_storage().data_ptr() == f.flat.untyped_storage().data_ptr()


def test_tables_are_broadcast_to_one_batch_shape():
    graph = FactorGraph([2, 3], [(0,), (0, 1), ()])
    f = Factors(graph, [torch.zeros(4, 1, 2), torch.ones(5, 2, 3), torch.tensor(2.0)])
    assert f.batch_shape == (4, 5)
    assert f(torch.tensor([0, 0])).unique().tolist() == [3.0]


def test_no_factors_at_all():
    f = Factors(FactorGraph([2, 3], []), [])
    assert f.batch_shape == ()
    assert list(f) == []
    assert f(torch.tensor([[1, 2], [0, 0]])).tolist() == [0.0, 0.0]
    assert f.gain(1, torch.tensor([1, 2])).tolist() == [0.0, 0.0, 0.0]
    assert Factors(FactorGraph([], []), [])(torch.zeros(3, 0, dtype=torch.long)).tolist() == [0.0] * 3


def test_value_and_gain_pass_gradcheck():
    graph = FactorGraph([2, 3], [(), (0,), (1, 0)])
    values = random_values([2, 3], (3, 2))
    flat = random_factors([2, 3], graph.scopes, (2,)).flat.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: Factors.from_flat(graph, x)(values), flat)
    assert torch.autograd.gradcheck(lambda x: Factors.from_flat(graph, x).gain(1, values), flat)


def test_gradient_reaches_the_tables_that_were_given():
    tables = [torch.randn(2, requires_grad=True), torch.randn(4, 2, 3, requires_grad=True)]
    Factors(FactorGraph([2, 3], [(0,), (0, 1)]), tables)(torch.tensor([1, 2])).sum().backward()
    assert tables[0].grad.tolist() == [0.0, 4.0]
    assert tables[1].grad.sum() == 4
    assert tables[1].grad[:, 1, 2].tolist() == [1.0] * 4


def test_tables_made_under_inference_mode_do_not_spoil_training():
    graph = FactorGraph([3, 2, 5], [(0, 2), (1,)])
    other = FactorGraph([3, 2, 5], [(2, 0), (1, 2)])
    values = random_values([3, 2, 5], (4,))
    with torch.inference_mode():
        f = random_factors(graph.cardinalities, graph.scopes)
        (f + random_factors(other.cardinalities, other.scopes)).gain(0, values)
    flat = torch.randn(graph.num_entries, requires_grad=True)
    total = Factors.from_flat(graph, flat) + Factors.from_flat(other, torch.randn(other.num_entries))
    (total(values).sum() + total.gain(0, values).sum()).backward()
    assert flat.grad.abs().sum() > 0


@pytest.mark.parametrize("seed", range(60))
def test_algebra_equals_the_same_algebra_on_values(seed):
    first = oracle.random_instance(seed, forbidden=0.0, max_variables=4)
    f = build(first).to(dtype=DOUBLE)
    scopes = [scope[::-1] for scope in first.scopes[::2]]
    known = {frozenset(scope) for scope in scopes}
    scopes += [scope for scope in [(0,), ()] if frozenset(scope) not in known]
    g = random_factors(first.cardinalities, scopes, f.batch_shape, seed)
    scale = torch.rand(f.batch_shape, dtype=DOUBLE) + 0.5
    values = random_values(first.cardinalities, (6, *f.batch_shape), seed)
    cases = [
        (f + g, f(values) + g(values)),
        (g + f, f(values) + g(values)),
        (f + f, 2 * f(values)),
        (f - g, f(values) - g(values)),
        (-f, -f(values)),
        (f * 3.0, 3 * f(values)),
        (0.5 * f, f(values) / 2),
        (f * scale, f(values) * scale),
        (f / scale, f(values) / scale),
        (f / 4, f(values) / 4),
    ]
    for found, expected in cases:
        assert torch.allclose(found(values), expected, rtol=0, atol=1e-12)


def test_addition_merges_scopes_and_batches():
    f = random_factors([2, 3, 2], [(0, 1), (2,)], (4, 1))
    g = random_factors([2, 3, 2], [(1, 0), (1, 2)], (5,), seed=1)
    total = f + g
    assert total.graph.scopes == ((0, 1), (2,), (1, 2))
    assert total.batch_shape == (4, 5)
    assert torch.allclose(total.tables[0], f.tables[0] + g.tables[0].transpose(-1, -2))
    assert (f.to(dtype=torch.float32) + g).dtype == DOUBLE


def test_forbidden_entries_survive_addition_and_positive_scaling():
    graph = FactorGraph([2], [(0,)])
    f = Factors(graph, [torch.tensor([-torch.inf, 1.0])])
    g = Factors(FactorGraph([2], [()]), [torch.tensor(2.0)])
    assert ((f + g) * 0.5)(torch.tensor([[0], [1]])).tolist() == [-torch.inf, 1.5]


def test_detach_and_to():
    graph = FactorGraph([2], [(0,)])
    f = Factors(graph, [torch.zeros(3, 2, requires_grad=True)])
    assert f.flat.requires_grad
    assert not f.detach().flat.requires_grad
    assert f.detach().graph is graph
    assert (f.to(dtype=DOUBLE).dtype, f.to(device="cpu").device.type) == (DOUBLE, "cpu")


def test_repr_names_batch_and_type():
    assert repr(random_factors([2], [(0,)], (3,))).endswith("batch_shape=(3,), dtype=torch.float64)")


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ([torch.zeros(2)], "got 1 tables for 2 scopes"),
        ([torch.zeros(2), torch.zeros(2, 3)], r"scope \(1, 0\) has shape \(2, 3\), but it must end in \(3, 2\)"),
        ([torch.zeros(()), torch.zeros(3, 2)], r"scope \(0,\) has shape \(\)"),
        ([torch.zeros(2), torch.zeros(3, 2, dtype=torch.long)], "make it floating point"),
        ([torch.zeros(2), torch.zeros(3, 2, dtype=DOUBLE)], r"torch\.float64 .* all must agree"),
        ([torch.zeros(2), torch.zeros(3, 2, device="meta")], "on meta"),
        ([torch.zeros(4, 2), torch.zeros(5, 3, 2)], r"batch shapes \(4,\), \(5,\) do not broadcast"),
    ],
)
def test_bad_tables_are_named(tables, message):
    with pytest.raises(StructureError, match=message):
        Factors(FactorGraph([2, 3], [(0,), (1, 0)]), tables)


def test_bad_flat_and_bad_sums_are_named():
    f = random_factors([2, 3], [(0,)], (4,))
    with pytest.raises(StructureError, match="its last axis hold the 2 entries"):
        Factors.from_flat(f.graph, torch.zeros(3))
    with pytest.raises(StructureError, match=r"f has cardinalities \(2, 3\), but g has \(2, 2\)"):
        f + random_factors([2, 2], [(0,)])
    with pytest.raises(StructureError, match=r"\(4,\), \(5,\) do not broadcast"):
        f + random_factors([2, 3], [(0,)], (5,))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.tensor([0, 3]), r"values\[1\] is 3, but variable 1 takes the values 0 to 2"),
        (torch.tensor([[0, 0], [-1, 0]]), r"values\[1, 0\] is -1, but variable 0"),
        (torch.tensor([0, 0, 0]), "must hold 2 variables"),
        (torch.tensor([0.0, 1.0]), "an integer index"),
    ],
)
def test_bad_values_are_named(values, message):
    f = random_factors([2, 3], [(0,)])
    with pytest.raises(EvidenceError, match=message):
        f(values)
    with pytest.raises(EvidenceError, match=message):
        f.gain(0, values)


def test_gain_of_an_unknown_agent_is_refused():
    with pytest.raises(EvidenceError, match="agent 2 is not one of the 2 variables"):
        random_factors([2, 3], [(0,)]).gain(2, torch.tensor([0, 0]))


def test_values_with_another_batch_shape_are_refused():
    with pytest.raises(StructureError, match=r"batch shapes \(5,\), \(4,\) do not broadcast"):
        random_factors([2, 3], [(0,)], (4,))(torch.zeros(5, 2, dtype=torch.long))
