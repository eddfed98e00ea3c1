"""Expected scores: what the used edges earn, against the enumeration of joint values and of their one way through."""

import itertools
import math
from random import Random

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from circuits import Circuit, CircuitDistribution, NotTractableError, StructureError, structures
from tests import strategies
from tests.circuits.test_elbo import DETERMINISTIC

Way = tuple[float, float] | None
"""Log probability and what is earned below a node at a joint value; None where the value is impossible."""


def way_through(
    nodes: list, place: dict[int, slice], logits: np.ndarray, scores: np.ndarray, node: int, values: tuple
) -> Way:
    kind, *rest = nodes[node]
    if kind == "input":
        variable, allowed = rest
        if values[variable] not in allowed:
            return None
        choice, below = list(allowed).index(values[variable]), (0.0, 0.0)
    else:
        ways = [way_through(nodes, place, logits, scores, child, values) for child in rest[0]]
        if kind == "product":
            return None if None in ways else (sum(w[0] for w in ways), sum(w[1] for w in ways))
        possible = [number for number, way in enumerate(ways) if way is not None]
        if not possible:
            return None
        (choice,) = possible
        below = ways[choice]
    where = place[node]
    if where.stop <= where.start:
        return below
    weights = logits[where] - np.logaddexp.reduce(logits[where])
    return below[0] + weights[choice], below[1] + scores[where][choice]


def enumerated(circuit: Circuit, logits: np.ndarray, scores: np.ndarray, temperature: float) -> float:
    nodes = strategies.plain_nodes(circuit)
    place = {node: circuit.parameters_of(node) for node in range(circuit.num_nodes)}
    total = 0.0
    for values in itertools.product(*map(range, circuit.cardinalities)):
        way = way_through(nodes, place, logits, scores, circuit.num_nodes - 1, values)
        if way is not None and way[0] > -math.inf:
            total += math.exp(way[0]) * (way[1] - temperature * way[0])
    return total


@pytest.mark.parametrize("seed", range(24))
def test_it_is_the_mean_over_all_joint_values(seed: int) -> None:
    rng = Random(f"expected score {seed}")
    circuit = strategies.circuit_of(DETERMINISTIC[seed % len(DETERMINISTIC)], 300 + seed)
    logits = strategies.random_logits(rng, circuit, (3,))
    scores = torch.from_numpy(strategies.numpy_rng(rng).normal(size=(circuit.num_parameters, 3)))
    temperature = rng.choice([0.0, 0.3, 2.0])
    pi = CircuitDistribution(circuit, logits)
    expected = [enumerated(circuit, logits[row].numpy(), scores[:, row].numpy(), temperature) for row in range(3)]
    assert pi.expected_score(scores, temperature).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("family", DETERMINISTIC)
def test_gradients_to_logits_and_scores(family: str) -> None:
    circuit = strategies.circuit_of(family, 41)
    generator = strategies.seeded(3)
    logits, scores = (
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((2, circuit.num_parameters), (circuit.num_parameters, 2))
    )
    assert gradcheck(
        lambda x, c: CircuitDistribution(circuit, x).expected_score(c, 0.4), (logits, scores), fast_mode=True
    )


def test_edges_that_are_switched_off_earn_nothing_and_learn_nothing() -> None:
    circuit = structures.markov_chain([3, 3])
    logits = torch.zeros(circuit.num_parameters, dtype=torch.float64)
    logits[1] = -math.inf
    logits.requires_grad_()
    scores = torch.arange(circuit.num_parameters, dtype=torch.float64)
    pi = CircuitDistribution(circuit, logits)
    value = pi.expected_score(scores, 1.0)
    assert float(value.detach()) == pytest.approx(enumerated(circuit, logits.detach().numpy(), scores.numpy(), 1.0))
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient.isfinite().all()
    assert gradient[1] == 0.0


def test_what_it_refuses() -> None:
    mixed = strategies.circuit_of("random_binary", 5)
    pi = CircuitDistribution(mixed, torch.zeros(mixed.num_parameters))
    with pytest.raises(NotTractableError, match="expected_score needs determinism"):
        pi.expected_score(torch.zeros(mixed.num_parameters))
    chain = structures.markov_chain([2, 2])
    with pytest.raises(StructureError, match="edges and batch"):
        CircuitDistribution(chain, torch.zeros(4, chain.num_parameters)).expected_score(torch.zeros(4, 6))
