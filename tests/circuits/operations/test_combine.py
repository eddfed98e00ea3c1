"""Mixtures: the weighted sum of their parts, overlaps with a witness, and refusals."""

import pytest
import torch

from circuits import CircuitDistribution, StructureError, operations, structures
from tests.circuits.test_properties import check_witness
from tests.strategies import random_distribution, seeded


def test_a_mixture_is_the_weighted_sum_of_its_parts() -> None:
    parts = [structures.markov_chain([2, 3, 2]), structures.selective([2, 3, 2]), structures.mean_field([2, 3, 2])]
    circuit = operations.mixture(*parts)
    assert circuit.num_parameters == sum(part.num_parameters for part in parts) + 3
    pi = random_distribution(circuit, seeded(0))
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
