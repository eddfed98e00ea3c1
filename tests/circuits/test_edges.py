"""nan, inf, empty and huge for every query and every structure, read off the registries: what is new is covered."""

import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

import pytest
import torch

from circuits import CircuitDistribution, EvidenceError, NotTractableError, StructureError, queries, structures
from tests import strategies
from tests.contracts import Case, assert_close, case_of, rows_for

pytestmark = pytest.mark.usefixtures("as_installed")
EMPTY = ((0,), pytest.param((2, 0, 3), marks=pytest.mark.full))
HUGE = 10**12
SPOILED = (torch.nan, torch.inf, -torch.inf)


@contextmanager
def soon(seconds: float = 1.0) -> Iterator[None]:
    """What is refused is refused before it is tried."""
    begin = time.process_time()
    yield
    assert time.process_time() - begin < seconds


def distribution(cards: list[int], *batch: int) -> CircuitDistribution:
    circuit = structures.mean_field(cards)
    return CircuitDistribution(circuit, torch.zeros(*batch, circuit.num_parameters))


@pytest.mark.parametrize("bad", SPOILED)
@pytest.mark.parametrize("family", strategies.FAMILIES)
def test_no_query_meets_numbers_without_sense(family: str, bad: float) -> None:
    """They are refused where they come in, with their place; a single -inf forbids, all of a node's make no sense."""
    circuit = strategies.circuit_of(family, 11)
    node, where = max(circuit.compiled.parameter_slices.items(), key=lambda each: each[1].stop - each[1].start)
    logits = torch.zeros(2, 3, circuit.num_parameters)
    logits[1, 2, where if bad < 0 else where.start] = bad
    place = rf"node {node} are -inf in batch row \[1, 2\]" if bad < 0 else rf"first at index \[1, 2, {where.start}\]"
    with pytest.raises(StructureError, match=place):
        CircuitDistribution(circuit, logits)


TAKE_NUMBERS: dict[str, Callable[[CircuitDistribution, float], object]] = {
    "condition": lambda pi, bad: pi.condition(torch.full((2, 3), bad)),
    "constrain": lambda pi, bad: pi.constrain(pi.circuit),  # whose weights do not count
    "cross_entropy": lambda pi, bad: pi.cross_entropy(CircuitDistribution(pi.circuit, torch.full((5,), bad))),
    "expectation": lambda pi, bad: pi.expectation([((0,), torch.zeros(2)), ((0, 1), torch.full((2, 3), bad))]),
    "expected_score": lambda pi, bad: pi.expected_score(torch.full((5,), bad)),
    "kl_divergence": lambda pi, bad: pi.kl_divergence(CircuitDistribution(pi.circuit, torch.full((5,), bad))),
    "log_evidence": lambda pi, bad: pi.log_evidence(torch.full((2, 3), bad)),
    "multiply": lambda pi, bad: pi.multiply(CircuitDistribution(pi.circuit, torch.full((5,), bad))),
}
"""Queries that are given further numbers."""
TAKE_INDICES = {"conditionals", "log_prob", "m_best", "marginal", "mutual_information", "pair_marginals", "sample"}
"""Queries that are given integers only."""


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", queries.__all__)
def test_further_numbers_without_sense_are_refused(name: str, bad: float) -> None:
    takes_more = len(inspect.signature(getattr(queries, name)).parameters) > 1
    assert takes_more == (name in TAKE_NUMBERS or name in TAKE_INDICES)
    if name in TAKE_NUMBERS and name != "constrain":
        with pytest.raises((StructureError, EvidenceError), match=r"nan|inf"):
            TAKE_NUMBERS[name](distribution([2, 3]), bad)


def test_expectation_names_the_scope_of_what_is_no_number() -> None:
    with pytest.raises(EvidenceError, match=r"the table of scope \[0, 1\] holds nan; entries are finite"):
        TAKE_NUMBERS["expectation"](distribution([2, 3]), torch.nan)


def empty_case(family: str, batch: tuple[int, ...]) -> Case:
    return case_of(Random(f"empty {family}"), strategies.circuit_of(family, 11), batch)


