"""Derivatives of every row of the contract against finite differences, and next to impossible events."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from random import Random

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from circuits import Circuit, CircuitDistribution, structures
from circuits.engine import likelihood
from tests import strategies
from tests.contracts import Query, case_of, rows_for
from tests.seeds import first_now

MOST_PARAMETERS = 40
FEW = ("markov_chain", "tree", "keep_set", "hand_built", "hand_built_mixture")


def small_circuit(family: str, seed: int) -> Circuit:
    """The first circuit of a family, counting from a seed, with at most 40 parameters and at least one."""
    while not 0 < (circuit := strategies.circuit_of(family, seed)).num_parameters <= MOST_PARAMETERS:
        seed += 100_000
    return circuit


class Setting:
    """A case on a small circuit whose numbers can all be moved: logits, soft evidence, a partner, tables of factors."""

    def __init__(self, family: str, seed: int) -> None:
        rng = Random(f"derivatives {family} {seed}")
        circuit = small_circuit(family, seed)
        n, width = circuit.num_variables, max(circuit.cardinalities)
        noise = strategies.numpy_rng(rng)
        batch = (2,) if seed % 2 else ()
        logits, other = (torch.from_numpy(noise.normal(0, 1, (*batch, circuit.num_parameters))) for _ in range(2))
        soft = torch.from_numpy(noise.normal(0, 1, (n, width)))
        self.case = case_of(rng, circuit, batch, logits)
        drawn = torch.Generator().manual_seed(seed)
        self.case.possible = self.case.pi.sample((2,), generator=drawn)
        self.mask = torch.rand(n, width, generator=drawn) < 0.7
        for row in self.case.possible.reshape(-1, n):
            self.mask |= torch.arange(width) == row.unsqueeze(-1)
        self.scopes = [scope for scope, _ in self.case.factors]
        tables = [table for _, table in self.case.factors]
        self.inputs = tuple(number.requires_grad_() for number in (logits, soft, other, *tables))

    def ask(self, row: Query, is_given: bool, *inputs: Tensor) -> Tensor:
        """A query's answer as a function of all numbers, given a mask or not; constant infinities count nothing."""
        logits, soft, other, *tables = inputs
        pi = CircuitDistribution(self.case.circuit, logits)
        case = self.case.about(
            pi.condition(self.mask) if is_given else pi,
            evidence=(soft, None),
            partner=CircuitDistribution(self.case.circuit, other),
            factors=list(zip(self.scopes, tables, strict=True)),
            best=1,
        )
        answer = row.value(case)
        return torch.where(torch.isfinite(answer), answer, 0.0)

    def questions(
        self, is_given: bool, derivatives: int = 1
    ) -> Iterator[tuple[str, Callable[..., Tensor], tuple[Tensor, ...]]]:
        """Every query, as a function of the numbers that it depends on; together they depend on all."""
        everything: set[int] = set()
        for row in rows_for(self.case):
            answer = self.ask(row, is_given, *self.inputs)
            if row.derivatives < derivatives or not answer.numel():
                continue
            found = torch.autograd.grad(answer.sum(), self.inputs, allow_unused=True)
            used = [i for i, gradient in enumerate(found) if gradient is not None]
            everything |= {*used}
            yield row.name, partial(self._ask_some, used, row, is_given), tuple(self.inputs[i] for i in used)
        forgotten = {*range(len(self.inputs))} - everything
        assert derivatives > 1 or not self.case.deterministic or not forgotten, f"no query depends on {forgotten}"

    def _ask_some(self, used: list[int], row: Query, is_given: bool, *moved: Tensor) -> Tensor:
        given = dict(zip(used, moved, strict=True))
        return self.ask(row, is_given, *(given.get(i, number) for i, number in enumerate(self.inputs)))


@pytest.mark.one_in(8)
@pytest.mark.parametrize("seed", first_now(range(12), 0.16))
@pytest.mark.parametrize("family", strategies.FAMILIES)
def test_gradients_equal_finite_differences(family: str, seed: int) -> None:
    """Along random directions; circuits of odd seeds under evidence."""
    torch.manual_seed(seed)  # gradcheck draws its directions from the global generator
    setting = Setting(family, 500 + seed)
    for name, ask, inputs in setting.questions(is_given=seed % 2 == 1):
        assert gradcheck(ask, inputs, eps=1e-6, atol=1e-5, rtol=1e-3, fast_mode=True), name


@pytest.mark.one_in(2)
@pytest.mark.parametrize("family", first_now(FEW, 0.4))
def test_every_gradient_entry_equals_finite_differences(family: str) -> None:
    setting = Setting(family, 77)
    for name, ask, inputs in setting.questions(is_given=False):
        assert gradcheck(ask, inputs, eps=1e-6, atol=1e-5, rtol=1e-3), name


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(16))
@pytest.mark.parametrize("family", strategies.FAMILIES)
def test_every_gradient_entry_on_more_than_200_circuits(family: str, seed: int) -> None:
    setting = Setting(family, 2000 + seed)
    for name, ask, inputs in setting.questions(is_given=seed % 2 == 1):
        assert gradcheck(ask, inputs, eps=1e-6, atol=1e-5, rtol=1e-3), name


@pytest.mark.full
@pytest.mark.parametrize("seed", first_now(range(4), 0.25))
@pytest.mark.parametrize("family", strategies.FAMILIES)
def test_second_derivatives_equal_finite_differences(family: str, seed: int) -> None:
    torch.manual_seed(seed)
    setting = Setting(family, 500 + seed)
    for name, ask, inputs in setting.questions(is_given=seed % 2 == 1, derivatives=2):
        assert gradgradcheck(ask, inputs, eps=1e-6, atol=1e-5, rtol=1e-3, fast_mode=True), name


@pytest.mark.parametrize("family", FEW)
def test_what_has_no_derivative_asks_for_none(family: str) -> None:
    setting = Setting(family, 500)
    for row in rows_for(setting.case):
        assert row.derivatives or not row.call(setting.case).requires_grad, row.name


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


@pytest.mark.parametrize("family", FEW)
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


@pytest.mark.parametrize("family", FEW)
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


@pytest.mark.parametrize("tile", [1, 1 << 20], ids=["one by one", "copied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("samples", [(0,), (1,), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("batch", [(0,), (1,), (4,), (2, 3)], ids=str)
def test_samples_share_the_weights_of_their_batch(
    dtype: torch.dtype, samples: tuple[int, ...], batch: tuple[int, ...], tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large batch of weights is not copied for every sample; one sample at a time, the numbers are the same."""
    monkeypatch.setattr(likelihood, "_TILE", tile)
    circuit = structures.keep_set([3] * 4, [(0, 1), (1, 2), (2, 3)], labels=9)
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(*batch, circuit.num_parameters, dtype=dtype, generator=generator).requires_grad_()
    values = torch.randint(0, 3, (*samples, *batch, 4), generator=generator)
    weight = torch.randn(*samples, *batch, dtype=dtype, generator=generator)
    pi = CircuitDistribution(circuit, logits)
    found = pi.log_prob(values)
    assert found.shape == (*samples, *batch)
    (gradient,) = torch.autograd.grad((found * weight).sum(), logits)
    single = [(pi.log_prob(values[at]), weight[at]) for at in product(*map(range, samples))]
    expected = sum(((one * of).sum() for one, of in single), logits.sum() * 0.0)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close((found * weight).sum(), expected)
    torch.testing.assert_close(gradient, expected_gradient)
