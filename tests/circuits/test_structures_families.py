"""Selective circuits, cutset networks, random binary trees and mixtures: known sizes, meaning, speed, and refusals."""

from collections.abc import Callable
from random import Random

import pytest
import torch

from circuits import Circuit, CircuitDistribution, Input, StructureError, operations, structures
from tests import strategies
from tests.circuits import test_exactness
from tests.circuits.test_structures import check_witness
from tests.seeds import first_now

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


def random_policy(circuit: Circuit, seed: int = 0) -> CircuitDistribution:
    noise = torch.Generator().manual_seed(seed)
    return CircuitDistribution(circuit, torch.randn(circuit.num_parameters, generator=noise, dtype=torch.float64))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", first_now(range(10), 0.3))
def test_every_query_equals_enumeration(family: str, seed: int) -> None:
    test_exactness.test_every_query_equals_enumeration(family, seed)


@pytest.mark.parametrize("name", BUILDERS)
def test_ten_thousand_nodes_are_built_compiled_and_judged(name: str) -> None:
    """How long that takes is measured by benchmarks/build_speed.py."""
    circuit = BUILDERS[name]()
    assert 6_000 < circuit.num_nodes < 20_000
    assert circuit.compiled.num_parameters == circuit.num_parameters > 0
    assert circuit.is_deterministic == (name not in ("random_binary", "mixture"))


@pytest.mark.parametrize("name", ["selective", "decision_diagram", "cutset", "random_binary"])
def test_wrong_cardinalities_are_refused(name: str) -> None:
    for cards in ([], [2, 0], [2, True]):
        with pytest.raises(StructureError, match="cardinalit"):
            structures.STRUCTURES[name](cards)


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
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


@pytest.mark.parametrize(("count", "copies", "size"), [(16, 4, 112), (16, 32, 1536), (64, 32, 9216)])
def test_selective_has_the_published_size(count: int, copies: int, size: int) -> None:
    """(n/s) 2^s + (n/s - 1) copies^2 with s the smallest power of two for which 2^s > copies."""
    assert structures.selective([2] * count, copies=copies).num_parameters == size


def test_selective_labels_are_the_first_variables_of_a_block() -> None:
    """Given the first two variables of a block of four, its other two say nothing about the next block."""
    pi = random_policy(structures.selective([2] * 8, copies=4, seed=None))
    given = pi.condition({0: 1, 1: 0})
    assert given.mutual_information([2, 3], [4, 5, 6, 7]).abs() < 1e-12
    assert pi.mutual_information([2, 3], [4, 5, 6, 7]) > 1e-3
    assert pi.mutual_information([0, 1], [4, 5]) > 1e-3


def test_selective_shuffles_by_its_seed_only() -> None:
    shuffled = [structures.selective([2, 3, 4, 2, 3], copies=3, seed=seed).nodes for seed in (0, 0, 1, None)]
    assert shuffled[0] == shuffled[1]
    assert shuffled[0] != shuffled[2]
    in_order = [node.variable for node in shuffled[3] if isinstance(node, Input)]
    assert in_order == sorted(in_order)


def test_one_copy_is_mean_field() -> None:
    circuit = structures.selective([3, 2, 4], copies=1)
    assert circuit.num_parameters == structures.mean_field([3, 2, 4]).num_parameters
    assert random_policy(circuit).total_correlation().abs() < 1e-12


def test_a_cutset_network_is_a_tree_for_each_value_of_the_cut() -> None:
    """Given variable 2, the others form the chain 0 - 1 - 3; its strengths differ from value to value."""
    pi = random_policy(structures.cutset([2, 3, 2, 2], [2, 0, 1, 3]))
    strengths = []
    for value in (0, 1):
        given = pi.condition({2: value})
        assert given.condition({1: 0}).mutual_information([0], [3]).abs() < 1e-12
        strengths.append(float(given.mutual_information([0], [1])))
    assert strengths[0] > 1e-4
    assert abs(strengths[0] - strengths[1]) > 1e-4


