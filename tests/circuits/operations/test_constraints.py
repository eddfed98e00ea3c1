"""Constraints: exactly the joint values that meet them are possible."""

from math import comb

import pytest
import torch

from circuits import CircuitDistribution, StructureError, operations
from tests.circuits.structures.test_decision_diagram import joint_values, support


@pytest.mark.parametrize(
    ("cards", "count", "action"),
    [
        ([2, 2, 2, 2], 2, 1),
        ([2, 2, 2, 2], 0, 1),
        ([2, 2, 2, 2], 4, 1),
        ([3, 2, 4, 1], 1, 2),
        ([3, 2, 3], range(3), 0),
        ([3, 2, 3], [0, 3], range(1, 3)),
    ],
)
def test_exactly_allows_the_joint_values_with_these_counts(cards: list, count: object, action: object) -> None:
    counts, actions = ({x} if isinstance(x, int) else set(x) for x in (count, action))
    circuit = operations.exactly(cards, count, action=action)
    wanted = {x for x in joint_values(cards) if sum(value in actions for value in x) in counts}
    assert support(circuit) == wanted
    assert circuit.is_deterministic
    assert circuit.num_parameters <= sum(k * min(t + 1, max(counts) + 1) for t, k in enumerate(cards))
    assert circuit.name.startswith("exactly(count=")


@pytest.mark.full
def test_exactly_of_a_thousand_agents(generator: torch.Generator) -> None:
    """Whatever the numbers are, the expected count and the count of every sample are the one asked for."""
    circuit = operations.exactly([2] * 1000, 5)
    assert circuit.num_parameters <= 1000 * 2 * 6
    logits = torch.randn(circuit.num_parameters, generator=generator, dtype=torch.float64)
    pi = CircuitDistribution(circuit, logits)
    torch.testing.assert_close(pi.marginals()[:, 1].sum(), torch.tensor(5.0, dtype=torch.float64))
    assert (pi.sample((100,), generator=generator).sum(-1) == 5).all()
    assert pi.mode.sum() == 5


@pytest.mark.parametrize(
    ("cards", "exempt"), [([3, 3, 3], ()), ([2, 4, 3], ()), ([3, 3, 3, 3], [0]), ([4, 2, 3, 1], [0, 1]), ([2, 3], [9])]
)
def test_all_different_allows_the_joint_values_without_a_repeat(cards: list, exempt: object) -> None:
    circuit = operations.all_different(cards, exempt=exempt)
    chosen = {x: [value for value in x if value not in set(exempt)] for x in joint_values(cards)}
    assert support(circuit) == {x for x, values in chosen.items() if len(values) == len(set(values))}
    assert circuit.is_deterministic
    counted = len(set(range(max(cards))) - set(exempt))
    bound = sum(k * sum(comb(counted, i) for i in range(t + 1)) for t, k in enumerate(cards))
    assert circuit.num_parameters <= bound


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: operations.exactly([2, 2], 3), "no joint value"),
        (lambda: operations.exactly([2, 2], -1), "count is -1"),
        (lambda: operations.exactly([2, 2], []), r"count is \[\]"),
        (lambda: operations.exactly([2, 2], 1, action=2), "action is 2; it must be within 0 to 1"),
        (lambda: operations.exactly([2, 2], 1, action=[]), r"action is \[\]"),
        (lambda: operations.all_different([2, 2, 2]), "no joint value"),
        (lambda: operations.all_different([2, 2], exempt=[-1]), r"exempt is \[-1\]"),
        (lambda: operations.exactly([], 1), "cardinalities"),
    ],
)
def test_impossible_and_wrong_constraints_are_refused(build: object, message: str) -> None:
    with pytest.raises(StructureError, match=message):
        build()
