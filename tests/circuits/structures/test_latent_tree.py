"""Latent trees: meaning by enumeration of the hidden states, sizes, and refusals."""

from itertools import product

import numpy as np
import pytest
import torch

from circuits import CircuitDistribution, StructureError
from circuits.structures import latent_tree, mean_field
from circuits.structures.latent_tree import latent_tree_nodes
from tests.strategies import seeded


@pytest.mark.parametrize("parents", [[-1, 0, 1, 1], [1, -1, 1, -1], [3, 0, 0, -1], [-1, -1, -1, -1]])
def test_is_a_sum_over_hidden_states(parents: list[int]) -> None:
    """p(u) = sum over all z of prod_i p(z_i | z_parent) p(u_i | z_i), by brute force."""
    cards, states = [2, 3, 1, 2], 3
    latent = latent_tree_nodes(cards, parents, states)
    circuit = latent.circuit
    logits = torch.randn(circuit.num_parameters, generator=seeded(sum(parents)), dtype=torch.float64)

    def shares(node: int, size: int) -> np.ndarray:
        own = logits[circuit.parameters_of(node)]
        return own.softmax(0).numpy() if len(own) else np.ones(size)

    emit = [[shares(node, k) for node in latent.emissions[v]] for v, k in enumerate(cards)]
    move = [[shares(node, states) for node in latent.transitions[v]] for v in range(4)]
    pi = CircuitDistribution(circuit, logits)
    for values in product(*map(range, cards)):
        expected = sum(
            np.prod([emit[v][z[v]][values[v]] * move[v][z[p] if p >= 0 else 0][z[v]] for v, p in enumerate(parents)])
            for z in product(range(states), repeat=4)
        )
        assert float(pi.log_prob(torch.tensor(values)).exp()) == pytest.approx(expected, rel=1e-10)


def test_default_is_a_hidden_markov_chain() -> None:
    assert latent_tree([2, 3, 2], states=4).nodes == latent_tree([2, 3, 2], [-1, 0, 1], states=4).nodes
    assert latent_tree([6] * 5).num_parameters == 16 * 30 + 16 + 4 * 256
    wide = latent_tree([2] * 600, states=2)
    assert wide.is_structured
    assert not wide.is_deterministic


def test_one_state_is_mean_field() -> None:
    circuit = latent_tree([3, 2, 1], states=1)
    assert circuit.is_deterministic
    assert circuit.num_parameters == mean_field([3, 2, 1]).num_parameters


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"states": 0}, "latent_tree states is 0; it must be at least 1"),
        ({"parents": [-1]}, "latent_tree got 1 parents for 2 variables"),
        ({"parents": [-1, 2]}, "latent_tree: variable 1 has parent 2"),
        ({"parents": [1, 0]}, "latent_tree: the parents form a cycle"),
    ],
)
def test_wrong_options_are_refused(keywords: dict, message: str) -> None:
    with pytest.raises(StructureError, match=message):
        latent_tree([2, 3], **keywords)
