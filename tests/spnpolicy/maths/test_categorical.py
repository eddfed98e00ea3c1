"""Masked categorical policies: exact numbers, finite gradients, samples from the right distribution."""

import math

import numpy as np
import torch
from scipy import stats

from spnpolicy.maths import categorical

LOGITS = torch.tensor([[0.3, -1.2, 2.0, 0.1], [5.0, 0.0, -3.0, 1.0]], dtype=torch.float64)
MASK = torch.tensor([[True, False, True, True], [False, True, False, False]])


def test_probabilities_entropy_and_means_are_those_of_the_allowed_actions():
    log_probs = categorical.masked_log_probs(LOGITS, MASK)
    weights = np.exp(LOGITS.numpy()) * MASK.numpy()
    expected = weights / weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(log_probs.exp(), expected, atol=1e-15)
    assert (log_probs[~MASK] == -math.inf).all()
    entropy = [-sum(p * math.log(p) for p in row if p > 0) for row in expected]
    np.testing.assert_allclose(categorical.entropy(log_probs), entropy, atol=1e-14)
    values = torch.arange(8.0, dtype=torch.float64).reshape(2, 4).masked_fill(~MASK, -torch.inf)
    means = [
        sum(p * v for p, v in zip(row, vs, strict=True) if p > 0) for row, vs in zip(expected, values, strict=True)
    ]
    np.testing.assert_allclose(categorical.expected(log_probs, values), means, atol=1e-14)


def test_gradients_are_finite_and_right_under_masks():
    def total(logits):
        log_probs = categorical.masked_log_probs(logits, MASK)
        return categorical.entropy(log_probs).sum() + log_probs[MASK].sum()

    logits = LOGITS.clone().requires_grad_()
    total(logits).backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[~MASK] == 0.0).all()
    assert torch.autograd.gradcheck(total, (LOGITS.clone().requires_grad_(),))


def test_samples_follow_the_probabilities():
    """Chi-square at a false-alarm rate of 1e-6; forbidden actions never."""
    log_probs = categorical.masked_log_probs(LOGITS, MASK)
    drawn = categorical.sample(log_probs.expand(20_000, 2, 4), torch.Generator().manual_seed(0))
    assert (drawn[:, 1] == 1).all()
    counts = np.bincount(drawn[:, 0], minlength=4)
    assert counts[1] == 0
    allowed = MASK[0].numpy()
    expected = log_probs[0].exp().numpy()[allowed] * len(drawn)
    assert stats.chisquare(counts[allowed], expected).pvalue > 1e-6
