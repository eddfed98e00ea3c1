"""Every query refuses what none could make sense of, with its place: nan, +inf, and far too low temperatures."""

import math
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest
import torch

import factor_q
from circuits import structures
from circuits.errors import EvidenceError, NotTractableError, StructureError
from factor_q import FactorGraph, Factors, approximate, queries

GRAPH = FactorGraph([2, 3, 2], [(0,), (0, 1), (1, 2)])
VALUE = {"marginal": ([0],), "m_best": (2,)}
EXACT: dict[str, Callable[[Factors], object]] = {
    name: lambda f, name=name: getattr(queries, name)(f, *VALUE.get(name, ()))
    for name in queries.__all__
    if name not in ("Maximum", "condition")  # a record, and what returns factors: their next query refuses
}
FITS: dict[str, Callable[[Factors], object]] = {
    "compile": factor_q.compile,
    "fit_structure": lambda f: factor_q.fit_structure(f, labels=2, steps=2),
}
METHODS: dict[str, Callable[[Factors], object]] = {
    name: lambda f, method=method: method.run(f) for name, method in approximate.METHODS.items()
}
ALL = EXACT | FITS | METHODS
BOLTZMANN = sorted({"log_partition", "marginals", "marginal", "sample", "entropy", *FITS})


def spoiled(number: float, *batch: int) -> Factors:
    flat = torch.randn(*batch, GRAPH.num_entries, generator=torch.Generator().manual_seed(0))
    flat[(*(-1,) * len(batch), 2 + 4)] = number  # of factor 1, behind the two entries of factor 0: u_0 = 1, u_1 = 1
    return Factors.from_flat(GRAPH, flat)


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("name", ALL)
def test_every_query_refuses_and_names_factor_and_entry(name, number):
    where = r"factor 1 over variables \[0, 1\] holds (nan|inf) at entry \[1, 1\]"
    with pytest.raises(StructureError, match=where + "; entries are finite or -inf"):
        ALL[name](spoiled(number))
    with pytest.raises(StructureError, match=where + r" in batch row \[2\]"):
        ALL[name](spoiled(number, 3))


@pytest.mark.parametrize("name", BOLTZMANN)
def test_a_temperature_at_which_entries_overflow_is_refused(name):
    f = spoiled(1.0)
    ask = {"marginal": lambda t: f.marginal([0], t), "sample": lambda t: f.sample((3,), t)}
    ask |= {"compile": lambda t: factor_q.compile(f, t)}
    ask |= {"fit_structure": lambda t: factor_q.fit_structure(f.to(dtype=torch.float64), temperature=t * 1e-270)}
    with pytest.raises(StructureError, match="exceed torch.float(32|64); take a higher temperature"):
        ask.get(name, lambda t: getattr(f, name)(t))(1e-40)


def test_a_low_temperature_that_fits_is_answered():
    f = Factors(FactorGraph([2], [(0,)]), [torch.tensor([0.0, -torch.inf])])
    assert f.marginals(1e-30).tolist() == [[1.0, 0.0]]
    assert Factors(FactorGraph([2], [(0,)]), [torch.tensor([0.0, 1e-30])]).sample((9,), 1e-35).unique().tolist() == [1]


@pytest.mark.parametrize("number", [-3e38, 3e38, math.nan])
def test_soft_evidence_that_could_overflow_is_no_evidence(number):
    weights = torch.zeros(3, 3)
    weights[1, 2] = number
    with pytest.raises(EvidenceError, match="finite log weight beyond 1e\\+30"):
        spoiled(0.0).condition(weights)


def test_m_best_counts_before_it_lists():
    ring = factor_q.ring([2] * 30)
    f = Factors.from_flat(ring, torch.zeros(ring.num_entries))
    with pytest.raises(ValueError, match="asked for 2,000,000,000 assignments, but only 1,073,741,824 are possible"):
        f.m_best(2_000_000_000)
    with pytest.raises(NotTractableError, match="more than 16,384 are refused. Ask for fewer, or sample"):
        f.m_best(1_000_000)
    with pytest.raises(ValueError, match="only 12 are possible"):
        spoiled(0.0).m_best(10**9)


@pytest.mark.parametrize("structure", ["auto", "clique_tree"])
def test_without_variables_there_is_nothing_to_fit(structure):
    with pytest.raises(StructureError, match="no variables, so there is nothing to fit"):
        factor_q.fit_structure(Factors.from_flat(FactorGraph([]), torch.zeros(0)), structure)


@pytest.mark.full
def test_m_best_of_more_assignments_than_floating_point_can_count():
    chain = factor_q.FactorGraph([2] * 1100, [(i, i + 1) for i in range(1099)])
    f = Factors.from_flat(chain, torch.randn(chain.num_entries, generator=torch.Generator().manual_seed(0)))
    best, value = f.m_best(2)
    assert torch.equal(best[0], f.max().assignment)
    assert value[0] > value[1]


