"""Derivatives of every query on every family against finite differences, at points where they exist."""

from collections.abc import Callable
from functools import partial
from random import Random

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from circuits import CircuitDistribution
from tests import strategies
from tests.circuits.test_gradients import small_circuit
from tests.seeds import first_now

DRAWS = 100_000

Question = Callable[[CircuitDistribution], Tensor]

TWICE = ("log_prob", "log_evidence", "marginals", "condition", "entropy", "kl_divergence")
"""Queries whose docstrings do not say "differentiable once"."""


class Setting:
    """A circuit of at most 40 parameters, generic logits, and what its queries are asked about."""

    def __init__(self, family: str, seed: int) -> None:
        rng = Random(f"derivatives {family} {seed}")
        self.circuit = small_circuit(family, seed)
        n, cards = self.circuit.num_variables, self.circuit.cardinalities
        noise = strategies.numpy_rng(rng)
        batch = (2,) if seed % 2 else ()
        self.logits = torch.from_numpy(noise.normal(0, 1, (*batch, self.circuit.num_parameters))).requires_grad_()
        pi = CircuitDistribution(self.circuit, self.logits.detach())
        self.values = pi.sample(generator=torch.Generator().manual_seed(seed))
        self.mask = torch.rand(n, max(cards), generator=torch.Generator().manual_seed(seed)) < 0.7
        self.mask = self.mask | (torch.arange(max(cards)) == self.values.unsqueeze(-1))
        self.factors = strategies.random_factors(rng, cards, batch)
        self.partner = CircuitDistribution(
            self.circuit, torch.from_numpy(noise.normal(0, 1, (*batch, self.circuit.num_parameters)))
        )

    def questions(self) -> dict[str, Question]:
        n = self.circuit.num_variables
        every = tuple(range(n))
        asked: dict[str, Question] = {
            "log_prob": lambda pi: pi.log_prob(self.values),
            "log_evidence": lambda pi: pi.log_evidence(self.mask),
            "marginals": lambda pi: pi.marginals(),
            "marginal": lambda pi: pi.marginal(every[::-1][:4]),
            "condition": lambda pi: pi.condition(self.mask).marginals(),
            "conditionals": lambda pi: pi.conditionals(self.values),
            "expectation": lambda pi: pi.expectation(self.factors),
            "mutual_information": lambda pi: pi.mutual_information(every[::2], every[1::2]),
            "entropy_lower_bound": lambda pi: pi.entropy_lower_bound(),
            "entropy_upper_bound": lambda pi: pi.entropy_upper_bound(),
        }
        if n > 1:
            asked["pair_marginals"] = lambda pi: pi.pair_marginals([(n - 1, 0)])[0]
        if self.circuit.is_deterministic:
            asked |= {
                "entropy": lambda pi: pi.entropy(),
                "conditional entropy": lambda pi: pi.condition(self.mask).entropy(),
                "total_correlation": lambda pi: pi.total_correlation(),
                "log_prob_variance": lambda pi: pi.log_prob_variance(),
                "kl_divergence": lambda pi: pi.kl_divergence(self.partner),
                "reverse kl_divergence": lambda pi: self.partner.kl_divergence(pi),
                "the best three, through log_prob": self.best,
            }
        return asked

    def best(self, pi: CircuitDistribution) -> Tensor:
        """`m_best` and `max_marginals` have no gradient of their own; that of their values goes through log_prob."""
        with torch.no_grad():
            possible = (pi.log_prob(pi.enumerate_support(expand=False)) > -torch.inf).sum(0).min()
        values, log_probs = pi.m_best(min(3, int(possible)))
        assert not log_probs.requires_grad
        assert not pi.max_marginals().requires_grad
        return pi.log_prob(values)

    def ask(self, question: Question, logits: Tensor) -> Tensor:
        return question(CircuitDistribution(self.circuit, logits))


@pytest.mark.parametrize("seed", first_now(range(4), 0.5))
@pytest.mark.parametrize("family", strategies.FAMILIES)
def test_gradients_equal_finite_differences(family: str, seed: int) -> None:
    """Along random directions."""
    torch.manual_seed(seed)  # gradcheck draws its directions from the global generator
    setting = Setting(family, 500 + seed)
    for name, question in setting.questions().items():
        ask = partial(setting.ask, question)
        assert gradcheck(ask, (setting.logits,), eps=1e-6, atol=1e-5, rtol=1e-3, fast_mode=True), name


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(16))
@pytest.mark.parametrize("family", strategies.FAMILIES)
def test_every_entry_on_more_than_200_circuits(family: str, seed: int) -> None:
    setting = Setting(family, 2000 + seed)
    for name, question in setting.questions().items():
        assert gradcheck(partial(setting.ask, question), (setting.logits,), eps=1e-6, atol=1e-5, rtol=1e-3), name


