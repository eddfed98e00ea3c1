"""Cutset networks: a tree for each value of the cut, up to the table of joint values."""

import torch

from circuits import CircuitDistribution, structures
from tests.strategies import random_distribution, seeded


def test_a_cutset_network_is_a_tree_for_each_value_of_the_cut() -> None:
    """Given variable 2, the others form the chain 0 - 1 - 3; its strengths differ from value to value."""
    pi = random_distribution(structures.cutset([2, 3, 2, 2], [2, 0, 1, 3]), seeded(0))
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