@pytest.mark.parametrize("batch", EMPTY)
@pytest.mark.parametrize("family", strategies.FAMILIES)
def test_every_query_answers_nothing_about_nobody(family: str, batch: tuple[int, ...]) -> None:
    """Of the shape that enumeration gives."""
    case = empty_case(family, batch)
    for row in rows_for(case):
        assert_close(row.call(case), row.oracle(case), row.name)


LONG = [2] * 40
WIDE = [20_000, 60_000]
ASK_TOO_MUCH: dict[str, Callable[[], object]] = {
    "expectation": lambda: distribution(WIDE).expectation([((0, 1), torch.zeros(()).expand(WIDE))]),
    "m_best": lambda: distribution(LONG).m_best(10**9),
    "marginal": lambda: distribution(WIDE).marginal([0, 1]),
    "mutual_information": lambda: distribution(WIDE).mutual_information([0], [1]),
    "pair_marginals": lambda: distribution(WIDE).pair_marginals([(1, 0)]),
    "sample": lambda: distribution([2, 3], 2).sample((HUGE,)),
}
"""Queries whose answer is as large as one asks for."""
AS_LARGE_AS_GIVEN = {
    *("condition", "conditionals", "constrain", "cross_entropy"),
    *("expected_score", "kl_divergence", "log_evidence", "log_prob", "multiply"),
}
"""Queries whose answer is as large as what one brings along."""


@pytest.mark.parametrize("name", queries.__all__)
def test_a_query_that_would_not_fit_says_so_before_it_is_tried(name: str) -> None:
    takes_more = len(inspect.signature(getattr(queries, name)).parameters) > 1
    assert takes_more == (name in ASK_TOO_MUCH or name in AS_LARGE_AS_GIVEN)
    if name in ASK_TOO_MUCH:
        with soon(), pytest.raises(NotTractableError, match=r"more than [\d,]+(\.|;| in all)"):
            ASK_TOO_MUCH[name]()


SIZES = [
    (name, option)
    for name, build in structures.STRUCTURES.items()
    for option, parameter in inspect.signature(build).parameters.items()
    if parameter.annotation in (int, int | None)
]


@pytest.mark.parametrize(("name", "option"), SIZES)
def test_a_structure_with_a_huge_option_is_small_or_refused(name: str, option: str) -> None:
    """10^12 labels, copies, states, ...: what would not fit is refused before it is built."""
    with soon():
        try:
            assert structures.STRUCTURES[name](LONG, **{option: HUGE}).num_nodes < 10**5
        except StructureError as error:
            said = str(error)
        else:
            said = str(HUGE)
    assert str(HUGE) in said or "more than 4,194,304" in said


@pytest.mark.parametrize("name", structures.STRUCTURES)
def test_a_variable_of_too_many_values_is_refused_by_every_structure(name: str) -> None:
    with soon(), pytest.raises(StructureError, match="1,000,000,000,002 values in all, more than the 4,194,304"):
        structures.STRUCTURES[name]([HUGE, 2], **({"parents": [-1, 0]} if name == "tree" else {}))


@pytest.mark.parametrize(
    ("name", "cards", "options"),
    [
        ("markov_chain", [10**6, 10**6], {}),
        ("markov_chain", [2] * 2000, {"order": 10**400}),
        ("tree", [10**6, 10**6], {"parents": [-1, 0]}),
        ("keep_set", [10**6, 10**6], {"labels": 10**6}),
        ("clique_tree", [10] * 30, {}),
        ("selective", [10**6, 10**6], {"copies": 10**400}),
        ("decision_diagram", [10] * 30, {"width": 10**400}),
        ("cutset", [2] * 1500, {"depth": 1500}),
        ("random_binary", [1], {"sums": HUGE}),
        ("random_binary", [2] * 8, {"depth": 0, "inputs": 10**400}),
        ("latent_tree", [1], {"states": HUGE}),
    ],
)
def test_large_numbers_together_are_counted_before_anything_is_built(name, cards, options) -> None:
    with soon(), pytest.raises(StructureError, match="nodes, more than 4,194,304;"):
        structures.STRUCTURES[name](cards, **options)


def test_a_circuit_that_is_just_too_large() -> None:
    assert structures.markov_chain([4, 500]).num_parameters == 4 + 4 * 500
    with pytest.raises(StructureError, match=r"markov_chain would have about 4.41e\+6 parameters or nodes"):
        structures.markov_chain([2100, 2100])