@pytest.mark.parametrize("seed", first_now(range(2), 0.5))
@pytest.mark.parametrize("family", strategies.FAMILIES)
def test_second_derivatives(family: str, seed: int) -> None:
    torch.manual_seed(seed)
    setting = Setting(family, 500 + seed)
    questions = setting.questions()
    for name in TWICE:
        if name in questions:
            ask = partial(setting.ask, questions[name])
            assert gradgradcheck(ask, (setting.logits,), eps=1e-6, atol=1e-5, rtol=1e-3, fast_mode=True), name


@pytest.mark.parametrize("family", strategies.FAMILIES)
def test_the_gradient_at_a_switched_off_edge_is_exactly_zero(family: str) -> None:
    """Logits of -inf, one per choice where there are two: every query ignores them, and so does its gradient."""
    setting = Setting(family, 501)
    off = torch.zeros_like(setting.logits, dtype=torch.bool)
    chosen = Random(family)
    for where in setting.circuit.compiled.parameter_slices.values():
        if where.stop - where.start > 1:
            off[..., chosen.randrange(where.start, where.stop)] = True
    assert off.any()
    logits = setting.logits.detach().masked_fill(off, -torch.inf).requires_grad_()
    pi = CircuitDistribution(setting.circuit, logits)
    setting.values = pi.sample(generator=torch.Generator().manual_seed(0))
    for name, question in setting.questions().items():
        if name in ("reverse kl_divergence", "conditionals", "condition", "conditional entropy"):
            continue  # infinite, undefined or impossible where the partner, the others or the mask need that edge
        answer = question(pi)
        finite = torch.where(torch.isfinite(answer), answer, 0.0).sum()
        (gradient,) = torch.autograd.grad(finite, logits, retain_graph=True)
        assert torch.isfinite(gradient).all(), name
        assert (gradient[off] == 0).all(), name


@pytest.mark.parametrize("family", strategies.FAMILIES)
def test_the_gradient_at_a_masked_entry_is_exactly_zero(family: str) -> None:
    """Neither the evidence's own -inf nor a table's entry that the mask makes impossible gets any gradient."""
    setting = Setting(family, 500)
    circuit = setting.circuit
    evidence = torch.where(setting.mask, 0.3, -torch.inf).double().requires_grad_()
    table = torch.full((circuit.cardinalities[0],), 2.0, dtype=torch.float64)
    table = table.masked_fill(~setting.mask[0, : len(table)], -torch.inf).requires_grad_()
    pi = CircuitDistribution(circuit, setting.logits)
    conditional = pi.condition(evidence)
    total = (
        pi.log_evidence(evidence) + conditional.marginals().square().sum() + conditional.expectation([((0,), table)])
    )
    to_evidence, to_table, to_logits = torch.autograd.grad(total, (evidence, table, setting.logits))
    assert (to_evidence[~setting.mask] == 0).all()
    assert (to_table[~setting.mask[0, : len(table)]] == 0).all()
    assert to_evidence.abs().max() > 0
    for gradient in (to_evidence, to_table, to_logits):
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("family", strategies.FAMILIES)
def test_the_score_function_estimates_the_exact_gradient(family: str) -> None:
    """The mean of f(u) grad log p(u) over 1e5 draws is within 5 standard errors of the gradient of E[f]."""
    setting = Setting(family, 500)
    noise = torch.Generator().manual_seed(0)
    pi = CircuitDistribution(setting.circuit, setting.logits)
    payoff = pi.expectation(setting.factors)
    (exact,) = torch.autograd.grad(payoff, setting.logits, retain_graph=True)
    draws = pi.sample((DRAWS,), generator=noise)
    joint, counts = draws.unique(dim=0, return_counts=True)
    scores = [torch.autograd.grad(log_prob, setting.logits, retain_graph=True)[0] for log_prob in pi.log_prob(joint)]
    payoffs = torch.zeros(len(joint), dtype=torch.float64)
    for scope, table in setting.factors:
        payoffs += table[tuple(joint[:, v] for v in scope)]
    terms = payoffs.unsqueeze(-1) * torch.stack(scores)
    share = (counts / DRAWS).unsqueeze(-1)
    mean = (share * terms).sum(0)
    error = ((share * (terms - mean).square()).sum(0) / DRAWS).sqrt()
    assert ((mean - exact).abs() <= 5 * error + 1e-12).all()
