"""Derivatives on every family of circuits: exactly zero at what is switched off, and what samples estimate."""

from random import Random

import pytest
import torch

from circuits import CircuitDistribution
from tests import strategies
from tests.circuits.test_gradients import Setting
from tests.contracts import rows_for

DRAWS = 100_000


@pytest.mark.one_in(2)
@pytest.mark.parametrize("family", strategies.FAMILIES)
def test_the_gradient_at_a_switched_off_edge_is_exactly_zero(family: str) -> None:
    """Logits of -inf, one per choice where there are two: every query ignores them, and so does its gradient."""
    case = Setting(family, 501).case
    off = torch.zeros_like(case.pi.logits, dtype=torch.bool)
    chosen = Random(family)
    for where in case.circuit.compiled.parameter_slices.values():
        if where.stop - where.start > 1:
            off[..., chosen.randrange(where.start, where.stop)] = True
    assert off.any()
    logits = case.pi.logits.detach().masked_fill(off, -torch.inf).requires_grad_()
    pi = CircuitDistribution(case.circuit, logits)
    drawn = pi.sample((2,), generator=torch.Generator().manual_seed(0))
    case = case.about(pi, possible=drawn, values=drawn, best=1, evidence=(torch.zeros(case.n, max(case.cards)), None))
    for row in rows_for(case):
        answer = row.value(case)
        if not answer.requires_grad:
            continue
        finite = torch.where(torch.isfinite(answer), answer, 0.0).sum()
        (gradient,) = torch.autograd.grad(finite, logits, retain_graph=True)
        assert torch.isfinite(gradient).all(), row.name
        if row.name != "conditionals":  # what the others force needs an edge, and is undefined without it
            assert (gradient[off] == 0).all(), row.name


@pytest.mark.parametrize("family", strategies.FAMILIES)
def test_the_gradient_at_a_masked_entry_is_exactly_zero(family: str) -> None:
    """Neither the evidence's own -inf nor a table's entry that the mask makes impossible gets any gradient."""
    setting = Setting(family, 500)
    circuit, logits = setting.case.circuit, setting.inputs[0]
    evidence = torch.where(setting.mask, 0.3, -torch.inf).double().requires_grad_()
    table = torch.full((circuit.cardinalities[0],), 2.0, dtype=torch.float64)
    table = table.masked_fill(~setting.mask[0, : len(table)], -torch.inf).requires_grad_()
    pi = CircuitDistribution(circuit, logits)
    conditional = pi.condition(evidence)
    total = (
        pi.log_evidence(evidence) + conditional.marginals().square().sum() + conditional.expectation([((0,), table)])
    )
    to_evidence, to_table, to_logits = torch.autograd.grad(total, (evidence, table, logits))
    assert (to_evidence[~setting.mask] == 0).all()
    assert (to_table[~setting.mask[0, : len(table)]] == 0).all()
    assert to_evidence.abs().max() > 0
    for gradient in (to_evidence, to_table, to_logits):
        assert torch.isfinite(gradient).all()


@pytest.mark.full
@pytest.mark.parametrize("family", strategies.FAMILIES)
def test_the_score_function_estimates_the_exact_gradient(family: str) -> None:
    """The mean of f(u) grad log p(u) over 1e5 draws is within 5 standard errors of the gradient of E[f]."""
    case = Setting(family, 500).case
    logits, factors = case.pi.logits, [(scope, table.detach()) for scope, table in case.factors]
    noise = torch.Generator().manual_seed(0)
    pi = CircuitDistribution(case.circuit, logits)
    payoff = pi.expectation(factors)
    (exact,) = torch.autograd.grad(payoff, logits, retain_graph=True)
    draws = pi.sample((DRAWS,), generator=noise)
    joint, counts = draws.unique(dim=0, return_counts=True)
    scores = [torch.autograd.grad(log_prob, logits, retain_graph=True)[0] for log_prob in pi.log_prob(joint)]
    payoffs = torch.zeros(len(joint), dtype=torch.float64)
    for scope, table in factors:
        payoffs += table[tuple(joint[:, v] for v in scope)]
    terms = payoffs.unsqueeze(-1) * torch.stack(scores)
    share = (counts / DRAWS).unsqueeze(-1)
    mean = (share * terms).sum(0)
    error = ((share * (terms - mean).square()).sum(0) / DRAWS).sqrt()
    assert ((mean - exact).abs() <= 5 * error + 1e-12).all()
