"""Lower bounds never exceed log Z, equal what enumeration says of the returned distribution, and rise monotonically."""

import math
import time
from itertools import repeat

import pytest
import torch

import circuits
import factor_q
from benchmarks.elbo.ising import ising_grid
from circuits.engine.passes import normalize
from factor_q import FactorGraph, Factors, NotTractableError, StructureError, fit_structure, maximize_elbo
from factor_q.variational import FITTED_STRUCTURES, factor_informations, factor_strengths
from factor_q.variational.ascent import METHODS, _regions, coordinate_ascent, natural_gradient
from factor_q.variational.maximize import Budget, maximize_with_restarts
from factor_q.variational.starts import STARTS, closed_form, from_marginals
from factor_q.variational.terms import bound, edge_values, terms_of
from tests.factor_q import factor_oracle as oracle

DOUBLE = torch.float64
STRUCTURES = sorted(FITTED_STRUCTURES)


def build(instance):
    return Factors(FactorGraph(instance.cardinalities, instance.scopes), instance.tables).to(dtype=DOUBLE)


def log_partitions(instance):
    """Per batch row, by enumeration."""
    rows = (instance.row(row) for row in range(instance.num_rows))
    tables = (oracle.all_values(instance.cardinalities, instance.scopes, row) for row in rows)
    return [oracle.log_sum_exp(list(values.values())) for values in tables]


def energy_and_entropy(instance, distribution):
    """E[f] + H of a distribution by enumeration, per batch row."""
    points = list(oracle.assignments(instance.cardinalities))
    batch = (1,) * len(distribution.batch_shape)
    logs = distribution.log_prob(torch.tensor(points).reshape(len(points), *batch, -1)).reshape(len(points), -1)
    for row in range(instance.num_rows):
        tables, total = instance.row(row), 0.0
        for point, log in zip(points, logs[:, row].tolist(), strict=True):
            if log > -math.inf:
                total += math.exp(log) * (oracle.value(instance.scopes, tables, point) - log)
        yield total


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_pairs(seed, count=8, values=2, scale=1.0, batch=()):
    """A complete graph without forbidden entries: no small circuit holds it exactly."""
    graph = factor_q.complete([values] * count)
    return Factors.from_flat(
        graph, scale * torch.randn(*batch, graph.num_entries, generator=seeded(seed), dtype=DOUBLE)
    )


@pytest.mark.one_in(4)
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("seed", range(6))
def test_bounds_hold_at_every_step_and_are_what_the_distribution_gives(structure, seed):
    instance = oracle.random_instance(seed)
    f, log_z = build(instance), log_partitions(instance)
    if -math.inf in log_z:
        return
    seen = []
    fit = fit_structure(f, structure, labels=4, generator=seeded(seed), steps=8, on_step=lambda _, at: seen.append(at))
    average = sum(log_z) / len(log_z)
    assert all(at <= average + 1e-9 for at in [*seen, *(point.lower_bound for point in fit.history)])
    found = fit.lower_bound.reshape(-1).tolist()
    assert all(below <= above + 1e-9 for below, above in zip(found, log_z, strict=True))
    truth = energy_and_entropy(instance, fit.distribution)
    for claimed, actual in zip(found, truth, strict=True):
        assert claimed == actual or abs(claimed - actual) < 1e-9


@pytest.mark.full
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("labels", [1, 4])
def test_every_method_ends_between_its_start_and_log_z(method, labels):
    f = random_pairs(1)
    circuit = circuits.structures.keep_set(f.cardinalities, f.scopes, labels=labels)
    start = maximize_elbo(f, circuit, steps=0, starts=("closed_form",)).lower_bound
    fit = maximize_elbo(f, circuit, method=method, starts=("closed_form",), steps=300)
    assert start < fit.lower_bound <= f.log_partition() + 1e-9
    assert [point.lower_bound for point in fit.history] == sorted(point.lower_bound for point in fit.history)


