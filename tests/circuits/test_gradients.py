"""Derivatives: against finite differences, of first and second order, and next to impossible events."""

from collections.abc import Callable
from random import Random

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from circuits import Circuit, CircuitDistribution, structures
from tests import strategies
from tests.seeds import first_now

MOST_PARAMETERS = 40


def small_circuit(family: str, seed: int) -> Circuit:
    """The first circuit of a family, counting from a seed, with at most 40 parameters and at least one."""
    while not 0 < (circuit := strategies.circuit_of(family, seed)).num_parameters <= MOST_PARAMETERS:
        seed += 100_000
    return circuit


class Setting:
    """A small circuit and the questions whose derivatives are checked."""

    def __init__(self, family: str, seed: int) -> None:
        rng = Random(f"gradient {family} {seed}")
        self.circuit = small_circuit(family, seed)
        self.cards = self.circuit.cardinalities
        noise = strategies.numpy_rng(rng)
        batch = (2,) if seed % 2 else ()
        self.logits = torch.from_numpy(noise.normal(0, 1, (*batch, self.circuit.num_parameters))).requires_grad_()
        self.other = torch.from_numpy(noise.normal(0, 1, (*batch, self.circuit.num_parameters))).requires_grad_()
        factors = strategies.random_factors(rng, self.cards, batch)
        self.scopes = [scope for scope, _ in factors]
        self.tables = [table.requires_grad_() for _, table in factors]
        shape = (len(self.cards), max(self.cards))
        self.soft = torch.from_numpy(noise.normal(0, 1, shape)).requires_grad_()
        self.value = self.pi(self.logits).sample(generator=torch.Generator().manual_seed(seed))

    def pi(self, logits: Tensor) -> CircuitDistribution:
        return CircuitDistribution(self.circuit, logits)

    def elbo(self, logits: Tensor, *tables: Tensor) -> Tensor:
        pi = self.pi(logits)
        return pi.expectation(zip(self.scopes, tables, strict=True)) + 0.3 * pi.entropy()

    def questions(self) -> dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]]:
        pi, one = self.pi, (self.logits,)
        soft = (self.logits, self.soft)
        everything = tuple(range(len(self.cards)))[:4]
        questions = {
            "log_prob": (lambda x: pi(x).log_prob(self.value), one),
            "log_evidence": (lambda x, e: pi(x).log_evidence(e), soft),
            "marginals": (lambda x: pi(x).marginals(), one),
            "marginal": (lambda x: pi(x).marginal(everything), one),
            "conditional marginals": (lambda x, e: pi(x).condition(e).marginals(), soft),
            "entropy_lower_bound": (lambda x: pi(x).entropy_lower_bound(), one),
            "expectation": (
                lambda x, *t: pi(x).expectation(zip(self.scopes, t, strict=True)),
                (self.logits, *self.tables),
            ),
        }
        if self.circuit.is_deterministic:
            questions |= {
                "entropy": (lambda x: pi(x).entropy(), one),
                "conditional entropy": (lambda x, e: pi(x).condition(e).entropy(), soft),
                "total_correlation": (lambda x: pi(x).total_correlation(), one),
                "kl_divergence": (lambda x, y: pi(x).kl_divergence(pi(y)), (self.logits, self.other)),
                "elbo": (self.elbo, (self.logits, *self.tables)),
            }
        return questions


FAMILIES = ("markov_chain", "tree", "keep_set", "hand_built", "hand_built_mixture")


@pytest.mark.parametrize("seed", first_now(range(12)))
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_equal_finite_differences(family: str, seed: int) -> None:
    """60 circuits, along random directions."""
    torch.manual_seed(seed)  # gradcheck draws its directions from the global generator
    for name, (question, inputs) in Setting(family, seed).questions().items():
        assert gradcheck(question, inputs, eps=1e-6, atol=1e-5, rtol=1e-3, fast_mode=True), name


@pytest.mark.parametrize("family", first_now(FAMILIES, 0.4))
def test_every_gradient_entry_equals_finite_differences(family: str) -> None:
    for name, (question, inputs) in Setting(family, 77).questions().items():
        assert gradcheck(question, inputs, eps=1e-6, atol=1e-5, rtol=1e-3), name


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("family", FAMILIES)
def test_every_gradient_entry_on_200_circuits(family: str, seed: int) -> None:
    for name, (question, inputs) in Setting(family, 1000 + seed).questions().items():
        assert gradcheck(question, inputs, eps=1e-6, atol=1e-5, rtol=1e-3), name


