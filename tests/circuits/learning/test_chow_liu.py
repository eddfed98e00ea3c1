"""Chow-Liu trees: the planted tree is found, and no other tree is more likely."""

from itertools import combinations

import networkx as nx
import pytest
import torch

from circuits import CircuitDistribution
from circuits.learning import chow_liu, chow_liu_tree, maximum_likelihood
from circuits.structures import tree
from tests.circuits.learning.planted import coupled_tree, edges_of, random_parents
from tests.strategies import seeded


@pytest.mark.one_in(3)
@pytest.mark.parametrize("seed", range(10))
def test_chow_liu_recovers_planted_trees(seed: int) -> None:
    generator = seeded(seed)
    cards = [2, 3, 2, 4, 3, 2, 2, 3]
    parents = random_parents(len(cards), generator)
    true = coupled_tree(cards, parents, 0.5, generator)
    data = true.sample(torch.Size([4_000]), generator=generator)
    found = chow_liu(data, cards)
    assert edges_of(found) == edges_of(parents)
    assert found[0] == -1
    assert edges_of(chow_liu(data, cards, penalty=1.0)) == edges_of(parents)
    circuit, logits = chow_liu_tree(data, cards)
    assert circuit.is_deterministic
    log_true = true.log_prob(everything := true.enumerate_support())
    gap = log_true - CircuitDistribution(circuit, logits).log_prob(everything)
    # About (free parameters / 2) / rows = 0.004 nats are expected for a correct tree.
    assert float((log_true.exp() * gap).sum()) < 0.012


@pytest.mark.parametrize("seed", range(4))
def test_chow_liu_is_the_best_of_all_trees(seed: int) -> None:
    """Against all 16 trees over four variables, by training likelihood."""
    generator = seeded(100 + seed)
    cards = [2, 3, 2, 2]
    weights = torch.rand(60, generator=generator)
    data = torch.stack([torch.randint(k, (60,), generator=generator) for k in cards], 1)

    def score(parents: list[int]) -> float:
        circuit = tree(cards, parents)
        logits = maximum_likelihood(circuit, data, weights=weights, smoothing=0.0)
        return float(CircuitDistribution(circuit, logits).log_prob(data) @ weights.double())

    scores = []
    for chosen in combinations(combinations(range(4), 2), 3):
        graph = nx.Graph(chosen)
        if len(graph) == 4 and nx.is_tree(graph):
            directed = nx.bfs_predecessors(graph, 0)
            parents = dict(directed)
            scores.append(score([parents.get(v, -1) for v in range(4)]))
    assert len(scores) == 16
    found = score(chow_liu(data, cards, weights=weights, smoothing=0.0))
    assert found == pytest.approx(max(scores), abs=1e-9)


def test_penalty_leaves_out_edges_that_say_nothing() -> None:
    generator = seeded(7)
    cards = [2, 2, 3, 2]
    data = torch.stack([torch.randint(k, (500,), generator=generator) for k in cards], 1)
    assert chow_liu(data, cards, penalty=1.0) == [-1, -1, -1, -1]
    assert chow_liu(data, cards).count(-1) == 1
    assert chow_liu(data[:, :1], [2]) == [-1]


def test_chow_liu_on_wide_data() -> None:
    parents = list(range(-1, 199))
    data = torch.zeros(1_000, 200, dtype=torch.long)
    generator = seeded(3)
    data[:, 0] = torch.randint(3, (1_000,), generator=generator)
    for v in range(1, 200):
        noise = torch.randint(3, (1_000,), generator=generator)
        data[:, v] = torch.where(torch.rand(1_000, generator=generator) < 0.7, data[:, v - 1], noise)
    assert chow_liu(data, [3] * 200) == parents
