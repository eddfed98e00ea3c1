"""Structure and determinism: the proofs agree with enumeration, and a refusal shows a witness."""

from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given, settings

from circuits import Circuit, CircuitBuilder, CircuitDistribution, NotTractableError
from circuits.properties import Disjointness
from tests import oracles, strategies
from tests.circuits.test_circuit import mixture


@given(strategies.recipes())
@settings(max_examples=300)
def test_the_flags_agree_with_their_definitions(recipe: tuple[str, int]) -> None:
    circuit = strategies.circuit_of(*recipe)
    nodes = strategies.plain_nodes(circuit)
    assert circuit.is_structured == oracles.is_structured(nodes)
    overlapping = oracles.overlapping_sums(circuit.cardinalities, nodes)
    assert circuit.is_deterministic == (not overlapping)
    assert overlapping <= {node for node, _ in Disjointness(circuit.nodes, circuit.scopes).unproved_sums()}
    if circuit.overlap is not None:
        check_witness(circuit)


def check_witness(circuit: Circuit) -> None:
    """The named sum's two children really allow the named values."""
    overlap = circuit.overlap
    assert overlap is not None
    assert overlap.assignment is not None
    node = circuit.nodes[overlap.sum_node]
    assert {overlap.first, overlap.second} <= set(node.children)
    support = oracles.supports(circuit.cardinalities, strategies.plain_nodes(circuit))
    assert set(overlap.assignment) == {v for v in range(circuit.num_variables) if overlap.scope >> v & 1}
    shared = support[overlap.first] & support[overlap.second]
    assert any(all(x[v] == value for v, value in overlap.assignment.items()) for x in shared)


def test_what_needs_determinism_refuses_and_names_the_node() -> None:
    circuit = mixture()
    assert not circuit.is_deterministic
    check_witness(circuit)
    assert circuit.overlap is not None
    assert circuit.overlap.sum_node == 6
    pi = CircuitDistribution(circuit, torch.zeros(circuit.num_parameters))
    for refused in (pi.entropy, lambda: pi.mode, pi.map, lambda: pi.kl_divergence(pi), pi.total_correlation):
        with pytest.raises(NotTractableError, match=r"sum node 6 .*children 2 and 5.*both allow"):
            refused()
    assert pi.entropy_lower_bound() > 0


@pytest.mark.parametrize("name", ["nodes", "scopes", "determinism", "overlap", "second_split", "x"])
def test_what_is_proved_of_a_circuit_cannot_be_changed(name: str) -> None:
    circuit = mixture()
    assert circuit.overlap is not None
    with pytest.raises(FrozenInstanceError, match=f"'{name}'"):
        setattr(circuit.properties, name, None)
    with pytest.raises(FrozenInstanceError, match=f"'{name}'"):
        delattr(circuit.properties, name)
    assert not circuit.is_deterministic


def test_the_same_child_twice_is_an_overlap() -> None:
    b = CircuitBuilder([2])
    x = b.input(0)
    assert not b.build(b.sum(x, x)).is_deterministic


def test_determinism_that_only_an_exact_search_can_prove() -> None:
    """Different splits of one scope: the children differ in variable 0, which no common split shows."""
    b = CircuitBuilder([2, 2, 2])
    first = b.product(b.input(0, [0]), b.product(b.input(1), b.input(2)))
    second = b.product(b.product(b.input(1), b.input(0, [1])), b.input(2))
    circuit = b.build(b.sum(first, second))
    assert circuit.is_deterministic
    assert not circuit.is_structured


def test_a_proof_thousands_of_levels_deep_does_not_crash() -> None:
    """The children differ in the deepest variable only. Proved or not, but never a wrong answer or a crash."""
    n = 3000
    b = CircuitBuilder([2] * n)
    ends = [b.input(n - 1, [0]), b.input(n - 1, [1])]
    for variable in reversed(range(n - 1)):
        both = b.input(variable)
        ends = [b.product(both, end) for end in ends]
    circuit = b.build(b.sum(*ends))
    assert circuit.overlap is None or circuit.overlap.assignment is None


def test_lower_bound_of_a_mixture_of_equal_parts() -> None:
    """By hand: the mixture of two equal fair coins has entropy log 2, and the bound drops only the mixing weights."""
    b = CircuitBuilder([2])
    circuit = b.build(b.sum(b.input(0), b.input(0)))
    pi = CircuitDistribution(circuit, torch.zeros(circuit.num_parameters, dtype=torch.float64))
    torch.testing.assert_close(pi.entropy_lower_bound(), torch.tensor(2.0, dtype=torch.float64).log())