@pytest.mark.parametrize("seed", first_now(range(4), 0.5))
@pytest.mark.parametrize("family", FAMILIES)
def test_second_derivatives_equal_finite_differences(family: str, seed: int) -> None:
    torch.manual_seed(seed)
    questions = Setting(family, seed).questions()
    for name in ("log_prob", "log_evidence", "entropy", "conditional entropy", "marginals", "kl_divergence"):
        if name in questions:
            question, inputs = questions[name]
            assert gradgradcheck(question, inputs, eps=1e-6, atol=1e-5, rtol=1e-3, fast_mode=True), name


def test_numbers_first_read_without_gradients_can_be_differentiated_later() -> None:
    """Sampling, modes and anything under no_grad or inference_mode must not freeze what later queries use."""
    circuit = structures.keep_set([2, 3, 2], labels=6)
    for first_look in (
        lambda pi: pi.sample((3,)),
        lambda pi: pi.mode,
        lambda pi: torch.no_grad()(pi.entropy)(),
        lambda pi: torch.no_grad()(pi.marginals)(),
        lambda pi: torch.inference_mode()(pi.marginals)(),
        lambda pi: torch.inference_mode()(lambda: pi.expectation([((0, 1), torch.ones(2, 3))]))(),
    ):
        logits = torch.randn(circuit.num_parameters, generator=torch.Generator().manual_seed(0)).requires_grad_()
        pi = CircuitDistribution(circuit, logits)
        first_look(pi)
        loss = pi.entropy() + pi.log_prob(torch.tensor([0, 1, 0])) + pi.expectation([((0, 2), torch.eye(2))])
        (gradient,) = torch.autograd.grad(loss, logits)
        fresh = logits.detach().clone().requires_grad_()
        other = CircuitDistribution(circuit, fresh)
        loss = other.entropy() + other.log_prob(torch.tensor([0, 1, 0])) + other.expectation([((0, 2), torch.eye(2))])
        torch.testing.assert_close(gradient, torch.autograd.grad(loss, fresh)[0])


def test_queries_work_in_inference_mode() -> None:
    circuit = structures.keep_set([2, 3, 2], labels=6)
    with torch.inference_mode():
        pi = CircuitDistribution(circuit, torch.zeros(2, circuit.num_parameters))
        assert pi.condition({0: 1}).sample((3,)).shape == (3, 2, 3)
        torch.testing.assert_close(pi.entropy(), torch.full((2,), 12.0).log())


def test_the_gradient_at_a_forbidden_value_is_exactly_zero() -> None:
    """An edge that the evidence rules out gets gradient zero, not nan; so does an edge switched off by -inf."""
    circuit = structures.mean_field([3, 2])
    logits = torch.tensor([0.3, -0.2, 0.7, 0.1, 0.4], dtype=torch.float64)
    where = circuit.parameters_of(0)
    logits[where] = torch.tensor([0.3, -0.2, -torch.inf], dtype=torch.float64)
    pi = CircuitDistribution(circuit, logits.requires_grad_())
    masked = pi.condition({0: [0, 2]})
    total = masked.entropy() + masked.log_prob(torch.tensor([0, 1])) + pi.log_evidence({0: [0, 2]}) + pi.entropy()
    (gradient,) = torch.autograd.grad(total, logits)
    assert torch.isfinite(gradient).all()
    assert gradient[where][2] == 0.0


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_with_impossible_rows_hold_no_nan(family: str) -> None:
    circuit = strategies.circuit_of(family, 5)
    logits = torch.randn(2, circuit.num_parameters, generator=torch.Generator().manual_seed(0)).requires_grad_()
    allowed = torch.ones(2, circuit.num_variables, max(circuit.cardinalities), dtype=torch.bool)
    allowed[1, 0] = False
    log_evidence = CircuitDistribution(circuit, logits).log_evidence(allowed)
    assert log_evidence[1] == -torch.inf
    assert abs(log_evidence[0]) < 1e-5
    (gradient,) = torch.autograd.grad(log_evidence.sum(), logits)
    assert torch.isfinite(gradient).all()
    assert (gradient[1] == 0).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_impossible_rows_of_a_larger_batch_pass_no_gradient_on(family: str) -> None:
    circuit = strategies.circuit_of(family, 5)
    logits = torch.randn(2, circuit.num_parameters, generator=torch.Generator().manual_seed(0)).requires_grad_()
    allowed = torch.ones(3, 2, circuit.num_variables, max(circuit.cardinalities), dtype=torch.bool)
    allowed[:, :, -1, 0] = False
    allowed[1, 0, 0] = False
    log_evidence = CircuitDistribution(circuit, logits).log_evidence(allowed)
    assert log_evidence[1, 0] == -torch.inf
    (gradient,) = torch.autograd.grad(log_evidence[1, 0], logits, retain_graph=True)
    assert (gradient == 0).all()
    (gradient,) = torch.autograd.grad(log_evidence.sum(), logits)
    assert torch.isfinite(gradient).all()
