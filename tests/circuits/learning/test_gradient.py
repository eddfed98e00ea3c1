"""Gradient ascent: where it ends, and that it follows autograd."""

import numpy as np
import pytest
import torch

from circuits import CircuitDistribution
from circuits.learning import FitOptions, fit_gradient, maximum_likelihood
from circuits.structures import keep_set
from tests.circuits.learning.planted import hide, mixture
from tests.strategies import random_distribution, seeded


def test_gradient_reaches_the_closed_form() -> None:
    circuit = keep_set([2, 3, 2], labels=4)
    data = random_distribution(circuit, seeded(41)).sample(torch.Size([300]), generator=seeded(42))
    options = FitOptions(epochs=400, step_size=0.1, smoothing=30.0)
    fit = fit_gradient(circuit, data, options=options, generator=seeded(43))
    closed = maximum_likelihood(circuit, data, smoothing=30.0)
    torch.testing.assert_close(fit.logits.exp(), closed.exp(), atol=2e-3, rtol=0)


def test_gradient_follows_autograd() -> None:
    """One step of Adam has the sign of the gradient of the log-likelihood, as autograd through log_prob gives it."""
    circuit = mixture(2)
    data = random_distribution(circuit, seeded(51)).sample(torch.Size([40]), generator=seeded(52))
    logits = torch.randn(circuit.num_parameters, generator=seeded(53), dtype=torch.float64, requires_grad=True)
    CircuitDistribution(circuit, logits).log_prob(data).mean().backward()
    assert logits.grad is not None
    options = FitOptions(epochs=1, step_size=1e-4, initial=logits.detach())
    fit = fit_gradient(circuit, data, options=options)
    stepped = logits.detach() + 1e-4 * logits.grad.sign()
    expected = CircuitDistribution(circuit, stepped).log_weights
    torch.testing.assert_close(fit.logits, expected, atol=1e-8, rtol=0)
    assert fit.log_likelihoods[1] > fit.log_likelihoods[0]


@pytest.mark.full
def test_gradient_in_batches_with_missing_values_and_validation() -> None:
    circuit = mixture(2)
    true = CircuitDistribution(circuit, 2.0 * random_distribution(circuit, seeded(61)).logits)
    data = hide(true.sample(torch.Size([3_000]), generator=seeded(62)), 0.2, seeded(63))
    # The patience carries it over the plateau on which both components still are alike; some starts stay below the top.
    options = FitOptions(epochs=100, batch_size=500, step_size=0.1, patience=100)
    fits = [
        fit_gradient(circuit, data[:2_000], validation=data[2_000:], options=options, generator=seeded(seed))
        for seed in (64, 65, 66)
    ]
    fit = max(fits, key=lambda fit: max(fit.validation_log_likelihoods))
    everything = true.enumerate_support()
    log_true = true.log_prob(everything)
    found = CircuitDistribution(circuit, fit.logits).log_prob(everything)
    assert float((log_true.exp() * (log_true - found)).sum()) < 0.01
    assert fit.best_epoch == int(np.argmax(fit.validation_log_likelihoods))
