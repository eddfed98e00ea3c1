import math

import pytest
import torch

from factor_q import FactorGraph, Factors, NotTractableError, StructureError, log_partition
from factor_q.approximate import mean_field, structured_mean_field
from factor_q.approximate.mean_field.blocks import choose_blocks, grid_columns
from factor_q.approximate.mean_field.mean_field import bound, initial_state
from factor_q.approximate.mean_field.product_family import bundle_energy, product_family, update_color
from factor_q.temperature import tempered
from tests.factor_q import factor_oracle as oracle
from tests.factor_q.approximate.models import DOUBLE, TEMPERATURES, at_most, build, equal, ising, truth
from tests.seeds import first_now

ISING_LOG_Z = 60.91358871779493


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def value_of(instance, row, marginals, temperature):
    """E[f / T] + H of independent variables, by enumeration."""
    values = oracle.all_values(instance.cardinalities, instance.scopes, instance.row(row))
    total = 0.0
    for u, value in values.items():
        p = math.prod(marginals[v][a] for v, a in enumerate(u))
        total += p * (value / temperature) if p > 0 else 0.0
    entropy = -sum(q * math.log(q) for own in marginals for q in own if q > 0)
    return total + entropy


@pytest.mark.one_in(4)
@pytest.mark.parametrize("seed", first_now(range(200)))
def test_bounds_hold_and_are_finite_where_anything_is_allowed(seed):
    instance, temperature = oracle.random_instance(seed), TEMPERATURES[seed % 3]
    f, (log_z, _) = build(instance), truth(instance, temperature)
    found = [
        mean_field(f, temperature, restarts=2, generator=seeded(seed)),
        structured_mean_field(f, temperature, blocks="pairs", generator=seeded(seed)),
        structured_mean_field(f, temperature, blocks=["trees", "chains"][seed % 2], generator=seeded(seed)),
    ]
    for result in found:
        assert result.lower_bound.shape == result.converged.shape == f.batch_shape
        assert result.marginals.shape == (*f.batch_shape, f.graph.num_variables, max(f.cardinalities))
        lower = result.lower_bound.flatten()
        assert at_most(lower, log_z)
        assert torch.equal(lower > -torch.inf, log_z > -torch.inf)
        assert equal(result.marginals.sum(-1), torch.ones(()))
        for v, cardinality in enumerate(f.cardinalities):
            assert (result.marginals[..., v, cardinality:] == 0).all()


@pytest.mark.parametrize("seed", range(60))
def test_the_bound_is_that_of_the_marginals(seed):
    instance, temperature = oracle.random_instance(seed), TEMPERATURES[seed % 3]
    f = build(instance)
    result = mean_field(f, temperature, steps=9, generator=seeded(seed))
    rows = result.marginals.reshape(instance.num_rows, *result.marginals.shape[-2:]).tolist()
    for row, lower in enumerate(result.lower_bound.flatten().tolist()):
        assert lower == pytest.approx(value_of(instance, row, rows[row], temperature), abs=1e-8)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("blocks", ["single", "pairs", "trees"])
def test_no_update_of_a_colour_lowers_the_bound(seed, blocks):
    f, temperature = build(oracle.random_instance(seed)), TEMPERATURES[seed % 3]
    flat = tempered(f, temperature, "test").flat
    target = Factors.from_flat(f.graph, flat)
    chosen = tuple((v,) for v in range(f.graph.num_variables)) if blocks == "single" else choose_blocks(target, blocks)
    family = product_family(f.graph, chosen, f.device)
    state = initial_state(family, target, 2, start=None, generator=seeded(seed))
    energy = bundle_energy(family, flat)
    value = bound(energy, state)
    for _ in range(4):
        for color in range(len(family.colors)):
            state = update_color(family, energy, color, state)
            before, value = value, bound(energy, state)
            assert not value.isnan().any()
            assert at_most(before, value, 1e-10)


@pytest.mark.parametrize("seed", range(40))
def test_one_block_of_everything_is_exact(seed):
    instance, temperature = oracle.random_instance(seed, max_variables=5), TEMPERATURES[seed % 3]
    f, (log_z, _) = build(instance), truth(instance, temperature)
    whole = [list(range(f.graph.num_variables))[::-1]]
    result = structured_mean_field(f, temperature, blocks=whole, generator=seeded(seed))
    assert equal(result.lower_bound.flatten(), log_z, 1e-9)
    probabilities = torch.zeros_like(result.marginals).reshape(instance.num_rows, *result.marginals.shape[-2:])
    for row in range(instance.num_rows):
        values = oracle.all_values(instance.cardinalities, instance.scopes, instance.row(row))
        for u, p in oracle.boltzmann(values, temperature).items():
            for v, a in enumerate(u):
                probabilities[row, v, a] += p
    possible = log_z > -torch.inf
    assert equal(result.marginals.reshape(probabilities.shape)[possible], probabilities[possible], 1e-9)


