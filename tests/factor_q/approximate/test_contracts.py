"""What every approximate method promises, run over the contract table: bounds, rows, -inf, temperature, trees."""

import math

import pytest
import torch

from factor_q import FactorGraph, Factors, ImpossibleEvidenceError, StructureError, approximate
from tests.factor_q import factor_oracle as oracle
from tests.factor_q.approximate import contracts
from tests.factor_q.approximate.models import DOUBLE, TEMPERATURES, at_most, build, equal, random_tree, truth
from tests.seeds import first_now

METHODS = [pytest.param(name, row, id=name) for name, row in contracts.METHODS.items()]
NUMBERS = [pytest.param(name, row, id=name) for name, row in contracts.METHODS.items() if row.number]
SOFT = [pytest.param(name, row, id=name) for name, row in contracts.METHODS.items() if row.of == "log_partition"]


def answer(name, row, f, *temperature, seed=0, **options):
    """The number that a method says (or its samples)."""
    if row.random:
        options["generator"] = torch.Generator().manual_seed(seed)
    result = approximate.METHODS[name].run(f, *temperature, **options)
    return result if row.number is None else row.number(result)


def instance_for(row, seed, **options):
    """A random instance with factors that the method takes."""
    return oracle.of_at_most(row.most_variables, oracle.random_instance(seed, **options))


def test_every_method_has_a_row_that_says_what_the_registry_says():
    said = {name: (method.says, method.of) for name, method in approximate.METHODS.items()}
    assert said == {name: (row.says, row.of) for name, row in contracts.METHODS.items()}
    assert set(said) <= set(approximate.__all__)


@pytest.mark.parametrize("seed", first_now(range(60)))
@pytest.mark.parametrize(("name", "row"), NUMBERS)
def test_numbers_are_what_they_say(name, row, seed):
    """Against enumeration, with factors of any arity, ties, forbidden entries and impossible rows."""
    instance = instance_for(row, seed)
    temperature = TEMPERATURES[seed % 3] if row.of == "log_partition" else 1.0
    f, (log_z, best) = build(instance), truth(instance, temperature)
    exact = best if row.of == "maximum" else log_z
    found = answer(name, row, f, *([temperature] if row.of == "log_partition" else []), seed=seed, **row.options)
    assert found.shape == f.batch_shape
    assert not found.isnan().any()
    if row.says == "lower":
        assert at_most(found.flatten(), exact)
    elif row.says == "upper":
        assert at_most(exact, found.flatten())
    else:
        assert (exact[found.flatten() == -torch.inf] == -torch.inf).all()


@pytest.mark.one_in(3)
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("name", "row"), [param for param in NUMBERS if param.values[1].exact_on_trees])
def test_trees_of_pairs_are_exact(name, row, seed):
    instance = oracle.of_at_most(2, random_tree(seed))
    f, (log_z, best) = build(instance), truth(instance)
    assert equal(answer(name, row, f, seed=seed).flatten(), best if row.of == "maximum" else log_z, 1e-8)


@pytest.mark.parametrize(("name", "row"), METHODS)
def test_a_row_does_not_depend_on_the_others(name, row):
    """The same random numbers, other tables in the second row: its first row stays as it was, to the last digit."""
    graph = FactorGraph([2, 3, 2, 2], [(0,), (0, 1), (1, 2), (2, 3), (3, 0)])
    tables = torch.randn(3, graph.num_entries, dtype=DOUBLE, generator=torch.Generator().manual_seed(4))
    options = {**row.options, **({"steps": 4, "tolerance": 0.0} if row.iterates else {})}
    first, second = (
        answer(name, row, Factors.from_flat(graph, tables[rows]), seed=1, **options) for rows in ([0, 1], [0, 2])
    )
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])


@pytest.mark.parametrize(("name", "row"), METHODS)
def test_batch_shapes_are_kept(name, row):
    graph = FactorGraph([2, 3], [(0,), (0, 1)])
    for batch in ((), (1,), (2, 1), (0,)):
        shape = answer(name, row, Factors.from_flat(graph, torch.zeros(*batch, graph.num_entries)), **row.options).shape
        assert tuple(shape) == (batch if row.number else (*batch, 2))


@pytest.mark.parametrize(("name", "row"), METHODS)
def test_impossible_rows_are_minus_infinity_and_leave_the_others_alone(name, row):
    table = torch.stack([torch.zeros(2, 2), torch.full((2, 2), -torch.inf)]).to(DOUBLE)
    f = Factors(FactorGraph([2, 2], [(0, 1)]), [table])
    if row.number is None:
        with pytest.raises(ImpossibleEvidenceError, match="forbid every assignment"):
            answer(name, row, f, **row.options)
        return
    expected = [0.0 if row.of == "maximum" else math.log(4), -math.inf]
    assert answer(name, row, f, **row.options).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("name", "row"), SOFT)
def test_temperature_divides_the_tables_row_by_row(name, row):
    f = build(instance_for(row, 3, forbidden=0.0))
    single = Factors.from_flat(f.graph, f.flat.reshape(-1, f.graph.num_entries)[0])
    temperature = torch.tensor([0.5, 4.0], dtype=DOUBLE)
    cooled = Factors.from_flat(f.graph, single.flat / temperature.unsqueeze(-1))
    assert equal(answer(name, row, single, temperature, **row.options), answer(name, row, cooled, **row.options), 1e-12)
    with pytest.raises(StructureError, match="temperature is -1"):
        answer(name, row, single, -1.0)
