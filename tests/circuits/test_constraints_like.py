"""Constraints along the splits of another circuit: any structured policy can be given them."""

from collections.abc import Callable

import pytest
import torch

from circuits import Circuit, CircuitDistribution, NotTractableError, StructureError, operations, structures

CARDS = [3, 2, 3, 4, 3]
RING = [(i, (i + 1) % 5) for i in range(5)]

POLICIES: dict[str, Callable[[], Circuit]] = {
    "keep_set": lambda: structures.keep_set(CARDS, RING, labels=9),
    "keep_set chain": lambda: structures.keep_set(CARDS, RING, labels=9, shape="chain"),
    "selective": lambda: structures.selective(CARDS, copies=3),
    "mean_field": lambda: structures.mean_field(CARDS),
    "tree": lambda: structures.tree(CARDS, [1, 2, -1, 2, 0]),
    "random_binary": lambda: structures.random_binary(CARDS, repetitions=1, sums=2),
    "latent_tree": lambda: structures.latent_tree(CARDS, [1, 2, -1, 2, 0], states=2),
}

CONSTRAINTS: dict[str, tuple[Callable[[Circuit], Circuit], Callable[[list[int]], bool]]] = {
    "two act": (
        lambda c: operations.exactly(CARDS, 2, action=[1, 2, 3], like=c),
        lambda u: sum(value > 0 for value in u) == 2,
    ),
    "none or three choose 1": (
        lambda c: operations.exactly(CARDS, [0, 3], like=c),
        lambda u: u.count(1) in (0, 3),
    ),
    "no two on one target": (
        lambda c: operations.all_different(CARDS, exempt=[0], like=c),
        lambda u: all(u.count(value) <= 1 for value in (1, 2, 3)),
    ),
}


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("policy", POLICIES)
def test_the_policy_given_the_constraint(policy: str, constraint: str) -> None:
    circuit = POLICIES[policy]()
    build, allowed = CONSTRAINTS[constraint]
    met = build(circuit)
    assert Circuit(met.cardinalities, met.nodes).is_deterministic  # proved from the graph alone
    logits = torch.randn(2, circuit.num_parameters, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    pi = CircuitDistribution(circuit, logits)
    values = pi.enumerate_support(expand=False)
    probability = pi.log_prob(values).exp()
    possible = torch.tensor([allowed(u) for u in values[:, 0].tolist()]).unsqueeze(1)
    assert 0 < possible.sum() < len(values)
    given, log_probability = pi.constrain(met)
    total = (probability * possible).sum(0)
    torch.testing.assert_close(log_probability, total.log(), rtol=0, atol=1e-12)
    torch.testing.assert_close(given.log_prob(values).exp(), probability * possible / total, rtol=0, atol=1e-12)
    assert all(allowed(u) for u in given.sample((50,)).flatten(0, 1).tolist())


@pytest.mark.full
def test_sixty_four_agents_of_which_eight_may_act() -> None:
    n = 64
    circuit = structures.keep_set([4] * n, [(i, (i + 1) % n) for i in range(n)], labels=4)
    met = operations.exactly([4] * n, 8, action=range(1, 4), like=circuit)
    pi = CircuitDistribution(circuit, torch.randn(circuit.num_parameters))
    drawn = pi.constrain(met)[0].sample((200,))
    assert ((drawn > 0).sum(-1) == 8).all()


def test_what_cannot_be_followed_is_refused() -> None:
    unstructured = structures.random_binary([2] * 4, repetitions=2, seed=1)
    assert not unstructured.is_structured
    with pytest.raises(NotTractableError, match="structured"):
        operations.exactly([2] * 4, 1, like=unstructured)
    with pytest.raises(StructureError, match="cardinalities"):
        operations.exactly([2] * 3, 1, like=structures.mean_field([2] * 4))
    with pytest.raises(StructureError, match="no joint value"):
        operations.all_different([2] * 3, like=structures.mean_field([2] * 3))
