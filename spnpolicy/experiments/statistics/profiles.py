"""Comparisons of whole distributions of scores: who is better how often, and who reaches how much."""

import numpy as np
from jaxtyping import Float

from spnpolicy.experiments.statistics.bootstrap import Resampled


def probability_of_improvement(first: Resampled, second: Resampled) -> Float[np.ndarray, " batch"]:
    """Return how probable it is that a run of the first algorithm scores more than one of the second, on a random task.

    Every run is compared with every run of the other algorithm, a tie counting one half, and tasks count the same.

    Args:
        first: for each task the scores of the first algorithm, [batch, runs].
        second: those of the second, the same tasks in the same order.

    Returns:
        Between 0 and 1; 1/2 where neither is better.

    Source: Agarwal et al. 2021; within a task it is Mann and Whitney's U over the number of pairs.
    """
    return np.mean([_share_won(*pair) for pair in zip(first, second, strict=True)], axis=0)


def performance_profile(
    tasks: Resampled, thresholds: Float[np.ndarray, " thresholds"]
) -> Float[np.ndarray, "batch thresholds"]:
    """Return the share of runs that score more than each threshold, averaged over tasks.

    One algorithm is better than another in every respect where its profile is nowhere lower.

    Args:
        tasks: for each task the scores, [batch, runs].
        thresholds: scores to reach, in rising order.

    Source: Agarwal et al. 2021 (run-score distributions).
    """
    return np.mean([_share_above(task, thresholds) for task in tasks], axis=0)


def _share_won(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    won = first[:, :, None] > second[:, None, :]
    tied = first[:, :, None] == second[:, None, :]
    return (won + 0.5 * tied).mean(axis=(1, 2))


def _share_above(task: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    # One threshold at a time: all at once would need memory for resamples x runs x thresholds.
    return np.stack([(task > threshold).mean(axis=1) for threshold in thresholds], axis=-1)