@pytest.mark.parametrize("sample", [Factors.sample, approximate.gibbs_sample])
@pytest.mark.parametrize(("shape", "error"), [((-1,), EvidenceError), ((10**12,), NotTractableError)])
@pytest.mark.usefixtures("as_installed")
def test_samples_know_their_memory(sample, shape, error):
    with pytest.raises(error, match="sample: "):
        sample(spoiled(0.0), shape)


@pytest.mark.parametrize("count", [0, True, 1.5, "3", None])
@pytest.mark.usefixtures("as_installed")
def test_m_best_takes_a_whole_number(count):
    with pytest.raises(ValueError, match="m_best needs a count of at least 1, a whole number, not"):
        spoiled(0.0).m_best(count)


@pytest.mark.parametrize("name", ALL)
def test_every_query_answers_an_empty_batch_but_nothing_is_fitted_to_it(name):
    nobody = Factors.from_flat(GRAPH, torch.zeros(0, GRAPH.num_entries))
    with nullcontext() if name != "fit_structure" else pytest.raises(StructureError, match=r"batch \(0,\) has no rows"):
        ALL[name](nobody)


@pytest.mark.parametrize("wrong", [None, 3, "f"])
@pytest.mark.parametrize("name", [*ALL, "condition", "gibbs_sample", "maximize_elbo"])
@pytest.mark.usefixtures("as_installed")
def test_every_query_takes_factors(name, wrong):
    more = {
        "condition": lambda f: queries.condition(f, {}),
        "gibbs_sample": factor_q.gibbs_sample,
        "maximize_elbo": lambda f: factor_q.maximize_elbo(f, structures.mean_field([2])),
    }
    with pytest.raises(StructureError, match=r"takes Factors, not a (NoneType|int|str)"):
        (ALL | more)[name](wrong)


@pytest.mark.parametrize("name", queries.__all__)
def test_every_query_knows_what_a_variable_of_huge_cardinality_costs(name):
    f = Factors.from_flat(FactorGraph([10**12, 10**12]), torch.zeros(0))
    more = {"condition": ({0: 1},), "m_best": (10**9,), "marginal": ([1, 0],), "sample": ((10**12,),)}
    if name != "Maximum":
        with pytest.raises(NotTractableError, match="would hold|more than|is a table of"):
            getattr(queries, name)(f, *more.get(name, ()))


@pytest.mark.parametrize("wrong", [5, None])
@pytest.mark.usefixtures("as_installed")
def test_what_is_no_list_is_refused_with_one(wrong):
    f = spoiled(0.0)
    asked = {
        "sample: the shape": lambda: f.sample(wrong),
        "set of variables": lambda: f.marginal(wrong),
        "FactorGraph: cardinalities": lambda: FactorGraph(wrong),
        "FactorGraph: scopes": lambda: FactorGraph([2], wrong),
        "FactorGraph: scope 0": lambda: FactorGraph([2], [wrong]),
    }
    if wrong is not None:
        asked |= {"elimination order": lambda: f.max(order=wrong), "cutset": lambda: f.max(cutset=wrong)}
    for message, ask in asked.items():
        with pytest.raises((EvidenceError, StructureError), match=message + f" is {wrong}; give a list, such as"):
            ask()


@pytest.mark.usefixtures("as_installed")
def test_factors_are_made_of_a_graph_and_tensors():
    numbers = np.zeros(2)
    with pytest.raises(StructureError, match=r"the table of scope \(0,\) is a ndarray; pass a tensor"):
        Factors(FactorGraph([2], [(0,)]), [numbers])
    for graph, tables in ((FactorGraph([2], [(0,)]), None), (None, []), (FactorGraph([2], [(0,)]), torch.zeros(1, 2))):
        with pytest.raises(StructureError, match="Factors takes a FactorGraph and a list of tables, not a"):
            Factors(graph, tables)
    for graph, flat in ((FactorGraph([2], [(0,)]), numbers), (None, torch.zeros(2)), (FactorGraph([2]), None)):
        with pytest.raises(StructureError, match="from_flat takes a FactorGraph and a tensor"):
            Factors.from_flat(graph, flat)
    for cards, scopes in (([True, 2], []), ([2, 2], [(True,)])):
        with pytest.raises(StructureError, match="is True, but it must be an integer"):
            FactorGraph(cards, scopes)
    for temperature in (None, "1", True):
        with pytest.raises(StructureError, match="the temperature is .* give a number"):
            spoiled(0.0).log_partition(temperature)
    for agent in (None, 1.5, 3):
        with pytest.raises(EvidenceError, match="is not one of the 3 variables"):
            spoiled(0.0).gain(agent, torch.zeros(3, dtype=torch.long))
