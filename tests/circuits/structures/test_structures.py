"""Every registered structure keeps the promises of its row, refuses what it must, and is quick to build."""

from collections.abc import Callable
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits import (
    Circuit,
    CircuitDistribution,
    StructureError,
    operations,
    structures,
)
from tests import oracles, strategies
from tests.circuits import test_exactness
from tests.contracts import STRUCTURE_CASES, STRUCTURE_ROWS, Structure, structure_of
from tests.seeds import first_now


def test_every_structure_has_a_row() -> None:
    assert {row.name for row in STRUCTURE_ROWS} == set(structures.STRUCTURES)


@pytest.mark.parametrize(("row", "cards", "keywords"), STRUCTURE_CASES)
def test_a_structure_keeps_its_promises(row: Structure, cards: tuple[int, ...], keywords: dict) -> None:
    if "parents" in keywords and len(keywords["parents"]) != len(cards):
        pytest.fail("the row's parents do not fit its cardinalities")
    circuit = structure_of(row, cards, keywords)
    assert circuit.cardinalities == cards
    assert row.name in circuit.name
    expected = row.size(cards, **keywords)
    assert circuit.num_parameters <= expected
    if row.size_is_exact:
        assert circuit.num_parameters == expected
    nodes = strategies.plain_nodes(circuit)
    assert circuit.is_smooth
    assert circuit.is_decomposable
    assert circuit.is_deterministic == row.is_deterministic == (not oracles.overlapping_sums(cards, nodes))
    assert circuit.is_structured == row.is_structured == oracles.is_structured(nodes)
    # Every joint value is possible, so that a policy can learn any of them.
    pi = CircuitDistribution(circuit, torch.zeros(circuit.num_parameters, dtype=torch.float64))
    log_prob = pi.log_prob(pi.enumerate_support())
    assert torch.isfinite(log_prob).all()
    torch.testing.assert_close(log_prob.exp().sum(), torch.tensor(1.0, dtype=torch.float64))


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("markov_chain", {"order": -1}, "order is -1"),
        ("keep_set", {"labels": 0}, "labels is 0"),
        ("keep_set", {"scopes": [(0, 5)]}, "variable 5"),
        ("tree", {"parents": [-1]}, "1 parents for 2 variables"),
        ("tree", {"parents": [-1, 2]}, "variable 1 has parent 2"),
        ("tree", {"parents": [1, 0]}, "cycle"),
        ("selective", {"copies": 0}, "copies is 0"),
        ("selective", {"seed": -1}, "seed is -1"),
        ("random_binary", {"sums": 0}, "sums is 0; it must be at least 1"),
        ("random_binary", {"depth": -1}, "depth is -1; it must be at least 0"),
        ("random_binary", {"repetitions": 0}, "repetitions is 0"),
        ("random_binary", {"inputs": 0}, "inputs is 0"),
        ("random_binary", {"seed": -2}, "seed is -2"),
        ("cutset", {"order": [0, 0]}, "name each of the variables 0 to 1 once"),
        ("cutset", {"order": [0]}, "name each of the variables"),
        ("cutset", {"depth": 3}, "depth is 3; it must be within 0 to 2"),
        ("cutset", {"parents": [-1]}, "cutset got 1 parents for 2 variables"),
        ("cutset", {"parents": [-1, 2]}, "cutset: variable 1 has parent 2"),
        ("cutset", {"parents": [1, 0]}, "cutset: the parents form a cycle"),
    ],
)
def test_wrong_options_are_refused(name: str, keywords: dict, message: str) -> None:
    with pytest.raises(StructureError, match=message):
        structures.STRUCTURES[name]([2, 3], **keywords)


@pytest.mark.parametrize("cards", [[], [2, 0], [2, -1], [2, True]])
@pytest.mark.parametrize("name", structures.STRUCTURES)
def test_wrong_cardinalities_are_refused(name: str, cards: list) -> None:
    keywords = {"parents": [-1] * 2} if name == "tree" else {}
    with pytest.raises(StructureError, match="cardinalit"):
        structures.STRUCTURES[name](cards, **keywords)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(0, 3))
@settings(max_examples=50)
def test_a_chain_of_order_zero_is_mean_field(cards: list[int], order: int) -> None:
    chain = structures.markov_chain(cards, order=order)
    assert chain.is_deterministic
    if order == 0:
        assert chain.num_parameters == structures.mean_field(cards).num_parameters


FAMILIES = ("selective", "decision_diagram", "constraint", "cutset", "random_binary", "mixture")

SIX = [6] * 40

BUILDERS: dict[str, Callable[[], Circuit]] = {
    "selective": lambda: structures.selective(SIX * 4),
    "selective with uneven groups": lambda: structures.selective([5] * 80, copies=13),
    "decision_diagram": lambda: structures.decision_diagram(SIX * 3),
    "exactly": lambda: operations.exactly([2] * 300, 10),
    "all_different": lambda: operations.all_different([6] * 60, exempt=[0]),
    "cutset": lambda: structures.cutset(SIX * 3),
    "random_binary": lambda: structures.random_binary(SIX, sums=10),
    "mixture": lambda: operations.mixture(*(structures.markov_chain(SIX) for _ in range(12))),
}
"""About 10,000 nodes each."""


@pytest.mark.one_in(4)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", first_now(range(10), 0.3))
def test_every_query_equals_enumeration(family: str, seed: int) -> None:
    test_exactness.test_every_query_equals_enumeration(family, seed)


@pytest.mark.full
@pytest.mark.parametrize("name", BUILDERS)
def test_ten_thousand_nodes_are_built_compiled_and_judged(name: str) -> None:
    """How long that takes is measured by benchmarks/build_speed.py."""
    circuit = BUILDERS[name]()
    assert 6_000 < circuit.num_nodes < 20_000
    assert circuit.compiled.num_parameters == circuit.num_parameters > 0
    assert circuit.is_deterministic == (name not in ("random_binary", "mixture"))


def test_families_are_repeatable() -> None:
    for family in FAMILIES:
        assert strategies.FAMILIES[family](Random(3)).nodes == strategies.FAMILIES[family](Random(3)).nodes