@pytest.mark.full
def test_the_methods_agree_where_the_optimum_is_one():
    f = random_pairs(2, scale=0.3)
    circuit = circuits.structures.keep_set(f.cardinalities, f.scopes, labels=4)
    ends = [maximize_elbo(f, circuit, method=m, starts=("closed_form",)).lower_bound for m in METHODS]
    assert max(ends) - min(ends) < 1e-7


@pytest.mark.parametrize("ascent", [natural_gradient, coordinate_ascent])
@pytest.mark.parametrize("seed", range(10))
def test_ascent_never_falls(ascent, seed):
    f = random_pairs(seed, scale=[0.3, 1.0, 4.0][seed % 3])
    compiled = circuits.structures.keep_set(f.cardinalities, f.scopes, labels=4).compiled
    terms, one = terms_of(f), torch.ones((), dtype=DOUBLE)
    logits = STARTS["random"](compiled, f, seeded(seed))
    before = bound(compiled, terms, logits)[0]
    for after, _ in ascent(compiled, terms, logits, repeat(one, 5)):
        now = bound(compiled, terms, after)[0]
        assert now >= before - 1e-10
        before = now


@pytest.mark.one_in(3)
@pytest.mark.parametrize("ascent", [natural_gradient, coordinate_ascent])
@pytest.mark.parametrize("seed", range(8))
def test_ascent_never_steps_onto_forbidden_entries(ascent, seed):
    f = random_pairs(seed, values=3, count=6)
    blocked = torch.rand(f.flat.shape, generator=seeded(seed + 100)) < 0.08
    f = Factors.from_flat(f.graph, f.flat.masked_fill(blocked, -math.inf))
    assert f.max()[0] > -math.inf
    compiled = circuits.structures.keep_set(f.cardinalities, f.scopes, labels=3).compiled
    terms, one = terms_of(f), torch.ones((), dtype=DOUBLE)
    logits = STARTS["mode"](compiled, f, None)
    before = start = bound(compiled, terms, logits)[0]
    assert start > -math.inf
    for after, _ in ascent(compiled, terms, logits, repeat(one, 4)):
        now = bound(compiled, terms, after)[0]
        assert now >= before - 1e-10
        before = now


