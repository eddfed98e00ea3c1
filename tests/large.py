"""One circuit of 200 variables per structure: too many joint values to enumerate."""

from collections.abc import Callable
from functools import cache

import torch

from circuits import Circuit, CircuitDistribution, Input, operations, structures

COUNT = 200
CARDS = [2, 3] * (COUNT // 2)
NEIGHBOURS = [(i, i + 1) for i in range(COUNT - 1)]
PARENTS = [-1, *((i - 1) // 2 for i in range(1, COUNT))]


def _keep_set(shape: str) -> Callable[[], Circuit]:
    return lambda: structures.keep_set(CARDS, NEIGHBOURS, labels=6, shape=shape)


# What a structure needs or can do beyond its default options; the others are built from the cardinalities alone.
_BUILDERS: dict[str, Callable[[], Circuit]] = {
    "markov_chain": lambda: structures.markov_chain(CARDS, order=2),
    "tree": lambda: structures.tree(CARDS, PARENTS),
    "keep_set": _keep_set("auto"),
    "keep_set balanced": _keep_set("balanced"),
    "keep_set chain": _keep_set("chain"),
    "clique_tree": lambda: structures.clique_tree(CARDS, [(i, i + 2) for i in range(COUNT - 2)] + NEIGHBOURS),
    "selective": lambda: structures.selective(CARDS, copies=4),
    "decision_diagram": lambda: structures.decision_diagram(CARDS, width=6),
    "cutset": lambda: structures.cutset(CARDS, depth=2),
    "random_binary": lambda: structures.random_binary(CARDS, sums=3),
    "latent_tree": lambda: structures.latent_tree(CARDS, PARENTS, states=3),
    "mixture": lambda: operations.mixture(structures.markov_chain(CARDS), structures.selective(CARDS, copies=2)),
    "exactly": lambda: operations.exactly(CARDS, 5),
    "all_different": lambda: operations.all_different(CARDS, exempt=[0]),
}

NAMES = tuple(dict.fromkeys([*structures.STRUCTURES, *_BUILDERS]))


@cache
def large_circuit(name: str) -> Circuit:
    """The circuit of 200 variables of that name; built once."""
    return _BUILDERS[name]() if name in _BUILDERS else structures.STRUCTURES[name](CARDS)


@cache
def large_policy(name: str, seed: int = 0, rows: int = 2) -> CircuitDistribution:
    """That circuit with `rows` rows of normal logits in float64."""
    circuit = large_circuit(name)
    noise = torch.Generator().manual_seed(seed)
    return CircuitDistribution(circuit, torch.randn(rows, circuit.num_parameters, generator=noise, dtype=torch.float64))


@cache
def renamed(name: str, seed: int) -> tuple[Circuit, torch.Tensor, torch.Tensor]:
    """The circuit under other variable numbers, the new number of each variable, and where its logits come from."""
    circuit = large_circuit(name)
    order = torch.randperm(circuit.num_variables, generator=torch.Generator().manual_seed(seed))
    cards = torch.empty_like(order)
    cards[order] = torch.tensor(circuit.cardinalities)
    nodes = [
        Input(int(order[node.variable]), node.values) if isinstance(node, Input) else node for node in circuit.nodes
    ]
    other = Circuit(cards.tolist(), nodes)
    source = torch.empty(circuit.num_parameters, dtype=torch.long)
    for index in range(circuit.num_nodes):
        old = circuit.parameters_of(index)
        source[other.parameters_of(index)] = torch.arange(old.start, old.stop)
    return other, order, source
