import numpy as np
import pytest
import torch

from circuits.errors import ImpossibleEvidenceError
from factor_q import EvidenceError, FactorGraph, Factors, NotTractableError
from factor_q.approximate import conditionals, gibbs_sample
from factor_q.approximate.conditionals import ascend_coordinates, color_classes, conditional, conditional_plan
from factor_q.approximate.messages.max_plus import breadth_first_levels
from tests.factor_q import factor_oracle as oracle
from tests.factor_q.approximate.models import DOUBLE, build, ising, truth
from tests.statistical import LEVEL, chi_square, counts_of


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("seed", range(12))
def test_draws_follow_the_distribution(seed):
    """Chains from independent uniform starts; 60 sweeps of a small, smooth model. False alarms: 1e-6 per row."""
    instance = oracle.random_instance(seed + 400, forbidden=0.0, max_variables=4)
    f = build(instance)
    draws = gibbs_sample(f, (4000,), 2.5, sweeps=60, generator=seeded(seed))
    assert draws.shape == (4000, *f.batch_shape, f.graph.num_variables)
    rows = draws.reshape(4000, instance.num_rows, -1).numpy()
    for row in range(instance.num_rows):
        values = oracle.all_values(instance.cardinalities, instance.scopes, instance.row(row))
        expected = np.array(list(oracle.boltzmann(values, 2.5).values())).reshape(instance.cardinalities)
        assert chi_square(counts_of(rows[:, row], tuple(instance.cardinalities)), expected) > LEVEL


@pytest.mark.parametrize("seed", range(60))
def test_forbidden_assignments_are_never_drawn(seed):
    instance = oracle.random_instance(seed, forbidden=0.4)
    f, (log_z, _) = build(instance), truth(instance)
    if (log_z == -torch.inf).any():
        with pytest.raises(ImpossibleEvidenceError, match="the factors forbid every assignment(, so| in batch row)"):
            gibbs_sample(f, (5,), sweeps=3, generator=seeded(seed))
        return
    assert (f(gibbs_sample(f, (5,), sweeps=3, generator=seeded(seed))) > -torch.inf).all()


@pytest.mark.parametrize("seed", range(40))
def test_conditionals_equal_enumeration(seed):
    instance = oracle.random_instance(seed)
    f = build(instance)
    values = conditionals.uniform_values(f, (2, *f.batch_shape), generator=seeded(seed))
    seen = []
    for plan in conditional_plan(f.graph, f.device):
        weights = conditional(plan, f.flat, values)
        for place, v in enumerate(plan.variables.tolist()):
            seen.append(v)
            own = [i for i, scope in enumerate(f.scopes) if v in scope]
            for a in range(max(f.cardinalities)):
                if a >= f.cardinalities[v]:
                    assert (weights[..., place, a:] == -torch.inf).all()
                    break
                changed = values.clone()
                changed[..., v] = a
                for index in np.ndindex(*values.shape[:-1]):
                    row = int(np.ravel_multi_index(index[1:], f.batch_shape)) if f.batch_shape else 0
                    tables = instance.row(row)
                    u = changed[index].tolist()
                    expected = oracle.value([f.scopes[i] for i in own], [tables[i] for i in own], u)
                    assert weights[(*index, place, a)].item() == pytest.approx(expected, abs=1e-12)
    assert sorted(seen) == list(range(f.graph.num_variables))


@pytest.mark.parametrize("seed", range(30))
def test_coordinate_ascent_never_loses(seed):
    f = build(oracle.random_instance(seed))
    values = conditionals.uniform_values(f, (3, *f.batch_shape), generator=seeded(seed))
    better = ascend_coordinates(conditional_plan(f.graph, f.device), f.flat, values)
    assert (f(better) >= f(values) - 1e-12).all()


@pytest.mark.parametrize("seed", range(30))
def test_classes_and_levels_hold_no_two_that_interact(seed):
    graph = build(oracle.random_instance(seed)).graph
    for classes in (color_classes(graph), breadth_first_levels(graph)):
        assert sorted(v for members in classes for v in members) == list(range(graph.num_variables))
        for members in classes:
            assert all(len(set(scope) & set(members)) <= 1 for scope in graph.scopes)


def test_the_walk_finds_a_colouring_without_elimination(monkeypatch):
    """A 10 x 10 grid in three colours, with the exact search switched off."""

    def refuse(*_, **__):
        raise NotTractableError("too wide")

    monkeypatch.setattr(conditionals, "max_assignment", refuse)
    scopes = ising(10).scopes
    different = torch.zeros(3, 3, dtype=DOUBLE).fill_diagonal_(-torch.inf)
    f = Factors(FactorGraph([3] * 100, scopes), [different] * len(scopes))
    assignment, found, exact = conditionals.feasible_assignment(f, generator=seeded(0))
    assert found
    assert not exact
    assert f(assignment) == 0
    impossible = Factors(FactorGraph([2], [(0,)]), [torch.full((2,), -torch.inf, dtype=DOUBLE)])
    with pytest.raises(NotTractableError, match="give one as start"):
        gibbs_sample(impossible, generator=seeded(0))


def test_starts_are_kept_without_sweeps_and_checked():
    f = Factors(FactorGraph([2, 2], [(0, 1)]), [torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]])])
    kept = gibbs_sample(f, (3,), sweeps=0, start=torch.tensor([1, 1]))
    assert kept.tolist() == [[1, 1]] * 3
    with pytest.raises(EvidenceError, match="start has an assignment that the factors forbid"):
        gibbs_sample(f, start=torch.tensor([0, 1]))
    with pytest.raises(EvidenceError, match="sweeps is -1"):
        gibbs_sample(f, sweeps=-1)


def test_the_same_generator_gives_the_same_draws():
    f = ising(4)
    first, second = (gibbs_sample(f, (6,), sweeps=5, generator=seeded(8)) for _ in range(2))
    assert torch.equal(first, second)
