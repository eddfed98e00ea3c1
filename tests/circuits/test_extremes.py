"""Numbers at the edge: no nan and no +inf in any value or gradient, and impossible evidence is named."""

import pytest
import torch

from circuits import CircuitDistribution, Evidence, EvidenceError, ImpossibleEvidenceError, StructureError, structures
from tests import strategies


def test_a_deterministic_policy_has_entropy_zero_and_a_finite_gradient() -> None:
    circuit = structures.keep_set([3, 3], labels=3)
    for low in (-torch.inf, -1e4, -3e38):
        logits = torch.full((circuit.num_parameters,), low)
        for index in range(circuit.num_nodes):
            where = circuit.parameters_of(index)
            if where.stop > where.start:
                logits[where.start] = 0.0
        logits.requires_grad_()
        entropy = CircuitDistribution(circuit, logits).entropy()
        assert entropy.item() == 0.0
        (gradient,) = torch.autograd.grad(entropy, logits)
        assert (gradient == 0).all()


def test_a_node_without_any_possible_edge_is_refused() -> None:
    circuit = structures.markov_chain([2, 3])
    logits = torch.zeros(4, circuit.num_parameters)
    node = next(i for i in range(circuit.num_nodes) if len(range(*circuit.parameters_of(i).indices(99))) == 3)
    logits[2, circuit.parameters_of(node)] = -torch.inf
    with pytest.raises(StructureError, match=rf"all logits of node {node} are -inf in batch row \[2\]"):
        CircuitDistribution(circuit, logits)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_nan_and_plus_infinity_are_refused(wrong: float) -> None:
    circuit = structures.mean_field([2, 2])
    logits = torch.zeros(3, 4)
    logits[1, 2] = wrong
    with pytest.raises(StructureError, match=r"nan or \+inf, first at index \[1, 2\]"):
        CircuitDistribution(circuit, logits)
    evidence = torch.zeros(2, 2)
    evidence[0, 1] = wrong
    with pytest.raises(EvidenceError, match="nan or"):
        CircuitDistribution(circuit, torch.zeros(4)).log_evidence(evidence)


@pytest.mark.parametrize("family", strategies.FAMILIES)
def test_contradictory_evidence(family: str) -> None:
    """Exactly -inf, an error that names exactly the impossible rows, and gradients without nan."""
    circuit = strategies.circuit_of(family, 11)
    logits = torch.randn(2, 3, circuit.num_parameters, generator=torch.Generator().manual_seed(1)).requires_grad_()
    pi = CircuitDistribution(circuit, logits)
    allowed = torch.ones(2, 3, circuit.num_variables, max(circuit.cardinalities), dtype=torch.bool)
    allowed[0, 2, 0] = False
    allowed[1, 0, -1] = False
    log_evidence = pi.log_evidence(allowed)
    assert (log_evidence == -torch.inf).nonzero().tolist() == [[0, 2], [1, 0]]
    with pytest.raises(ImpossibleEvidenceError, match=r"batch rows \(0, 2\), \(1, 0\);"):
        pi.condition(allowed)
    if circuit.num_parameters:
        (gradient,) = torch.autograd.grad(log_evidence.sum(), logits)
        assert torch.isfinite(gradient).all()
        assert (gradient[0, 2] == 0).all()
    row = CircuitDistribution(circuit, logits[0, 0])
    with pytest.raises(ImpossibleEvidenceError, match="the evidence has probability zero; loosen"):
        row.condition({0: []})
    with pytest.raises(ImpossibleEvidenceError, match="batch rows 1;"):
        CircuitDistribution(circuit, logits[0]).condition(allowed[0, [0, 2, 1]])


def test_infinite_table_entries_where_the_probability_is_zero() -> None:
    """Q is -inf at actions that a mask forbids: they count nothing, and their gradient is zero."""
    circuit = structures.keep_set([2, 3], labels=6)
    logits = torch.randn(circuit.num_parameters, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits.requires_grad_()
    pi = CircuitDistribution(circuit, logits).condition({1: [0, 2]})
    table = torch.tensor([[1.0, -torch.inf, 2.0], [3.0, -torch.inf, 4.0]], dtype=torch.float64, requires_grad=True)
    finite = torch.where(torch.isfinite(table), table, 0.0)
    expected = (pi.marginal([0, 1]) * finite).sum()
    actual = pi.expectation([((0, 1), table)])
    torch.testing.assert_close(actual, expected)
    gradients = torch.autograd.grad(actual, (logits, table), retain_graph=True)
    for own, wanted in zip(gradients, torch.autograd.grad(expected, (logits, table)), strict=True):
        assert torch.isfinite(own).all()
        torch.testing.assert_close(own, wanted)
    assert CircuitDistribution(circuit, logits).expectation([((0, 1), table)]) == -torch.inf


def test_kl_is_infinite_where_the_second_forbids_what_the_first_does() -> None:
    circuit = structures.mean_field([2, 2])
    free = CircuitDistribution(circuit, torch.zeros(4))
    bound = free.condition({0: 1})
    assert free.kl_divergence(bound) == torch.inf
    torch.testing.assert_close(bound.kl_divergence(free), torch.tensor(2.0).log())


def test_wrong_evidence_is_refused() -> None:
    pi = CircuitDistribution(structures.mean_field([2, 3]), torch.zeros(5))
    for evidence, message in [
        ({2: 0}, "variable 2"),
        ({-1: 0}, "variable -1"),
        ({0: 2}, "value 2"),
        ({0: [0, -1]}, "value -1"),
        ({0: "1"}, "'1'"),
        ({0: 0.0}, "0.0"),
        ({0: True}, "True"),
        (torch.zeros(2, 2), "shape"),
        (torch.zeros(3, 3), "shape"),
        (torch.zeros(2, 3, dtype=torch.long), "int64"),
        (Evidence([2, 2], torch.zeros(2, 2)), "cardinalities"),
    ]:
        with pytest.raises(EvidenceError, match=message):
            pi.log_evidence(evidence)
    for variables, message in (((0, 2), "variable 2"), ((0, 0), "not distinct")):
        with pytest.raises(EvidenceError, match=message):
            pi.marginal(variables)
        with pytest.raises(EvidenceError, match=message):
            pi.expectation([(variables, torch.zeros(2, 3))])
    with pytest.raises(EvidenceError, match=r"must end in \(2, 3\)"):
        pi.expectation([((0, 1), torch.zeros(3, 2))])


def test_entries_beyond_a_variables_own_values_do_not_matter() -> None:
    pi = CircuitDistribution(structures.keep_set([2, 3], labels=6), torch.zeros(6))
    mask = torch.ones(2, 3, dtype=torch.bool)
    mask[0, 2] = False
    torch.testing.assert_close(pi.log_evidence(mask), pi.log_evidence({}))
    assert pi.marginals()[0, 2] == 0.0
