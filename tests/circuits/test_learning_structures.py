"""Structures from data: Chow-Liu trees and cutset networks, on data drawn from known distributions.

The public density-estimation data sets are in no package registry; with generated data the truth is known, so the
distance to it can be measured: KL in nats, exact for circuits small enough to enumerate and by held-out rows otherwise.
"""

import doctest
import importlib
from itertools import combinations

import networkx as nx
import numpy as np
import pytest
import torch

from circuits import Circuit, CircuitBuilder, CircuitDistribution, EvidenceError, StructureError
from circuits.learning import chow_liu, chow_liu_tree, learn_structure, maximum_likelihood
from circuits.structures import mean_field, tree
from circuits.structures.tree import add_forest


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def permutation(items: list[int], generator: torch.Generator) -> list[int]:
    return [items[i] for i in torch.randperm(len(items), generator=generator).tolist()]


def random_parents(count: int, generator: torch.Generator) -> list[int]:
    """A random tree whose variables are numbered at random."""
    order = permutation(list(range(count)), generator)
    parents = [-1] * count
    for position in range(1, count):
        parents[order[position]] = order[int(torch.randint(position, (1,), generator=generator))]
    return parents


def edges_of(parents: list[int]) -> set[frozenset[int]]:
    return {frozenset((child, parent)) for child, parent in enumerate(parents) if parent >= 0}


def coupled_tree(cards: list[int], parents: list[int], stay: float, generator: torch.Generator) -> CircuitDistribution:
    """A tree in which each variable repeats its parent's value (modulo its own) with some probability."""
    circuit = tree(cards, parents)
    rows = []
    for _ in range(20 * len(cards) * max(cards) ** 2):
        rows.append(torch.zeros(len(cards), dtype=torch.long))
        order = [v for v in nx.topological_sort(_graph(parents))]
        for v in order:
            drawn = int(torch.randint(cards[v], (1,), generator=generator))
            same = parents[v] >= 0 and float(torch.rand((), generator=generator)) < stay
            rows[-1][v] = int(rows[-1][parents[v]]) % cards[v] if same else drawn
    return CircuitDistribution(circuit, maximum_likelihood(circuit, torch.stack(rows)))


def _graph(parents: list[int]) -> nx.DiGraph:
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(parents)))
    graph.add_edges_from((parent, child) for child, parent in enumerate(parents) if parent >= 0)
    return graph


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


def planted_cutset(cards: list[int], depth: int, generator: torch.Generator) -> CircuitDistribution:
    """A random cutset network: random variables decide which random tree the others follow."""
    builder = CircuitBuilder(cards)
    indicators = [[builder.input(v, [value]) for value in range(k)] for v, k in enumerate(cards)]

    def grow(variables: list[int], depth: int) -> int:
        if depth == 0:
            parents = random_parents(len(variables), generator)
            forest = {v: variables[p] if p >= 0 else -1 for v, p in zip(variables, parents, strict=True)}
            return builder.product(*add_forest(builder, forest, indicators))
        chosen = permutation(variables, generator)[0]
        rest = [v for v in variables if v != chosen]
        return builder.sum(*(builder.product(indicator, grow(rest, depth - 1)) for indicator in indicators[chosen]))

    circuit = builder.build(grow(list(range(len(cards))), depth))
    logits = 1.5 * torch.randn(circuit.num_parameters, generator=generator, dtype=torch.float64)
    return CircuitDistribution(circuit, logits)


def gap(true: CircuitDistribution, circuit: Circuit, logits: torch.Tensor, rows: torch.Tensor) -> float:
    """KL from the truth, estimated on rows drawn from it."""
    return float((true.log_prob(rows) - CircuitDistribution(circuit, logits).log_prob(rows)).mean())


@pytest.mark.parametrize("seed", range(8))
def test_learner_beats_chow_liu_on_planted_cutsets(seed: int) -> None:
    """4,000 rows of 14 variables; KL to the truth, seeds 0 to 7: cutset 0.02 to 0.08, tree 1.0 to 2.0 nats."""
    generator = seeded(seed)
    cards = [2, 3, 2, 2, 2, 3, 2, 2, 2, 2, 3, 2, 2, 2]
    true = planted_cutset(cards, 2, generator)
    data, held_out = true.sample(torch.Size([2, 4_000]), generator=generator)
    circuit, logits = learn_structure(data, cards)
    assert circuit.is_deterministic
    from_learner = gap(true, circuit, logits, held_out)
    from_tree = gap(true, *chow_liu_tree(data, cards), held_out)
    print(f"KL in nats: cutset {from_learner:.4f}, tree {from_tree:.4f}")
    assert from_learner < 0.1 < 0.9 < from_tree


