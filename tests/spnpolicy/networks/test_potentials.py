"""Logits of tables: what every joint action earns of the tables that its edges decide, and the gradient of that."""

import itertools

import pytest
import torch
from torch.autograd import gradcheck

from circuits import CircuitDistribution, structures
from factor_q import Factors, complete
from spnpolicy.networks.potentials import TableLogits

CARDINALITIES = (3, 2, 3, 2)
CIRCUITS = {
    "keep_set": structures.keep_set(CARDINALITIES, labels=4),
    "markov_chain": structures.markov_chain(CARDINALITIES),
    "mean_field": structures.mean_field(CARDINALITIES),
}


@pytest.mark.parametrize("circuit", CIRCUITS.values(), ids=CIRCUITS)
def test_the_policy_is_boltzmann_in_the_decided_tables(circuit):
    """Along one way through the circuit, the logits add up to the decided tables; each sum adds its normaliser."""
    graph = complete(CARDINALITIES)
    logits = TableLogits(circuit, graph)
    assert 0 < len(logits.scopes)
    flat = torch.randn(5, graph.num_entries, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pi = CircuitDistribution(circuit, torch.zeros(5, circuit.num_parameters, dtype=torch.float64))
    scores = logits(flat)
    q = Factors.from_flat(graph, flat)
    decided = Factors(graph, [table if scope in logits.scopes else torch.zeros_like(table) for scope, table in q])
    for joint in itertools.product(*map(range, CARDINALITIES)):
        allowed = torch.zeros(4, 3, dtype=torch.bool)
        allowed[torch.arange(4), torch.tensor(joint)] = True
        one = pi.condition(allowed.expand(5, -1, -1))
        # Of a policy that is certain, the expected score is what this joint action earns.
        torch.testing.assert_close(one.expected_score(scores), decided(torch.tensor(joint)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("circuit", CIRCUITS.values(), ids=CIRCUITS)
def test_gradients_to_the_tables(circuit):
    graph = complete(CARDINALITIES)
    flat = torch.randn(2, graph.num_entries, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert gradcheck(TableLogits(circuit, graph), (flat.requires_grad_(),))