def test_restarts_keep_the_better_distribution_of_every_row():
    f = random_pairs(11, scale=4.0, batch=(12,))
    circuit = circuits.structures.keep_set(f.cardinalities, f.scopes, labels=2)
    first = maximize_elbo(f, circuit, starts=("random",), generator=seeded(1), steps=3)
    budget = Budget(2, None, seeded(1), {"seconds": 60.0, "steps": 3}, time.monotonic())
    best = maximize_with_restarts(f, circuit, ("random",), budget)
    assert (best.lower_bound >= first.lower_bound - 1e-12).all()
    assert (best.lower_bound > first.lower_bound + 1e-3).any()
    own = bound(circuit.compiled, terms_of(f), best.distribution.logits.movedim(-1, 0).contiguous())[0]
    assert torch.allclose(own, best.lower_bound, rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_a_region_is_at_its_exact_maximum_after_its_update(seed):
    f = random_pairs(seed)
    compiled = circuits.structures.keep_set(f.cardinalities, f.scopes, labels=4).compiled
    terms, logits = terms_of(f), STARTS["random"](compiled, f, seeded(seed))
    for edges in _regions(compiled):
        best = logits.index_copy(0, edges, edge_values(compiled, terms, logits)[edges])
        top = bound(compiled, terms, best)[0]
        assert top >= bound(compiled, terms, logits)[0] - 1e-12
        for size in (1e-2, 0.3):
            noise = size * torch.randn(len(edges), generator=seeded(seed), dtype=DOUBLE)
            assert bound(compiled, terms, best.index_add(0, edges, noise))[0] <= top + 1e-12
        logits = best


@pytest.mark.parametrize("seed", range(10))
def test_the_closed_form_is_exact_where_labels_separate(seed):
    graph = factor_q.ring([3] * 7)
    f = Factors.from_flat(graph, 2 * torch.randn(2, graph.num_entries, generator=seeded(seed), dtype=DOUBLE))
    circuit = circuits.structures.keep_set(f.cardinalities, f.scopes, labels=9)
    fit = maximize_elbo(f, circuit, starts=("closed_form",), steps=0)
    assert torch.allclose(fit.lower_bound, f.log_partition(), rtol=1e-12, atol=0)
    assert fit.steps == 0


@pytest.mark.parametrize("name", ["grid8x8", "chain", "triples"])
def test_where_the_width_fits_no_step_is_made(name):
    f = {
        "grid8x8": ising_grid(8, 8, 2.0),
        "chain": random_pairs(0, count=5),
        "triples": Factors(FactorGraph([2] * 5, [(0, 1, 2), (2, 3, 4)]), [torch.randn(2, 2, 2, dtype=DOUBLE)] * 2),
    }[name]
    fit = fit_structure(f, labels=2**10)
    assert fit.steps == 0
    assert torch.allclose(fit.lower_bound, f.log_partition(), rtol=1e-8, atol=0)


def test_marginals_are_written_into_any_circuit():
    cards = (2, 3, 2, 4)
    marginals = torch.rand(2, 4, 4, generator=seeded(), dtype=DOUBLE)
    for i, k in enumerate(cards):
        marginals[:, i, k:] = 0
    marginals /= marginals.sum(-1, keepdim=True)
    for circuit in (
        circuits.structures.keep_set(cards, labels=6),
        circuits.structures.selective(cards, copies=3),
        circuits.structures.clique_tree(cards, [(0, 1), (2, 3)]),
        circuits.structures.decision_diagram(cards, width=3),
    ):
        logits = from_marginals(circuit.compiled, marginals)
        pi = circuits.CircuitDistribution(circuit, logits.movedim(0, -1))
        for point in oracle.assignments(cards):
            expected = torch.stack([marginals[:, i, v] for i, v in enumerate(point)]).prod(0)
            assert torch.allclose(pi.log_prob(torch.tensor([point, point])).exp(), expected, rtol=1e-10, atol=0)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(4))
def test_never_looser_than_mean_field_and_structured_mean_field(seed):
    f = random_pairs(seed, count=9, scale=1.5)
    mean_field = factor_q.mean_field(f, restarts=20, steps=200, generator=seeded(seed)).lower_bound
    assert fit_structure(f, "keep_set", labels=4, generator=seeded(seed)).lower_bound >= mean_field - 1e-9
    generator = seeded(seed)
    rules = [
        factor_q.structured_mean_field(f, blocks=rule, restarts=20, generator=generator).lower_bound
        for rule in ("auto", "trees", "chains", "pairs")
    ]
    thin = fit_structure(f, "thin_junction_tree", labels=4, generator=seeded(seed), steps=0).lower_bound
    assert thin >= max(rules) - 1e-9
    assert fit_structure(f, labels=4, generator=seeded(seed)).lower_bound >= max(rules) - 1e-9


def test_rows_of_a_batch_are_fitted_as_if_alone():
    f = random_pairs(4, batch=(3,))
    circuit = circuits.structures.keep_set(f.cardinalities, f.scopes, labels=4)
    together_ = maximize_elbo(f, circuit, starts=("closed_form",), steps=60)
    for row in range(3):
        alone = maximize_elbo(Factors.from_flat(f.graph, f.flat[row]), circuit, starts=("closed_form",), steps=60)
        assert torch.allclose(together_.lower_bound[row], alone.lower_bound, rtol=0, atol=1e-9)
    assert together_.distribution.batch_shape == (3,)


def test_a_temperature_divides_the_factors():
    f = random_pairs(5)
    hot = fit_structure(f, "keep_set", labels=4, temperature=2.5, generator=seeded())
    same = fit_structure(f / 2.5, "keep_set", labels=4, generator=seeded())
    assert torch.allclose(hot.lower_bound, same.lower_bound, rtol=0, atol=1e-10)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("structure", ["keep_set", "thin_junction_tree", "selective"])
