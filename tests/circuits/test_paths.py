"""All ways to compute an answer agree: float32 or float64, a batch or a loop over its rows, for every structure."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from circuits import Circuit, CircuitDistribution, operations, structures
from tests import strategies
from tests.contracts import build_case
from tests.large import NAMES, large_policy

FLOAT32 = 4e-6
"""Error of a float32 log probability, relative to its size."""

N = 4096
TWO = [2] * N
DEEP: dict[str, Callable[[], Circuit]] = {
    **{name: partial(build, TWO) for name, build in structures.STRUCTURES.items()},
    "mean_field": lambda: structures.mean_field(TWO),
    "markov_chain": lambda: structures.markov_chain(TWO),
    "tree": lambda: structures.tree(TWO, [i - 1 - (i % 3 == 0 and i > 3) for i in range(N)]),
    "keep_set": lambda: structures.keep_set(TWO, [(i, i + 1) for i in range(N - 1)], labels=2, shape="chain"),
    "keep_set balanced": lambda: structures.keep_set(TWO, [(i, i + 1) for i in range(N - 1)], labels=4),
    "selective": lambda: structures.selective(TWO, copies=2),
    "decision_diagram": lambda: structures.decision_diagram(TWO, width=2),
    "cutset": lambda: structures.cutset(TWO),
    "random_binary": lambda: structures.random_binary(TWO, sums=2),
    "latent_tree": lambda: structures.latent_tree(TWO, states=2),
    "exactly": lambda: operations.exactly(TWO, [0, 1, 2]),
    "mixture": lambda: operations.mixture(structures.mean_field(TWO), structures.markov_chain(TWO)),
}


def check_float32(wide: CircuitDistribution) -> None:
    """Both see the same numbers: the float64 policy is made of the float32 logits."""
    narrow = CircuitDistribution(wide.circuit, wide.logits.float())
    wide = CircuitDistribution(wide.circuit, narrow.logits.double())
    noise = torch.Generator().manual_seed(0)
    values = wide.sample((3,), generator=noise)
    assert narrow.log_prob(values).dtype == torch.float32
    torch.testing.assert_close(narrow.log_prob(values).double(), wide.log_prob(values), rtol=FLOAT32, atol=FLOAT32)
    if wide.circuit.is_deterministic:
        torch.testing.assert_close(narrow.entropy().double(), wide.entropy(), rtol=FLOAT32, atol=FLOAT32)


@pytest.mark.full
@pytest.mark.parametrize("name", NAMES)
def test_float32_agrees_with_float64_on_200_variables(name: str) -> None:
    check_float32(large_policy(name))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", DEEP)
def test_float32_agrees_with_float64_on_4096_variables(name: str) -> None:
    circuit = DEEP[name]()
    noise = torch.Generator().manual_seed(1)
    check_float32(
        CircuitDistribution(circuit, torch.randn(circuit.num_parameters, generator=noise, dtype=torch.float64))
    )


def answers(pi: CircuitDistribution, values: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Answers with the batch first."""
    n = pi.circuit.num_variables
    conditional = pi.condition(mask)
    result = {
        "log_prob": pi.log_prob(values),
        "log_evidence": pi.log_evidence(mask),
        "marginals": pi.marginals(),
        "marginal": pi.marginal(tuple(range(n))[::-1]),
        "conditional marginals": conditional.marginals(),
        "conditionals": pi.conditionals(values),
        "expectation": pi.expectation([((n - 1,), torch.arange(pi.circuit.cardinalities[-1]).double())]),
        "mutual_information": pi.mutual_information([0], range(1, n)),
        "entropy_lower_bound": pi.entropy_lower_bound(),
        "entropy_upper_bound": pi.entropy_upper_bound(),
    }
    if n > 1:
        result["pair_marginals"] = pi.pair_marginals([(n - 1, 0)])[0]
    if pi.circuit.is_deterministic:
        result |= {
            "entropy": pi.entropy(),
            "conditional entropy": conditional.entropy(),
            "mode": pi.map()[1],
            "m_best": pi.m_best(1)[1].movedim(0, -1),
            "max_marginals": pi.max_marginals(),
            "log_prob_variance": pi.log_prob_variance(),
            "total_correlation": pi.total_correlation(),
            "kl_divergence": conditional.kl_divergence(pi),
        }
    return result


@pytest.mark.one_in(6)
@pytest.mark.parametrize("family", strategies.FAMILIES)
@pytest.mark.parametrize("seed", [2, 5])
def test_a_batch_equals_a_loop_over_its_rows(family: str, seed: int) -> None:
    """Every query; the evidence is different in every row, and allows what was drawn."""
    case = build_case(family, seed)
    assert case.batch == (2, 3)
    values = case.pi.sample(generator=torch.Generator().manual_seed(seed))
    noise = torch.Generator().manual_seed(seed)
    width = max(case.cards)
    mask = torch.rand(2, 3, case.n, width, generator=noise) < 0.5
    mask |= torch.arange(width) == values.unsqueeze(-1)
    whole = answers(case.pi, values, mask)
    for i, j in np.ndindex(2, 3):
        row = answers(CircuitDistribution(case.circuit, case.pi.logits[i, j]), values[i, j], mask[i, j])
        for name, answer in row.items():
            torch.testing.assert_close(whole[name][i, j], answer, rtol=1e-10, atol=1e-10, msg=f"{name} of row {i}, {j}")