def test_a_start_at_the_optimum_stays_and_restarts_help():
    f = ising(6)
    first = mean_field(f, generator=seeded(0))
    again = mean_field(f, start=first.marginals)
    assert again.steps <= 2
    assert again.lower_bound.item() == pytest.approx(first.lower_bound.item(), abs=1e-8)
    many = mean_field(f, start=first.marginals, restarts=10, generator=seeded(1))
    assert at_most(first.lower_bound, many.lower_bound)


def test_low_temperature_counts_one_of_two_modes():
    """Two equal modes 10 I: mean field finds one, so it misses log 2 of the truth."""
    f = Factors(FactorGraph([2, 2], [(0, 1)]), [10 * torch.eye(2, dtype=DOUBLE)])
    result = mean_field(f, 0.1, generator=seeded(0))
    assert result.lower_bound.item() == pytest.approx(100, abs=1e-9)
    assert log_partition(f, 0.1).item() == pytest.approx(100 + math.log(2), abs=1e-9)


def test_hard_constraints_need_a_feasible_start():
    """Colouring a ring of 40 with three colours: a factorised q is finite only if neighbours' supports are disjoint."""
    different = torch.zeros(3, 3, dtype=DOUBLE).fill_diagonal_(-torch.inf)
    f = Factors(FactorGraph([3] * 40, [(i, (i + 1) % 40) for i in range(40)]), [different] * 40)
    exact = math.log(2**40 + 2)
    for method in (mean_field, structured_mean_field):
        result = method(f, steps=50, generator=seeded(2))
        assert 0 <= result.lower_bound.item() <= exact


@pytest.mark.full
def test_published_gaps_on_the_ising_grid():
    f = ising(8)
    assert log_partition(f).item() == pytest.approx(ISING_LOG_Z, abs=1e-9)
    factorised = mean_field(f, restarts=3, generator=seeded(0)).lower_bound.item()
    rows = structured_mean_field(f, restarts=3, generator=seeded(0)).lower_bound.item()
    trees = structured_mean_field(f, blocks="trees", restarts=3, generator=seeded(0)).lower_bound.item()
    assert ISING_LOG_Z - factorised <= 8.453
    assert ISING_LOG_Z - rows == pytest.approx(5.527, abs=2e-3)
    assert factorised < rows < trees < ISING_LOG_Z


def test_blocks_are_what_they_say():
    f = ising(4)
    assert grid_columns(f.graph) == 4
    assert choose_blocks(f, "rows") == choose_blocks(f, "auto") == tuple(tuple(range(i, i + 4)) for i in (0, 4, 8, 12))
    assert choose_blocks(f, "pairs")[:2] == ((0, 1), (2, 3))
    edges = {frozenset(scope) for scope in f.scopes}
    for rule in ("chains", "trees"):
        blocks = choose_blocks(f, rule)
        assert sorted(v for block in blocks for v in block) == list(range(16))
        for block in blocks:
            inside = [edge for edge in edges if edge <= set(block)]
            assert len(inside) == len(block) - 1
            degrees = [sum(v in edge for edge in inside) for v in block]
            assert rule == "trees" or max(degrees, default=0) <= 2


def test_reports_and_limits():
    seen = []
    result = mean_field(ising(4), steps=7, tolerance=0.0, on_step=lambda *step: seen.append(step), generator=seeded(0))
    assert [step for step, _ in seen] == list(range(1, result.steps + 1))
    assert seen[-1][1] == pytest.approx(result.lower_bound.item())
    assert mean_field(ising(4), seconds=0.0, generator=seeded(0)).steps == 1
    assert mean_field(ising(4), steps=0, generator=seeded(0)).steps == 0


def test_refusals(without_type_checks):
    f = ising(4)
    with pytest.raises(TypeError, match="'step'.*steps, seconds"):
        mean_field(f, step=3)
    with pytest.raises(StructureError, match="temperature is -1"):
        mean_field(f, -1.0)
    with pytest.raises(StructureError, match="restarts is 0"):
        mean_field(f, restarts=0)
    with pytest.raises(StructureError, match="exactly once"):
        structured_mean_field(f, blocks=[[0, 1], [1, 2]])
    with pytest.raises(StructureError, match="no such rule"):
        structured_mean_field(f, blocks="columns")
    with pytest.raises(StructureError, match="do not form a grid"):
        structured_mean_field(Factors(FactorGraph([2, 2, 2], [(0, 1), (0, 2)]), [torch.eye(2)] * 2), blocks="rows")
    with pytest.raises(StructureError, match="start has shape"):
        mean_field(f, start=torch.ones(3))
    with pytest.raises(StructureError, match="nan"):
        mean_field(Factors(FactorGraph([2], [(0,)]), [torch.tensor([0.0, torch.nan])]))
    graph = FactorGraph([2] * 40, [(i, j) for i in range(40) for j in range(i)])
    with pytest.raises(NotTractableError, match="width"):
        structured_mean_field(Factors.from_flat(graph, torch.zeros(graph.num_entries)), blocks=[list(range(40))])