@pytest.mark.parametrize("seed", range(6))
def test_forbidden_entries_get_no_mass(structure, seed):
    instance = oracle.random_instance(seed + 500, forbidden=0.4)
    (log_z, *_), f = log_partitions(instance), build(instance)
    if -math.inf in log_partitions(instance):
        return
    fit = fit_structure(f, structure, labels=2, generator=seeded(seed), steps=20)
    assert not fit.lower_bound.isnan().any()
    draws = fit.distribution.sample((200,), generator=seeded(seed))
    allowed = (f(draws) > -math.inf).all(0)
    assert bool((allowed | (fit.lower_bound == -math.inf)).all())
    assert log_z > -math.inf


@pytest.mark.full
def test_the_published_size_on_an_8x8_grid_leaves_a_tenth_of_a_nat():
    f = ising_grid(8, 8, 2.0)
    fit = fit_structure(f, "keep_set", labels=64, max_parameters=9216, generator=seeded())
    gap = f.log_partition() - fit.lower_bound
    assert 0 <= gap < 0.1
    assert fit.distribution.circuit.num_parameters <= 9216
    mean_field = factor_q.mean_field(f, restarts=5, generator=seeded()).lower_bound
    assert f.log_partition() - mean_field > 1


def test_strengths_measure_the_interaction_only():
    pair = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=DOUBLE)
    additive = torch.tensor([[0.0, 1.0], [5.0, 6.0]], dtype=DOUBLE)
    f = Factors(FactorGraph([2, 2, 2], [(0, 1), (1, 2), (0,)]), [0.7 * pair, additive, torch.ones(2, dtype=DOUBLE)])
    assert factor_strengths(f) == pytest.approx([0.7, 0.0, 0.0])
    hard = Factors(FactorGraph([2, 2], [(0, 1)]), [torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]])])
    assert factor_informations(hard) == pytest.approx([math.log(2)], abs=1e-6)
    assert factor_informations(f)[1] == pytest.approx(0.0, abs=1e-12)


def test_budgets_and_names_are_checked():
    f = random_pairs(0)
    small = fit_structure(f, "keep_set", labels=8, max_parameters=60, steps=1)
    assert small.distribution.circuit.num_parameters <= 60
    with pytest.raises(NotTractableError, match="max_parameters is 10"):
        fit_structure(f, "selective", labels=8, max_parameters=10)
    with pytest.raises(StructureError, match="labels is 0"):
        fit_structure(f, labels=0)
    with pytest.raises(StructureError, match="'nonsense' is not one of auto, keep_set"):
        fit_structure(f, "nonsense")
    circuit = circuits.structures.keep_set(f.cardinalities, f.scopes, labels=2)
    with pytest.raises(StructureError, match="method 'up'"):
        maximize_elbo(f, circuit, method="up")
    with pytest.raises(StructureError, match="starts are some of"):
        maximize_elbo(f, circuit, starts=("nowhere",))
    with pytest.raises(StructureError, match="cardinalities"):
        maximize_elbo(f, circuits.structures.mean_field([2, 2]))
    with pytest.raises(TypeError, match="step"):
        maximize_elbo(f, circuit, stepz=3)
    with pytest.raises(NotTractableError, match="determinism"):
        maximize_elbo(f, circuits.structures.random_binary(f.cardinalities, sums=2))


def test_weights_of_the_closed_form_sum_to_one_and_numbers_stay_finite_at_strong_coupling():
    f = random_pairs(3, scale=1e4)
    circuit = circuits.structures.keep_set(f.cardinalities, f.scopes, labels=4)
    logits = closed_form(circuit.compiled, f)
    _, weights = normalize(circuit.compiled, logits)
    assert bool(weights.isfinite().all())
    fit = maximize_elbo(f, circuit, generator=seeded())
    assert fit.lower_bound <= f.log_partition() * (1 + 1e-12) + 1e-9
    assert fit.lower_bound.isfinite()
