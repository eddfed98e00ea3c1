"""Goodness of fit with a known false-alarm rate."""

import numpy as np
from scipy import stats

LEVEL = 1e-6
"""False-alarm rate of one test: 500 tests raise one less than once in 2,000 runs."""


def chi_square(counts: np.ndarray, probabilities: np.ndarray, *, least: float = 20.0) -> float:
    """Return the p-value of observed counts against probabilities.

    Cells that expect fewer than `least` draws are merged, smallest first; a draw in a cell of probability zero gives 0.
    """
    counts, probabilities = counts.ravel().astype(float), probabilities.ravel()
    if counts[probabilities == 0].sum() > 0:
        return 0.0
    order = np.argsort(probabilities)
    expected = probabilities[order] / probabilities.sum() * counts.sum()
    merged: list[list[float]] = []
    waiting = [0.0, 0.0]
    for observed, wanted in zip(counts[order], expected, strict=True):
        waiting = [waiting[0] + observed, waiting[1] + wanted]
        if waiting[1] >= least:
            merged.append(waiting)
            waiting = [0.0, 0.0]
    if waiting[1] > 0 or waiting[0] > 0:
        last = merged.pop() if merged else [0.0, 0.0]
        merged.append([last[0] + waiting[0], last[1] + waiting[1]])
    if len(merged) < 2:
        return 1.0
    observed, wanted = np.array(merged).T
    statistic = ((observed - wanted) ** 2 / wanted).sum()
    return float(stats.chi2.sf(statistic, len(merged) - 1))


def counts_of(samples: np.ndarray, cards: tuple[int, ...]) -> np.ndarray:
    """Count joint values; samples have shape (draws, variables)."""
    flat = np.ravel_multi_index(tuple(samples.T), cards)
    return np.bincount(flat, minlength=int(np.prod(cards))).reshape(cards)
