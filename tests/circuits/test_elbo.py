"""The evidence lower bound never exceeds log Z, and meets it where the family holds the optimum."""

from random import Random

import numpy as np
import pytest
import torch

from circuits import Circuit, CircuitDistribution, structures
from tests import oracles, strategies


def enumerated(circuit: Circuit, factors: list, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Table of Q / temperature and temperature * log Z."""
    n = circuit.num_variables
    table = oracles.factor_table([(s, t.numpy()) for s, t in factors], circuit.cardinalities) / temperature
    return table, temperature * oracles.log_partition(table, n)


DETERMINISTIC = (
    "mean_field",
    "markov_chain",
    "tree",
    "keep_set",
    "hand_built",
    "selective",
    "decision_diagram",
    "cutset",
)


@pytest.mark.parametrize("seed", [*range(40), *(pytest.param(s, marks=pytest.mark.slow) for s in range(40, 400))])
def test_the_elbo_is_a_lower_bound(seed: int) -> None:
    """Circuits times 25 batch rows: 1,000 pairs of policy and Q on each change, 10,000 with the slow tests."""
    rng = Random(f"elbo {seed}")
    family = DETERMINISTIC[seed % len(DETERMINISTIC)]
    circuit = strategies.circuit_of(family, 600 + seed)
    temperature = rng.choice([0.1, 1.0, 3.0])
    factors = strategies.random_factors(rng, circuit.cardinalities, (25,))
    _, log_z = enumerated(circuit, factors, temperature)
    pi = CircuitDistribution(circuit, strategies.random_logits(rng, circuit, (25,)))
    elbo = pi.expectation(factors) + temperature * pi.entropy()
    assert elbo.shape == (25,)
    assert (elbo.numpy() <= log_z + 1e-9).all()


def best_elbo(circuit: Circuit, factors: list) -> tuple[float, float]:
    """ELBO of the member of the family that is closest to exp(Q), and log Z."""
    table, log_z = enumerated(circuit, factors, 1.0)
    target = np.exp(table - log_z)
    plain = oracles.fit(circuit.cardinalities, strategies.plain_nodes(circuit), target)
    pi = CircuitDistribution(circuit, strategies.logits_from(circuit, plain))
    return float(pi.expectation(factors) + pi.entropy()), float(log_z)


@pytest.mark.parametrize("seed", range(30))
def test_equality_where_keep_set_holds_the_optimum(seed: int) -> None:
    """As many labels as joint values hold every Q."""
    rng = Random(f"full {seed}")
    cards = strategies.cardinalities(rng, 64)
    factors = strategies.random_factors(rng, cards, ())
    circuit = structures.keep_set(cards, [scope for scope, _ in factors], labels=64)
    elbo, log_z = best_elbo(circuit, factors)
    assert elbo == pytest.approx(log_z, abs=1e-9)


@pytest.mark.parametrize("labels", [2, 4, 8])
@pytest.mark.parametrize("seed", range(4))
def test_equality_on_a_chain_with_just_enough_labels(seed: int, labels: int) -> None:
    """A chain of pairs needs the labels of its cut only: k for one end, k^2 for both ends."""
    noise = np.random.default_rng(seed)
    factors = [((i, i + 1), torch.from_numpy(noise.normal(0, 2, (2, 2)))) for i in range(6)]
    circuit = structures.keep_set([2] * 7, [scope for scope, _ in factors], labels=labels)
    elbo, log_z = best_elbo(circuit, factors)
    assert elbo <= log_z + 1e-9
    assert elbo == pytest.approx(log_z, abs=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_equality_where_chain_and_tree_fit_the_factors(seed: int) -> None:
    rng = Random(f"exact {seed}")
    cards = strategies.cardinalities(rng, 128)
    noise = strategies.numpy_rng(rng)
    parents = strategies.random_parents(rng, len(cards))
    pairs = [(v, p) if p >= 0 else (v,) for v, p in enumerate(parents)]
    factors = [(s, torch.from_numpy(noise.normal(0, 1, [cards[v] for v in s]))) for s in pairs]
    assert best_elbo(structures.tree(cards, parents), factors)[0] == pytest.approx(
        best_elbo(structures.tree(cards, parents), factors)[1], abs=1e-9
    )
    order = rng.randint(1, 3)
    windows = [tuple(range(i, min(i + order + 1, len(cards)))) for i in range(max(1, len(cards) - order))]
    factors = [(s, torch.from_numpy(noise.normal(0, 1, [cards[v] for v in s]))) for s in windows]
    elbo, log_z = best_elbo(structures.markov_chain(cards, order=order), factors)
    assert elbo == pytest.approx(log_z, abs=1e-9)


def test_mean_field_cannot_hold_coupled_agents() -> None:
    """The check above can fail: a coupled Q leaves a gap of more than 0.1 nats to independent agents."""
    factors = [((0, 1), torch.tensor([[3.0, 0.0], [0.0, 3.0]], dtype=torch.float64))]
    elbo, log_z = best_elbo(structures.mean_field([2, 2]), factors)
    assert elbo < log_z - 0.1
    assert best_elbo(structures.keep_set([2, 2], labels=2), factors)[0] == pytest.approx(log_z, abs=1e-12)


def test_gradient_ascent_closes_the_gap() -> None:
    noise = torch.Generator().manual_seed(0)
    factors = [((i, (i + 1) % 4), torch.randn(2, 2, generator=noise, dtype=torch.float64)) for i in range(4)]
    circuit = structures.keep_set([2] * 4, [scope for scope, _ in factors], labels=4)
    _, log_z = enumerated(circuit, factors, 1.0)
    logits = torch.zeros(circuit.num_parameters, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=300, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        pi = CircuitDistribution(circuit, logits)
        gap = -(pi.expectation(factors) + pi.entropy())
        gap.backward()
        return gap

    optimizer.step(loss)
    assert abs(loss().item() + float(log_z)) < 1e-6