@pytest.mark.parametrize("seed", range(4))
def test_learner_does_not_split_when_a_tree_is_the_truth(seed: int) -> None:
    generator = seeded(40 + seed)
    cards = [2, 3, 2, 2, 3, 2]
    true = coupled_tree(cards, random_parents(6, generator), 0.6, generator)
    data = true.sample(torch.Size([2_000]), generator=generator)
    circuit, logits = learn_structure(data, cards)
    expected, expected_logits = chow_liu_tree(data, cards, penalty=1.0)
    assert circuit.num_parameters == expected.num_parameters
    everything = true.enumerate_support()
    found = CircuitDistribution(circuit, logits).log_prob(everything)
    torch.testing.assert_close(found, CircuitDistribution(expected, expected_logits).log_prob(everything))


def test_lower_penalty_and_depth_change_the_size() -> None:
    true = planted_cutset([2] * 8, 2, seeded(5))
    data = true.sample(torch.Size([1_500]), generator=seeded(6))
    sizes = [learn_structure(data, [2] * 8, penalty=p)[0].num_parameters for p in (0.2, 1.0, 1000.0)]
    assert sizes[0] > sizes[1] > sizes[2] == mean_field([2] * 8).num_parameters
    flat, _ = learn_structure(data, [2] * 8, max_depth=0)
    assert flat.num_parameters == chow_liu_tree(data, [2] * 8, penalty=1.0)[0].num_parameters


@pytest.mark.parametrize("seed", range(30))
def test_every_split_pays_for_its_parameters(seed: int) -> None:
    """BIC of the circuit, measured from outside, is not below that of the best forest, also where gains are small."""
    generator = seeded(seed)
    cards = [2, 3, 2, 3, 2]
    true = planted_cutset(cards, 1, generator)
    mild = CircuitDistribution(true.circuit, (seed % 3) / 3 * true.logits)
    data = mild.sample(torch.Size([60]), generator=generator)

    def bic(circuit: Circuit) -> float:
        logits = maximum_likelihood(circuit, data, smoothing=0.0)
        slices = [circuit.parameters_of(node) for node in range(circuit.num_nodes)]
        free = sum(s.stop - s.start - 1 for s in slices if s.stop > s.start)
        log_likelihood = float(CircuitDistribution(circuit, logits).log_prob(data).sum())
        return log_likelihood - penalty * free * np.log(len(data)) / 2

    for penalty in (0.3, 0.6, 1.0):
        learned, _ = learn_structure(data, cards, penalty=penalty)
        forest, _ = chow_liu_tree(data, cards, penalty=penalty, smoothing=0.0)
        assert bic(learned) >= bic(forest) - 1e-9


def test_row_weights_are_repeated_rows() -> None:
    data = torch.randint(2, (60, 5), generator=seeded(8))
    repeats = torch.randint(0, 4, (60,), generator=seeded(9))
    weighted, logits = learn_structure(data, [2] * 5, weights=repeats)
    plain, expected = learn_structure(data.repeat_interleave(repeats, 0), [2] * 5)
    assert weighted.nodes == plain.nodes
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_constant_single_valued_and_few_data(count: int) -> None:
    cards = [1, 2, 3, 2]
    data = torch.tensor([[0, 1, 2, 0]]).repeat(count, 1)
    for circuit, logits in (learn_structure(data, cards), chow_liu_tree(data, cards)):
        pi = CircuitDistribution(circuit, logits, validate_args=True)
        assert pi.mode.tolist() == [0, 1, 2, 0]
        assert float(pi.log_prob(pi.enumerate_support()).exp().sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("learn", [chow_liu, chow_liu_tree, learn_structure])
def test_bad_input_is_named(learn) -> None:
    data = torch.tensor([[0, 1], [1, 0]])
    with pytest.raises(EvidenceError, match=r"1 rows have missing values .* row 1, variable 0"):
        learn(torch.tensor([[0, 1], [-1, 0]]), [2, 2])
    with pytest.raises(EvidenceError, match=r"row 1 gives variable 0 the value 1; its values are 0 to 0"):
        learn(data, [1, 2])
    with pytest.raises(EvidenceError, match="with 3 variables"):
        learn(data, [2, 2, 2])
    with pytest.raises(StructureError, match="cardinality 0"):
        learn(data, [2, 0])
    with pytest.raises(EvidenceError, match="smoothing is nan"):
        learn(data, [2, 2], smoothing=float("nan"))
    with pytest.raises(StructureError, match=r"penalty -1\.0"):
        learn(data, [2, 2], penalty=-1.0)


@pytest.mark.parametrize("module", ["", ".maximum_likelihood", ".chow_liu", ".structure"])
def test_examples_in_docstrings_run(module: str) -> None:
    cases = doctest.DocTestFinder().find(importlib.import_module(f"circuits.learning{module}"))
    results = [doctest.DocTestRunner().run(case) for case in cases]
    assert sum(result.attempted for result in results) >= 2
    assert not any(result.failed for result in results)
