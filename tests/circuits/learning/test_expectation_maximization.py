"""EM: never falls, recovers what is known, with missing values and in batches."""

import numpy as np
import pytest
import torch

from circuits import Circuit, CircuitDistribution, EvidenceError, StructureError
from circuits.errors import ImpossibleEvidenceError
from circuits.learning import FitOptions, expectation_maximization, fit_gradient, maximum_likelihood
from circuits.structures import mean_field, tree
from tests import strategies
from tests.circuits.learning.planted import copies, hide, mean_log_prob, mixture
from tests.circuits.learning.test_maximum_likelihood import DETERMINISTIC
from tests.seeds import first_now
from tests.strategies import random_distribution, seeded


def log_prior(circuit: Circuit, logits: torch.Tensor, smoothing: float) -> float:
    slices = [circuit.parameters_of(node) for node in range(circuit.num_nodes)]
    return sum(smoothing * float(logits[s].mean()) for s in slices if s.stop > s.start)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("family", strategies.FAMILIES)
@pytest.mark.parametrize("seed", first_now(range(5), 0.4))
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_em_never_lowers_the_log_likelihood(family: str, seed: int, missing: float) -> None:
    generator = seeded(seed)
    circuit = strategies.circuit_of(family, 700 + seed)
    data = random_distribution(circuit, generator).sample(torch.Size([60]), generator=generator)
    data = hide(data, missing, generator)
    fit = expectation_maximization(circuit, data, options=FitOptions(epochs=30), generator=generator)
    assert (np.diff(fit.log_likelihoods) >= -1e-12).all()
    assert len(fit.log_likelihoods) == fit.best_epoch + 1


@pytest.mark.parametrize("seed", range(5))
def test_em_with_smoothing_never_lowers_likelihood_plus_prior(seed: int) -> None:
    circuit = mixture(3)
    data = hide(
        random_distribution(circuit, seeded(seed)).sample(torch.Size([50]), generator=seeded(seed)), 0.2, seeded(9)
    )
    objective = []
    for epochs in range(8):
        options = FitOptions(epochs=epochs, smoothing=2.0)
        fit = expectation_maximization(circuit, data, options=options, generator=seeded(seed))
        objective.append(50 * fit.log_likelihoods[-1] + log_prior(circuit, fit.logits, 2.0))
    assert (np.diff(objective) >= -1e-9).all()


@pytest.mark.parametrize("family", DETERMINISTIC)
@pytest.mark.parametrize("smoothing", [0.0, 1.5])
def test_one_step_of_em_is_the_closed_form_for_deterministic_circuits(family: str, smoothing: float) -> None:
    generator = seeded(4)
    circuit = strategies.circuit_of(family, 900)
    data = random_distribution(circuit, generator).sample(torch.Size([100]), generator=generator)
    weights = torch.rand(100, generator=generator)
    options = FitOptions(epochs=5, smoothing=smoothing)
    fit = expectation_maximization(circuit, data, weights=weights, options=options, generator=generator)
    assert fit.converged
    assert fit.best_epoch <= 2
    closed = maximum_likelihood(circuit, data, weights=weights, smoothing=smoothing)
    torch.testing.assert_close(fit.logits.exp(), closed.exp(), atol=1e-10, rtol=0)


def test_a_part_step_of_em_mixes_old_and_new_counts() -> None:
    """By hand: 10 rows, 8 zeros, from weights (1/2, 1/2): 10 (0.75 * 0.5 + 0.25 * 0.8) + 2 of 10 + 4."""
    data = torch.tensor([[0]] * 8 + [[1]] * 2)
    options = FitOptions(epochs=1, step_size=0.25, smoothing=4.0, initial=torch.zeros(2))
    fit = expectation_maximization(mean_field([2]), data, options=options)
    assert fit.logits.exp().tolist() == pytest.approx([7.75 / 14, 6.25 / 14])


def test_em_recovers_known_parameters_with_missing_values() -> None:
    """40,000 rows, 30 % hidden at random: every weight that matters comes back within 0.03 (five standard errors)."""
    circuit = tree([2, 3, 2, 2], [-1, 0, 1, 1])
    true = CircuitDistribution(circuit, 0.8 * random_distribution(circuit, seeded(11)).logits)
    data = hide(true.sample(torch.Size([40_000]), generator=seeded(12)), 0.3, seeded(13))
    fit = expectation_maximization(circuit, data, options=FitOptions(tolerance=1e-7), generator=seeded(14))
    assert fit.converged
    assert (fit.logits.exp() - true.weights).abs().max() < 0.03
    assert float(true.kl_divergence(CircuitDistribution(circuit, fit.logits))) < 1e-3


