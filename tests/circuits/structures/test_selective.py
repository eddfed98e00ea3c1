"""Selective circuits: the published size, what labels remember, and the order of the variables."""

import pytest

from circuits import Input, structures
from tests.strategies import random_distribution, seeded


@pytest.mark.parametrize(("count", "copies", "size"), [(16, 4, 112), (16, 32, 1536), (64, 32, 9216)])
def test_selective_has_the_published_size(count: int, copies: int, size: int) -> None:
    """(n/s) 2^s + (n/s - 1) copies^2 with s the smallest power of two for which 2^s > copies."""
    assert structures.selective([2] * count, copies=copies).num_parameters == size


def test_selective_labels_are_the_first_variables_of_a_block() -> None:
    """Given the first two variables of a block of four, its other two say nothing about the next block."""
    pi = random_distribution(structures.selective([2] * 8, copies=4, seed=None), seeded(0))
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
    assert random_distribution(circuit, seeded(0)).total_correlation().abs() < 1e-12
