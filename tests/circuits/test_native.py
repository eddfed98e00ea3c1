"""The machine code gives the same numbers as torch, on every family, and steps aside where it cannot."""

from random import Random

import pytest
import torch
from torch import Tensor

from circuits import CircuitDistribution, operations, structures
from circuits.engine import native
from tests import strategies
from tests.contracts import STRUCTURE_CASES, structure_of

pytestmark = pytest.mark.skipif(not native.is_available(), reason="no C compiler when the package was installed")

IDS = [f"{row.name}-{i}" for i, (row, _, _) in enumerate(STRUCTURE_CASES)]


def value_and_gradients(pi: CircuitDistribution, values: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    logits = pi.logits.clone().requires_grad_()
    result = CircuitDistribution(pi.circuit, logits).log_prob(values)
    (gradient,) = torch.autograd.grad((result * factor).sum(), logits)
    return result.detach(), gradient


def check(pi: CircuitDistribution, values: Tensor) -> None:
    factor = torch.linspace(-1, 2, values[..., 0].numel()).reshape(values.shape[:-1])
    found, gradient = value_and_gradients(pi, values, factor)
    with native.disabled():
        expected, expected_gradient = value_and_gradients(pi, values, factor)
    exact, exact_gradient = value_and_gradients(
        CircuitDistribution(pi.circuit, pi.logits.double()), values, factor.double()
    )
    torch.testing.assert_close(found, expected, rtol=4e-6, atol=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.double(), exact, rtol=4e-6, atol=1e-6)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.one_in(6)
@pytest.mark.parametrize("case", STRUCTURE_CASES, ids=IDS)
@pytest.mark.parametrize(
    "count", [1, 17, 70, pytest.param(3, marks=pytest.mark.slow), pytest.param(16, marks=pytest.mark.slow)]
)
def test_same_numbers_as_torch(case: tuple, count: int) -> None:
    circuit = structure_of(*case)
    generator = torch.Generator().manual_seed(count)
    logits = 2 * torch.randn(count, circuit.num_parameters, generator=generator)
    logits[torch.rand(logits.shape, generator=generator) < 0.05] = -60.0
    values = torch.stack([torch.randint(k, (count,), generator=generator) for k in circuit.cardinalities], -1)
    check(CircuitDistribution(circuit, logits), values)
    check(CircuitDistribution(circuit, logits[0]), values)


@pytest.mark.parametrize("family", strategies.FAMILIES)
def test_forbidden_edges_and_impossible_values(family: str) -> None:
    """Weights of zero: the same -inf, and gradients without nan."""
    rng = Random(f"native {family}")
    for _ in range(6):
        circuit = strategies.FAMILIES[family](rng)
        logits = strategies.random_logits(rng, circuit, (5,)).float()
        values = torch.stack([torch.randint(k, (5,)) for k in circuit.cardinalities], -1)
        pi = CircuitDistribution(circuit, logits)
        found, gradient = value_and_gradients(pi, values, torch.ones(5))
        with native.disabled():
            expected, expected_gradient = value_and_gradients(pi, values, torch.ones(5))
        torch.testing.assert_close(found, expected, rtol=4e-6, atol=1e-6)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-4)


def test_numbers_too_far_apart_for_single_precision_take_the_other_way() -> None:
    """The likely child is forbidden by the weights, so all that counts is far below the largest child."""
    builder_logits = torch.tensor([200.0, 0.0, 0.0, 200.0, 0.0, 400.0, 0.0])
    circuit = operations.mixture(structures.mean_field([2]), structures.mean_field([2]))
    logits = torch.zeros(circuit.num_parameters)
    logits[: circuit.num_parameters] = builder_logits[: circuit.num_parameters]
    values = torch.tensor([[0], [1]])
    found = CircuitDistribution(circuit, logits).log_prob(values)
    exact = CircuitDistribution(circuit, logits.double()).log_prob(values)
    torch.testing.assert_close(found.double(), exact, rtol=4e-6, atol=1e-6)
    compiled = circuit.compiled
    rows = torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]])
    assert native.log_likelihood(compiled, logits, rows) is None


def test_gradients_can_be_taken_twice() -> None:
    circuit = structures.markov_chain([3] * 4)
    logits = torch.randn(8, circuit.num_parameters, requires_grad=True)
    result = CircuitDistribution(circuit, logits).log_prob(torch.zeros(8, 4, dtype=torch.long)).sum()
    first, second = (torch.autograd.grad(result, logits, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_only_single_precision_on_the_cpu() -> None:
    assert native.applies_to(torch.zeros(1))
    assert not native.applies_to(torch.zeros(1), torch.zeros(1, dtype=torch.float64))
    with native.disabled():
        assert not native.applies_to(torch.zeros(1))
    assert native.is_available()
