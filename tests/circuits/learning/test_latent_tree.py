"""Latent trees from data with hidden causes."""

import pytest
import torch

from circuits import CircuitDistribution, EvidenceError, StructureError
from circuits.learning import FitOptions, chow_liu_tree, expectation_maximization, learn_latent_tree
from tests.circuits.learning.planted import hidden_classes
from tests.strategies import seeded


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
