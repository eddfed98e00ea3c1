"""Circuits too large to enumerate: identities, analytic answers, and no limit on depth."""

import numpy as np
import pytest
import torch

from circuits import Circuit, CircuitBuilder, CircuitDistribution, structures
from tests import oracles

BUILDERS = {
    "chain of 200": lambda: structures.markov_chain([2, 3] * 100, order=2),
    "keep_set of 200": lambda: structures.keep_set([2, 3] * 100, [(i, i + 1) for i in range(199)], labels=9),
    "tree of 1000": lambda: structures.tree([3] * 1000, [-1, *((i - 1) // 2 for i in range(1, 1000))]),
    "chain of 1000": lambda: structures.markov_chain([3] * 1000),
}


@pytest.fixture(scope="module", params=BUILDERS)
def circuit(request: pytest.FixtureRequest) -> Circuit:
    return BUILDERS[request.param]()


@pytest.fixture
def pi(circuit: Circuit, generator: torch.Generator) -> CircuitDistribution:
    logits = torch.randn(2, circuit.num_parameters, generator=generator, dtype=torch.float64)
    return CircuitDistribution(circuit, logits)


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-9)


def as_evidence(values: torch.Tensor, circuit: Circuit) -> torch.Tensor:
    return torch.arange(max(circuit.cardinalities)) == values.unsqueeze(-1)


@pytest.mark.one_in(6)
def test_identities(pi: CircuitDistribution, generator: torch.Generator) -> None:
    circuit = pi.circuit
    assert circuit.is_deterministic
    n = circuit.num_variables
    values = pi.sample(generator=generator)
    full = as_evidence(values, circuit)
    log_prob = pi.log_prob(values)
    close(pi.log_evidence(full), log_prob)
    part = full.clone()
    part[:, n // 3 :] = True
    log_part = pi.log_evidence(part)
    given = pi.condition(part)
    close(given.log_prob(values), log_prob - log_part)  # conditional = joint - evidence
    close(given.log_evidence(full), log_prob - log_part)
    marginals = pi.marginals()
    close(marginals.sum(-1), torch.ones(2, n, dtype=torch.float64))
    last = torch.stack([pi.log_evidence({n - 1: v}) for v in range(circuit.cardinalities[n - 1])])
    close(last.logsumexp(0), torch.zeros(2, dtype=torch.float64))  # total probability
    close(last.exp().movedim(0, -1), marginals[:, n - 1, : len(last)])
    values_of_mode, log_mode = pi.map()
    close(pi.log_prob(values_of_mode), log_mode)
    assert (log_mode >= log_prob).all()
    # The entropy is minus the expected log probability; conditioning on a value that is certain changes nothing.
    assert (pi.entropy() > 0).all()
    close(pi.condition(torch.ones_like(part)).entropy(), pi.entropy())
    close(pi.kl_divergence(pi), torch.zeros(2, dtype=torch.float64))
    pairs = [
        ((i, i + 1), torch.eye(circuit.cardinalities[i], circuit.cardinalities[i + 1])) for i in range(0, n - 1, 7)
    ]
    together = pi.expectation([(s, t.double()) for s, t in pairs])
    one_by_one = sum((pi.marginal(s) * t).sum((-2, -1)) for s, t in pairs[:3])
    rest = pi.expectation([(s, t.double()) for s, t in pairs[3:]])
    close(together, one_by_one + rest)


def chain_numbers(circuit: Circuit, logits: torch.Tensor, k: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Initial and transition probabilities of a chain, read from the circuit's nodes from the root down."""
    table = torch.softmax(logits[circuit.parameters_of(circuit.num_nodes - 1)], -1).numpy()
    root = circuit.nodes[-1]
    initial, transitions, elements = table, [], root.children
    while len(circuit.nodes[elements[0]].children) == 2:
        rows = [circuit.nodes[e].children[1] for e in elements]
        transitions.append(np.stack([torch.softmax(logits[circuit.parameters_of(r)], -1).numpy() for r in rows]))
        elements = circuit.nodes[rows[0]].children
    return initial, transitions


def test_entropy_of_a_long_chain_is_analytic(generator: torch.Generator) -> None:
    circuit = structures.markov_chain([3] * 1000)
    logits = torch.randn(circuit.num_parameters, generator=generator, dtype=torch.float64)
    initial, transitions = chain_numbers(circuit, logits, 3)
    assert len(transitions) == 999
    expected = oracles.chain_entropy(initial, transitions)
    assert CircuitDistribution(circuit, logits).entropy().item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.full
def test_a_chain_of_4096_variables_has_no_limit_of_depth(generator: torch.Generator) -> None:
    """Built, proved deterministic and queried without deep recursion."""
    circuit = structures.markov_chain([2] * 4096)
    assert circuit.is_deterministic
    assert circuit.is_structured
    logits = torch.randn(circuit.num_parameters, generator=generator, dtype=torch.float64).requires_grad_()
    pi = CircuitDistribution(circuit, logits)
    values = pi.sample(generator=generator)
    log_prob = pi.log_prob(values)
    close(log_prob, pi.log_evidence(as_evidence(values, circuit)))
    initial, transitions = chain_numbers(circuit, logits.detach(), 2)
    steps = [transitions[t][values[t], values[t + 1]] for t in range(4095)]
    expected = np.log(initial[values[0]]) + np.log(steps).sum()
    assert log_prob.item() == pytest.approx(expected, rel=1e-12)
    assert pi.entropy().item() == pytest.approx(oracles.chain_entropy(initial, transitions), rel=1e-12)
    narrow = CircuitDistribution(circuit, logits.detach().float())
    assert narrow.log_prob(values).item() == pytest.approx(expected, rel=4e-6)
    pi.condition({0: 1, 4000: 0}).entropy().backward()
    assert torch.isfinite(logits.grad).all()


def test_a_chain_in_other_order_of_nodes_is_proved_too() -> None:
    """The same chain with the continuation first in each product, built by hand."""
    n = 1000
    b = CircuitBuilder([2] * n)
    following: list[int] = []
    for t in reversed(range(n)):
        elements = [b.product(*(following[v : v + 1]), b.input(t, [v])) for v in range(2)]
        following = [b.sum(*elements), b.sum(*elements)]
    circuit = b.build(following[0])
    assert circuit.is_deterministic


def test_permuting_variables_changes_nothing(generator: torch.Generator) -> None:
    """The same tree network under other variable numbers gives the same answers."""
    n = 60
    parents = [-1, *((i - 1) // 3 for i in range(1, n))]
    order = torch.randperm(n, generator=generator).tolist()  # old -> new
    renamed = [-1] * n
    for variable, parent in enumerate(parents):
        renamed[order[variable]] = order[parent] if parent >= 0 else -1
    first, second = structures.tree([2] * n, parents), structures.tree([2] * n, renamed)
    pi = CircuitDistribution(first, torch.randn(first.num_parameters, generator=generator, dtype=torch.float64))
    tables = [pi.marginal([parent, v] if parent >= 0 else [v]).numpy() for v, parent in enumerate(parents)]
    logits = torch.zeros(second.num_parameters, dtype=torch.float64)
    fill_tree(second, order, parents, tables, logits)
    other = CircuitDistribution(second, logits)
    close(other.entropy(), pi.entropy())
    close(other.marginals()[order], pi.marginals())
    values = pi.sample((20,), generator=generator)
    moved = torch.empty_like(values)
    moved[:, order] = values
    close(other.log_prob(moved), pi.log_prob(values))


def fill_tree(circuit: Circuit, order: list[int], parents: list[int], tables: list, logits: torch.Tensor) -> None:
    """Set the logits of a tree circuit to conditional tables, by walking from the root with the parent's value."""
    old = {new: variable for variable, new in enumerate(order)}
    stack: list[tuple[int, int | None]] = [(circuit.num_nodes - 1, None)]
    while stack:
        index, given = stack.pop()
        node = circuit.nodes[index]
        if hasattr(node, "variable"):
            continue
        where = circuit.parameters_of(index)
        if where.stop == where.start:
            indicator = circuit.nodes[node.children[0]]
            own = indicator.values[0] if hasattr(indicator, "variable") else given
            stack += [(child, own) for child in node.children]
            continue
        variable = old[circuit.nodes[circuit.nodes[node.children[0]].children[0]].variable]
        table = tables[variable] if parents[variable] < 0 else tables[variable][given]
        logits[where] = torch.as_tensor(np.log(table))
        stack += [(child, given) for child in node.children]
