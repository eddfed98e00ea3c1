"""Random binary trees: overlaps with a witness, seeds and repetitions."""

from circuits import structures
from tests.circuits.test_properties import check_witness


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
