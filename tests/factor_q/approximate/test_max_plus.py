import pytest
import torch

from factor_q import EvidenceError, FactorGraph, Factors, StructureError
from factor_q.approximate import max_plus, mini_bucket_maximum
from tests.factor_q import factor_oracle as oracle
from tests.factor_q.approximate.models import DOUBLE, at_most, build, equal, ising, random_tree, truth
from tests.seeds import first_now


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("seed", first_now(range(100)))
def test_exact_on_trees_with_ties_and_zeros(seed):
    instance = random_tree(seed)
    f, (_, best) = build(instance), truth(instance)
    result = max_plus(f, damping=[0.0, 0.5][seed % 2], improve=False, generator=seeded(seed))
    assert equal(result.value, best, 1e-9)
    assert equal(result.value, f(result.assignment), 0.0)


@pytest.mark.parametrize("seed", first_now(range(150)))
def test_value_is_that_of_the_assignment_and_below_the_maximum(seed):
    instance = oracle.random_instance(seed)
    f, (_, best) = build(instance), truth(instance)
    seen = []
    result = max_plus(f, steps=15, on_step=lambda _, value: seen.append(value), generator=seeded(seed))
    assert result.value.shape == f.batch_shape
    assert equal(result.value, f(result.assignment), 0.0)
    assert at_most(result.value.flatten(), best)
    assert seen == sorted(seen)


@pytest.mark.parametrize("seed", range(5))
def test_never_worse_than_its_start(seed):
    f = ising(6, strength=3.0, seed=seed)
    start = torch.randint(2, (36,), generator=seeded(seed))
    for steps in (0, 1, 10):
        result = max_plus(f, steps=steps, start=start, improve=False, generator=seeded(seed))
        assert result.value >= f(start)
    assert torch.equal(max_plus(f, steps=0, start=f.max()[1]).assignment, f.max()[1])


def test_close_to_the_maximum_on_the_ising_grid():
    f = ising(8)
    best, _ = f.max()
    result = max_plus(f, generator=seeded(0))
    assert 0.9 * best <= result.value <= best
    assert mini_bucket_maximum(f, max_entries=2**8) >= best


def test_refusals():
    f = Factors(FactorGraph([2, 2], [(0, 1)]), [torch.eye(2, dtype=DOUBLE)])
    with pytest.raises(StructureError, match="damping is -1"):
        max_plus(f, damping=-1.0)
    with pytest.raises(EvidenceError, match="takes the values"):
        max_plus(f, start=torch.tensor([0, 2]))