def test_cutting_everything_gives_the_table_of_joint_values() -> None:
    cards = [2, 3, 2]
    circuit = structures.cutset(cards, depth=3)
    assert circuit.num_parameters == 2 + 6 + 12
    wanted = torch.rand(cards, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted /= wanted.sum()
    logits = torch.zeros(circuit.num_parameters, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-16)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = -(wanted * CircuitDistribution(circuit, logits).marginal([0, 1, 2]).log()).sum()
        value.backward()
        return value

    optimizer.step(loss)
    torch.testing.assert_close(CircuitDistribution(circuit, logits).marginal([0, 1, 2]), wanted, rtol=0, atol=1e-5)


def test_random_binary_is_not_deterministic_and_shows_a_witness() -> None:
    check_witness(structures.random_binary([2, 3, 2, 2, 2]))
    large = structures.random_binary([6] * 500, sums=4)
    overlap = large.overlap
    assert overlap is not None
    assert overlap.assignment is not None


def test_random_binary_with_one_of_everything_is_mean_field() -> None:
    circuit = structures.random_binary([2, 3, 2, 2], sums=1, repetitions=1)
    assert circuit.is_deterministic
    assert circuit.num_parameters == structures.mean_field([2, 3, 2, 2]).num_parameters


def test_random_binary_differs_by_seed_and_repetition() -> None:
    one, same, other = (structures.random_binary([2] * 8, seed=seed) for seed in (0, 0, 1))
    assert one.nodes == same.nodes
    assert one.nodes != other.nodes
    assert not one.is_structured


def test_a_mixture_is_the_weighted_sum_of_its_parts() -> None:
    parts = [structures.markov_chain([2, 3, 2]), structures.selective([2, 3, 2]), structures.mean_field([2, 3, 2])]
    circuit = operations.mixture(*parts)
    assert circuit.num_parameters == sum(part.num_parameters for part in parts) + 3
    pi = random_policy(circuit)
    logits, start = pi.logits, 0
    expected = torch.zeros(2, 3, 2, dtype=torch.float64)
    weights = logits[circuit.parameters_of(-1)].softmax(0)
    for part, weight in zip(parts, weights, strict=True):
        own = torch.empty(part.num_parameters, dtype=torch.float64)
        for node in range(part.num_nodes):
            own[part.parameters_of(node)] = logits[circuit.parameters_of(start + node)]
        expected += weight * CircuitDistribution(part, own).marginal([0, 1, 2])
        start += part.num_nodes
    torch.testing.assert_close(pi.marginal([0, 1, 2]), expected)


def test_mixtures_of_overlapping_parts_have_a_witness_and_disjoint_parts_a_proof() -> None:
    chain = structures.markov_chain([2, 3])
    assert operations.mixture(chain) is chain
    twice = operations.mixture(chain, chain)
    assert "mixture" in twice.name
    check_witness(twice)
    assert operations.mixture(operations.exactly([2] * 20, 1), operations.exactly([2] * 20, 2)).is_deterministic


def test_a_mixture_needs_parts_over_equal_variables() -> None:
    with pytest.raises(StructureError, match="mixture got no circuits"):
        operations.mixture()
    with pytest.raises(StructureError, match=r"circuit 1 has cardinalities \(2, 3\), the first has \(2, 2\)"):
        operations.mixture(structures.mean_field([2, 2]), structures.mean_field([2, 3]))


def test_families_are_repeatable() -> None:
    for family in FAMILIES:
        assert strategies.FAMILIES[family](Random(3)).nodes == strategies.FAMILIES[family](Random(3)).nodes


def test_a_clique_tree_too_large_is_refused_before_it_is_built() -> None:
    with pytest.raises(StructureError, match=r"3\.21e\+60 parameters.*variable 0 depends on 199 others"):
        structures.clique_tree([2] * 200)
