"""Weights in closed form: counts, and no other weights are more likely."""

from collections import Counter

import numpy as np
import pytest
import torch

from circuits import CircuitDistribution, EvidenceError, NotTractableError
from circuits.errors import ImpossibleEvidenceError
from circuits.learning import expectation_maximization, fit_gradient, maximum_likelihood
from circuits.structures import keep_set, markov_chain, mean_field, tree
from tests import oracles, strategies
from tests.circuits.learning.planted import copies, mean_log_prob, mixture
from tests.seeds import first_now
from tests.strategies import random_distribution, seeded

DETERMINISTIC = ("mean_field", "markov_chain", "tree", "keep_set", "hand_built")


def count_edges(cards: tuple[int, ...], nodes: list[tuple], data: np.ndarray, weights: np.ndarray) -> dict:
    """Walk every row down from the root and count the choices; {node: counts}."""
    support = oracles.supports(cards, nodes)
    counts = {i: np.zeros(len(rest[-1])) for i, (kind, *rest) in enumerate(nodes) if kind != "product"}
    for row, weight in zip(data, weights, strict=True):
        stack = [len(nodes) - 1]
        while stack:
            index = stack.pop()
            kind, *rest = nodes[index]
            if kind == "product":
                stack += rest[0]
            elif kind == "sum":
                (choice,) = [i for i, child in enumerate(rest[0]) if tuple(row) in support[child]]
                counts[index][choice] += weight
                stack.append(rest[0][choice])
            else:
                counts[index][rest[1].index(row[rest[0]])] += weight
    return counts


@pytest.mark.parametrize("family", DETERMINISTIC)
@pytest.mark.parametrize("seed", first_now(range(8)))
@pytest.mark.parametrize("smoothing", [0.0, 1.0, 2.5])
def test_closed_form_equals_counting(family: str, seed: int, smoothing: float) -> None:
    generator = seeded(seed)
    circuit = strategies.circuit_of(family, 300 + seed)
    data = random_distribution(circuit, generator).sample(torch.Size([40]), generator=generator)
    weights = torch.rand(40, generator=generator, dtype=torch.float64) if seed % 2 else torch.ones(40)
    nodes = strategies.plain_nodes(circuit)
    counts = count_edges(circuit.cardinalities, nodes, data.numpy(), weights.numpy())
    logits = maximum_likelihood(circuit, data, weights=weights if seed % 2 else None, smoothing=smoothing)
    CircuitDistribution(circuit, logits, validate_args=True)
    for node, own in counts.items():
        found = logits[circuit.parameters_of(node)].exp().numpy()
        if found.size:
            own = own + smoothing / len(own)
            expected = own / own.sum() if own.sum() else np.full(len(own), 1 / len(own))
            np.testing.assert_allclose(found, expected, atol=1e-12, err_msg=f"node {node}")


@pytest.mark.parametrize("family", DETERMINISTIC)
@pytest.mark.parametrize("seed", first_now(range(6), 0.5))
def test_no_perturbation_of_the_closed_form_is_more_likely(family: str, seed: int) -> None:
    generator = seeded(1000 + seed)
    circuit = strategies.circuit_of(family, 500 + seed)
    data = random_distribution(circuit, generator).sample(torch.Size([200]), generator=generator)
    logits = maximum_likelihood(circuit, data, smoothing=0.0)
    best = mean_log_prob(circuit, logits, data)
    for scale in (1e-3, 0.1, 1.0):
        for _ in range(10):
            noise = scale * torch.randn(logits.shape, generator=generator, dtype=torch.float64)
            assert mean_log_prob(circuit, logits + noise, data) <= best + 1e-12


def test_the_closed_form_finds_the_full_joint_table() -> None:
    """A chain that looks back at everything can hold any table, so its fit is the empirical distribution."""
    circuit = markov_chain([2, 3, 2], order=2)
    data = torch.stack([torch.randint(k, (300,), generator=seeded(5)) for k in (2, 3, 2)], 1)
    pi = CircuitDistribution(circuit, maximum_likelihood(circuit, data, smoothing=0.0))
    for row, count in Counter(map(tuple, data.tolist())).items():
        assert float(pi.log_prob(torch.tensor([row])).exp()) == pytest.approx(count / 300)


def test_row_weights_are_repeated_rows() -> None:
    circuit = tree([2, 3, 2], [-1, 0, 0])
    data = torch.tensor([[0, 1, 1], [1, 2, 0], [1, 0, 1]])
    repeats = torch.tensor([3, 1, 2])
    weighted = maximum_likelihood(circuit, data, weights=repeats)
    torch.testing.assert_close(weighted, maximum_likelihood(circuit, data.repeat_interleave(repeats, 0)))


def test_many_rows_are_cut_into_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    circuit = keep_set([3, 2, 3, 2], labels=4)
    data = random_distribution(circuit, seeded(2)).sample(torch.Size([500]), generator=seeded(3))
    whole = maximum_likelihood(circuit, data)
    monkeypatch.setattr("circuits.learning.counts._CHUNK", 1000)
    torch.testing.assert_close(maximum_likelihood(circuit, data), whole)
    with torch.inference_mode():
        torch.testing.assert_close(maximum_likelihood(circuit, data), whole)


def test_closed_form_refuses_what_it_cannot_do() -> None:
    data = torch.zeros(3, 5, dtype=torch.long)
    with pytest.raises(NotTractableError, match=r"sum node \d+ .*expectation_maximization"):
        maximum_likelihood(mixture(), data)
    chain = markov_chain([2, 2])
    with pytest.raises(EvidenceError, match=r"2 rows have missing values .* row 1, variable 0.*expectation_max"):
        maximum_likelihood(chain, torch.tensor([[0, 1], [-1, 1], [-1, -1]]))
    with pytest.raises(ImpossibleEvidenceError, match=r"rows 1, 3 have probability zero.*structure forbids"):
        maximum_likelihood(copies(), torch.tensor([[0, 0], [0, 1], [1, 1], [1, 0]]))
    only_possible = torch.tensor([1.0, 0.0, 1.0, 0.0])
    maximum_likelihood(copies(), torch.tensor([[0, 0], [0, 1], [1, 1], [1, 0]]), weights=only_possible)


BAD_DATA = {
    r"shape \(3,\).*\(rows, variables\) with 2": (torch.zeros(3, dtype=torch.long), None),
    r"shape \(1, 3\)": (torch.zeros(1, 3, dtype=torch.long), None),
    r"type torch.float32; use integers": (torch.zeros(1, 2), None),
    "no rows": (torch.zeros(0, 2, dtype=torch.long), None),
    r"row 1 gives variable 1 the value 3; its values are 0 to 2": (torch.tensor([[0, 0], [0, 3]]), None),
    r"row 0 gives variable 0 the value -2": (torch.tensor([[-2, 0]]), None),
    r"weights have shape \(2,\)": (torch.tensor([[0, 0]]), torch.ones(2)),
    r"weight of row 1 is -1.0": (torch.tensor([[0, 0], [1, 1]]), torch.tensor([1.0, -1.0])),
    r"weight of row 0 is nan": (torch.tensor([[0, 0]]), torch.tensor([float("nan")])),
    "all row weights are zero": (torch.tensor([[0, 0]]), torch.zeros(1)),
}


@pytest.mark.parametrize("message", BAD_DATA)
@pytest.mark.parametrize("learn", [maximum_likelihood, expectation_maximization, fit_gradient])
def test_bad_data_is_named(learn, message: str) -> None:
    data, weights = BAD_DATA[message]
    with pytest.raises(EvidenceError, match=message):
        learn(mean_field([2, 3]), data, weights=weights)
