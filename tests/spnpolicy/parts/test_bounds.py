"""Exact bounds against expectation and entropy, asked one after the other."""

import pytest
import torch

from circuits import CircuitDistribution, structures
from factor_q import FactorGraph, Factors, complete
from spnpolicy.maths.objective import elbo
from spnpolicy.parts.bounds import ExactBound

CARDINALITIES = (3, 3, 3, 3)
GRAPHS = {
    "all decided": FactorGraph(CARDINALITIES, [(0,), (1,), (2,), (3,)]),
    "with a constant": FactorGraph(CARDINALITIES, [(), (0,), (2,), (0, 1)]),
    "a few decided": complete(CARDINALITIES),
    "a constant alone": FactorGraph(CARDINALITIES, [()]),
}
STRUCTURES = {
    "keep_set": structures.keep_set(CARDINALITIES, labels=4),
    "markov_chain": structures.markov_chain(CARDINALITIES),
    "mean_field": structures.mean_field(CARDINALITIES),
}


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
@pytest.mark.parametrize("circuit", STRUCTURES.values(), ids=STRUCTURES)
@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
def test_the_bound_is_the_elbo_and_so_is_its_gradient(graph, circuit, batch):
    generator = torch.Generator().manual_seed(8)
    logits = torch.randn(*batch, circuit.num_parameters, generator=generator, dtype=torch.float64, requires_grad=True)
    flat = torch.randn(*batch, graph.num_entries, generator=generator, dtype=torch.float64)
    pi, q = CircuitDistribution(circuit, logits), Factors.from_flat(graph, flat)
    found, expected = ExactBound(circuit, graph)(pi, q, 0.3), elbo(pi, q, 0.3)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(each.sum(), logits, retain_graph=True)[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


def test_forbidden_actions_count_nothing():
    circuit, graph = STRUCTURES["keep_set"], GRAPHS["a few decided"]
    pi = CircuitDistribution(circuit, torch.zeros(2, circuit.num_parameters, dtype=torch.float64))
    allowed = torch.ones(2, 4, 3, dtype=torch.bool)
    allowed[0, 1, 2] = allowed[1, 3, 0] = False
    pi = pi.condition(allowed)
    q = Factors.from_flat(graph, torch.randn(2, graph.num_entries, dtype=torch.float64))
    torch.testing.assert_close(ExactBound(circuit, graph)(pi, q, 0.5), elbo(pi, q, 0.5), rtol=1e-12, atol=1e-12)
