"""Identities of probability on circuits of 200 variables, which nobody can enumerate, for every structure.

A case of hypothesis is a batch of 30 rows, each with its own logits, values and evidence: 30 examples of each identity.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from circuits import CircuitDistribution
from tests.large import NAMES, large_circuit, large_policy, renamed
from tests.seeds import first_now

TOLERANCE = 1e-9
ROWS = 30


def close(actual: Tensor, expected: Tensor, what: str) -> None:
    """Relative to the size of the number; logs around zero are compared as the probabilities around one they are."""
    torch.testing.assert_close(actual, expected, rtol=TOLERANCE, atol=TOLERANCE, msg=lambda text: f"{what}: {text}")


class Example:
    """One policy of some rows, a joint value of each row that is possible, and evidence that allows it."""

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.seed = name, seed
        self.noise = torch.Generator().manual_seed(seed)
        self.pi = large_policy(name, seed % 3, ROWS)
        circuit = self.pi.circuit
        self.n, self.width = circuit.num_variables, max(circuit.cardinalities)
        self.values = self.pi.sample(generator=self.noise)
        self.observed = torch.arange(self.width) == self.values.unsqueeze(-1)
        self.mask = self.observed | (torch.rand(ROWS, self.n, self.width, generator=self.noise) < 0.6)

    def uniform(self) -> Tensor:
        return torch.rand(ROWS, self.n, generator=self.noise)

    def seen(self, which: Tensor) -> Tensor:
        """Evidence that observes the chosen variables, shape (rows, n, width)."""
        return self.observed | ~which.unsqueeze(-1)


def chain_rule(example: Example) -> None:
    """log P(x) = log P(x_A) + log P(x_B | x_A) + log P(x_C | x_A, x_B) for a random split of the variables."""
    group = (example.uniform() * 3).long()
    given_a = example.pi.condition(example.seen(group == 0))
    given_ab = given_a.condition(example.seen(group == 1))
    parts = (
        example.pi.log_evidence(example.seen(group == 0)),
        given_a.log_evidence(example.seen(group == 1)),
        given_ab.log_evidence(example.seen(group == 2)),
    )
    close(parts[0] + parts[1] + parts[2], example.pi.log_prob(example.values), "chain rule")


def total_probability(example: Example) -> None:
    """P(A) = sum over x of P(A, u_i = x), and `marginals` under A names each part."""
    variable = int(example.uniform()[0, 0] * example.n)
    only = torch.ones(example.width, 1, example.n, example.width, dtype=torch.bool)
    only[:, 0, variable] = torch.eye(example.width, dtype=torch.bool)
    parts = example.pi.log_evidence(example.mask & only)[: example.pi.circuit.cardinalities[variable]]
    whole = example.pi.log_evidence(example.mask)
    close((parts - whole).exp().sum(0), torch.ones_like(whole), "total probability")
    marginals = example.pi.condition(example.mask).marginals()[:, variable, : len(parts)]
    close(marginals, (parts - whole).exp().movedim(0, -1), "marginals given evidence")


def conditional_is_joint_over_marginal(example: Example) -> None:
    seen = example.seen(example.uniform() < 0.3)
    soft = torch.randn(example.n, example.width, generator=example.noise, dtype=torch.float64)
    both = example.pi.log_evidence(torch.where(example.mask & seen, soft, -torch.inf))
    alone = torch.where(example.mask, soft, -torch.inf)
    close(example.pi.condition(alone).log_evidence(seen), both - example.pi.log_evidence(alone), "conditional")


def other_variable_numbers(example: Example) -> None:
    """The same circuit with its variables renamed gives the same answers about the renamed values."""
    circuit, order, source = renamed(example.name, example.seed % 2)
    other = CircuitDistribution(circuit, example.pi.logits[:, source])
    values, mask = torch.empty_like(example.values), torch.empty_like(example.mask)
    values[:, order], mask[:, order] = example.values, example.mask
    close(other.log_prob(values), example.pi.log_prob(example.values), "log_prob of renamed variables")
    close(other.log_evidence(mask), example.pi.log_evidence(example.mask), "evidence on renamed variables")
    close(other.marginals()[:, order], example.pi.marginals(), "marginals of renamed variables")
    if circuit.is_deterministic:
        close(other.entropy(), example.pi.entropy(), "entropy of renamed variables")


def batch_is_loop(example: Example) -> None:
    answers = example.pi.log_evidence(example.mask)
    marginals = example.pi.marginals()
    for row in torch.randperm(ROWS, generator=example.noise)[:1].tolist():
        alone = CircuitDistribution(example.pi.circuit, example.pi.logits[row])
        close(alone.log_evidence(example.mask[row]), answers[row], "one row's evidence")
        close(alone.log_prob(example.values[row]), example.pi.log_prob(example.values)[row], "one row's log_prob")
        close(alone.marginals(), marginals[row], "one row's marginals")


IDENTITIES = (
    chain_rule,
    total_probability,
    conditional_is_joint_over_marginal,
    other_variable_numbers,
    batch_is_loop,
)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", first_now(NAMES, 0.6))
@given(st.integers(0, 1 << 30))
@settings(max_examples=1)
def test_identities(name: str, seed: int) -> None:
    example = Example(name, seed)
    for identity in IDENTITIES:
        identity(example)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", NAMES)
@given(st.integers(0, 1 << 30))
@settings(max_examples=34)
def test_a_thousand_examples_of_each_identity(name: str, seed: int) -> None:
    example = Example(name, seed)
    for identity in IDENTITIES:
        identity(example)


def test_the_circuits_are_large() -> None:
    for name in NAMES:
        assert large_circuit(name).num_variables == 200, name


def test_an_identity_notices_a_wrong_circuit() -> None:
    """Another policy's evidence breaks the chain rule, and 1e-6 nats break the comparison."""
    example = Example("markov_chain", 0)
    example.values = large_policy("markov_chain", 2, ROWS).sample(generator=example.noise)
    with pytest.raises(AssertionError, match="chain rule"):
        chain_rule(example)
    with pytest.raises(AssertionError, match="what"):
        close(torch.tensor(-300.0).double(), torch.tensor(-300.0).double() + 1e-6, "what")
