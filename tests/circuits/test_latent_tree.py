"""Latent trees: meaning by enumeration of the hidden states, and learning on data with hidden causes."""

import doctest
import importlib
from itertools import product

import numpy as np
import pytest
import torch

from circuits import CircuitDistribution, EvidenceError, StructureError
from circuits.learning import FitOptions, chow_liu_tree, expectation_maximization, learn_latent_tree
from circuits.structures import latent_tree, mean_field
from circuits.structures.latent_tree import latent_tree_nodes


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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


def hidden_classes(rows: int, generator: torch.Generator) -> tuple[torch.Tensor, list[int]]:
    """Three hidden classes, each with favourite values of eight variables: no tree over the variables holds this."""
    cards = [2, 3, 2, 4, 2, 3, 2, 2]
    member = torch.randint(3, (rows,), generator=generator)
    favourite = torch.stack([(torch.arange(3) + v) % k for v, k in enumerate(cards)], 1)[member]
    noise = torch.stack([torch.randint(k, (rows,), generator=generator) for k in cards], 1)
    keep = torch.rand(rows, len(cards), generator=generator) < 0.7
    return torch.where(keep, favourite, noise), cards


@pytest.mark.parametrize("seed", range(2))
def test_learner_beats_chow_liu_where_causes_are_hidden(seed: int) -> None:
    generator = seeded(seed)
    rows, cards = hidden_classes(3_500, generator)
    train, validation, test = rows.split([1_000, 500, 2_000])
    options = FitOptions(epochs=40, smoothing=0.1)
    circuit, fit = learn_latent_tree(
        train, cards, states=4, validation=validation, options=options, generator=generator
    )
    held_out = float(CircuitDistribution(circuit, fit.logits).log_prob(test).mean())
    tree, logits = chow_liu_tree(train, cards)
    from_tree = float(CircuitDistribution(tree, logits).log_prob(test).mean())
    print(f"mean log-likelihood: latent {held_out:.4f}, tree {from_tree:.4f}")
    assert held_out > from_tree + 0.2
    assert fit.validation_log_likelihoods[fit.best_epoch] == max(fit.validation_log_likelihoods)


def test_start_is_ahead_of_noise_and_em_never_falls() -> None:
    rows, cards = hidden_classes(500, seeded(3))
    options = FitOptions(epochs=8)
    circuit, fit = learn_latent_tree(rows, cards, states=6, options=options, generator=seeded(4))
    noise = expectation_maximization(circuit, rows, options=options, generator=seeded(4))
    assert fit.log_likelihoods[0] > noise.log_likelihoods[0] + 0.1
    pairs = zip(fit.log_likelihoods, fit.log_likelihoods[1:], strict=False)
    assert all(after >= before - 1e-9 for before, after in pairs)


@pytest.mark.parametrize("states", [1, 2, 3, 7])
def test_any_number_of_states_and_odd_data(states: int) -> None:
    """Fewer and more states than values, a variable with one value, and values that never occur."""
    data = torch.tensor([[0, 1, 2, 0], [0, 0, 2, 0]]).repeat(5, 1)
    circuit, fit = learn_latent_tree(data, [1, 2, 5, 2], states=states, generator=seeded(0))
    pi = CircuitDistribution(circuit, fit.logits, validate_args=True)
    assert float(pi.log_prob(pi.enumerate_support()).exp().sum()) == pytest.approx(1.0)
    assert float(pi.log_prob(data[0])) > -1.5


def test_initial_logits_and_weights_are_used() -> None:
    rows, cards = hidden_classes(200, seeded(5))
    circuit = learn_latent_tree(rows, cards, states=2, options=FitOptions(epochs=0))[0]
    start = torch.randn(circuit.num_parameters, generator=seeded(6))
    options = FitOptions(epochs=0, initial=start)
    same, fit = learn_latent_tree(rows, cards, states=2, options=options)
    given = CircuitDistribution(circuit, start.double())
    torch.testing.assert_close(CircuitDistribution(same, fit.logits).log_prob(rows), given.log_prob(rows))
    repeats = torch.randint(0, 3, (200,), generator=seeded(7))
    options = FitOptions(epochs=5)
    weighted = learn_latent_tree(rows, cards, states=2, weights=repeats, options=options, generator=seeded(8))[1]
    plain = learn_latent_tree(rows.repeat_interleave(repeats, 0), cards, states=2, options=options, generator=seeded(8))
    torch.testing.assert_close(weighted.logits, plain[1].logits)


def test_bad_input_is_named() -> None:
    data = torch.tensor([[0, 1], [1, 0]])
    with pytest.raises(StructureError, match="learn_latent_tree states is 0"):
        learn_latent_tree(data, [2, 2], states=0)
    with pytest.raises(EvidenceError, match=r"learn_latent_tree needs complete data.*expectation_maximization"):
        learn_latent_tree(torch.tensor([[0, -1]]), [2, 2])
    with pytest.raises(EvidenceError, match="with 3 variables"):
        learn_latent_tree(data, [2, 2, 2])
    with pytest.raises(StructureError, match="initial logits have shape"):
        learn_latent_tree(data, [2, 2], options=FitOptions(initial=torch.zeros(3)))


@pytest.mark.parametrize("module", ["structures.latent_tree", "learning.latent_tree"])
def test_examples_in_docstrings_run(module: str) -> None:
    cases = doctest.DocTestFinder().find(importlib.import_module(f"circuits.{module}"))
    results = [doctest.DocTestRunner().run(case) for case in cases]
    assert sum(result.attempted for result in results) >= 2
    assert not any(result.failed for result in results)
