"""Known distributions that learners are tried on, and how far from them they end.

The public density-estimation data sets are in no package registry; with generated data the truth is known, so the
distance to it can be measured: KL in nats, exact for circuits small enough to enumerate and by held-out rows otherwise.
"""

import networkx as nx
import torch

from circuits import Circuit, CircuitBuilder, CircuitDistribution
from circuits.learning import maximum_likelihood
from circuits.structures import tree
from circuits.structures.tree import add_forest


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


def mean_log_prob(circuit: Circuit, logits: torch.Tensor, data: torch.Tensor) -> float:
    return float(CircuitDistribution(circuit, logits).log_prob(data).mean())


def mixture(components: int = 2, cards: tuple[int, ...] = (2, 2, 2, 2, 2)) -> Circuit:
    builder = CircuitBuilder(cards, name="mixture")
    parts = [builder.product(*(builder.input(v) for v in range(len(cards)))) for _ in range(components)]
    return builder.build(builder.sum(*parts))


def copies() -> Circuit:
    """Two variables that always agree."""
    builder = CircuitBuilder([2, 2])
    same = [builder.product(builder.input(0, [v]), builder.input(1, [v])) for v in (0, 1)]
    return builder.build(builder.sum(*same))


def hide(data: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    return torch.where(torch.rand(data.shape, generator=generator) < share, -1, data)


def hidden_classes(rows: int, generator: torch.Generator) -> tuple[torch.Tensor, list[int]]:
    """Three hidden classes, each with favourite values of eight variables: no tree over the variables holds this."""
    cards = [2, 3, 2, 4, 2, 3, 2, 2]
    member = torch.randint(3, (rows,), generator=generator)
    favourite = torch.stack([(torch.arange(3) + v) % k for v, k in enumerate(cards)], 1)[member]
    noise = torch.stack([torch.randint(k, (rows,), generator=generator) for k in cards], 1)
    keep = torch.rand(rows, len(cards), generator=generator) < 0.7
    return torch.where(keep, favourite, noise), cards