def test_em_recovers_a_mixture_in_batches_with_early_stopping() -> None:
    """Not deterministic, 20 % hidden; KL to the truth over all 32 joint values, in nats."""
    circuit = mixture(2)
    true = CircuitDistribution(circuit, 2.0 * random_distribution(circuit, seeded(21)).logits)
    data = hide(true.sample(torch.Size([8_000]), generator=seeded(22)), 0.2, seeded(23))
    options = FitOptions(epochs=30, batch_size=500, step_size=0.3, patience=5)
    seen: list[int] = []
    options = FitOptions(**{**options.__dict__, "progress": lambda epoch, *_: seen.append(epoch)})
    fit = expectation_maximization(
        circuit, data[:6_000], validation=data[6_000:], options=options, generator=seeded(24)
    )
    everything = true.enumerate_support()
    log_true = true.log_prob(everything)
    found = CircuitDistribution(circuit, fit.logits).log_prob(everything)
    assert float((log_true.exp() * (log_true - found)).sum()) < 0.01
    assert seen == list(range(len(fit.log_likelihoods)))
    assert fit.best_epoch == int(np.argmax(fit.validation_log_likelihoods))
    assert len(seen) == 31 or len(seen) == fit.best_epoch + 6 or fit.converged


def test_validation_stops_before_the_data_is_learned_by_heart() -> None:
    circuit = mixture(12, (3,) * 6)
    data = random_distribution(mixture(2, (3,) * 6), seeded(1)).sample(torch.Size([240]), generator=seeded(2))
    options = FitOptions(epochs=300, smoothing=0.05, patience=5)
    fit = expectation_maximization(circuit, data[:60], validation=data[60:], options=options, generator=seeded(3))
    assert len(fit.log_likelihoods) == fit.best_epoch + 6 < 301
    best = mean_log_prob(circuit, fit.logits, data[60:])
    assert best == pytest.approx(max(fit.validation_log_likelihoods))
    assert best > fit.validation_log_likelihoods[-1]


def test_em_starts_from_given_logits_and_repeats_with_a_generator() -> None:
    circuit = mixture(2)
    data = random_distribution(circuit, seeded(31)).sample(torch.Size([50]), generator=seeded(32))
    first, second = (expectation_maximization(circuit, data, generator=seeded(33)) for _ in range(2))
    assert first.log_likelihoods == second.log_likelihoods
    initial = torch.zeros(circuit.num_parameters)
    fit = expectation_maximization(circuit, data, options=FitOptions(initial=initial, epochs=0))
    torch.testing.assert_close(fit.logits, torch.full_like(fit.logits, np.log(0.5)))
    assert fit.log_likelihoods == (pytest.approx(5 * np.log(0.5)),)


@pytest.mark.parametrize("learn", [expectation_maximization, fit_gradient])
def test_impossible_rows_and_bad_options_are_named(learn) -> None:
    data = torch.tensor([[0, 0], [0, 1], [1, -1], [1, 0]])
    with pytest.raises(ImpossibleEvidenceError, match="data rows 1, 3 have probability zero"):
        learn(copies(), data)
    with pytest.raises(ImpossibleEvidenceError, match="validation rows 1, 3 have probability zero"):
        learn(copies(), data[:1], validation=data)
    with pytest.raises(StructureError, match=r"initial logits have shape \(3,\)"):
        learn(copies(), data[:1], options=FitOptions(initial=torch.zeros(3)))
    for bad in ({"epochs": -1}, {"patience": 0}, {"batch_size": 0}, {"step_size": 0.0}, {"tolerance": -1.0}):
        with pytest.raises(StructureError, match=next(iter(bad))):
            FitOptions(**bad)
    with pytest.raises(EvidenceError, match="smoothing is -1"):
        FitOptions(smoothing=-1.0)
    with pytest.raises(StructureError, match="step_size is 2.0"):
        expectation_maximization(copies(), data[:1], options=FitOptions(step_size=2.0))
