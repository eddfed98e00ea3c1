"""Factors meet circuits: expectation reads them in one piece, and refuses those about other agents."""

import pytest
import torch

import circuits
import factor_q


def test_factors_and_their_pairs_give_the_same_expectation():
    cards = (2, 3, 2, 3)
    generator = torch.Generator().manual_seed(0)
    graph = factor_q.FactorGraph(cards, [(), (1,), (2, 0), (0, 1, 3), (3, 2)])
    circuit = circuits.structures.keep_set(cards, labels=6)
    logits = torch.randn(5, circuit.num_parameters, generator=generator, dtype=torch.float64)
    pi = circuits.CircuitDistribution(circuit, logits)
    f = factor_q.Factors.from_flat(graph, torch.randn(5, graph.num_entries, generator=generator, dtype=torch.float64))
    at_once, one_by_one = pi.expectation(f), pi.expectation(list(f))
    torch.testing.assert_close(at_once, one_by_one, rtol=0, atol=1e-13)
    values = pi.enumerate_support()
    expected = (pi.log_prob(values).exp() * f(values)).sum(0)
    torch.testing.assert_close(at_once, expected, rtol=0, atol=1e-12)


def test_factors_about_other_agents_are_refused_even_if_the_sizes_agree():
    circuit = circuits.structures.mean_field([2, 3])
    pi = circuits.CircuitDistribution(circuit, torch.zeros(circuit.num_parameters))
    swapped = factor_q.Factors(factor_q.FactorGraph([3, 2], [(0, 1)]), [torch.zeros(3, 2)])
    with pytest.raises(circuits.EvidenceError, match=r"cardinalities \(3, 2\)"):
        pi.expectation(swapped)
