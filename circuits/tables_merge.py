"""Make mixes of conditional tables smaller before they are computed: index work on plain arrays."""

import numpy as np


def merge_equal_sources(sources: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Let edges with the same source table share one product, when all sums do so in the same pattern.

    Args:
        sources: buffer rows, shape (sums, fan_in, entries).
        edges: parameters, shape (sums, fan_in).

    Returns:
        Sources (sums, distinct, entries) and edges (sums, distinct, edges each).
    """
    sums = len(sources)
    _, pattern = np.unique(sources[0], axis=0, return_inverse=True)
    pattern = pattern.reshape(-1)
    counts = np.bincount(pattern)
    if counts.max() == 1 or (counts != counts[0]).any():
        return sources, edges[:, :, None]
    order = np.argsort(pattern, kind="stable").reshape(len(counts), counts[0])
    grouped = sources[:, order]
    if (grouped != grouped[:, :, :1]).any():
        return sources, edges[:, :, None]
    return grouped[:, :, 0], edges[:, order.reshape(-1)].reshape(sums, *order.shape)


def drop_zeros(sources: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mix entry by entry, without the constant zeros, when every entry has equally many other sources.

    A region whose children fix a variable's value mixes indicators: then an entry is just the sum of some weights.

    Args:
        sources: buffer rows, shape (sums, distinct, entries).
        edges: parameters, shape (sums, distinct, edges each).

    Returns:
        Sources (sums * entries, fewer, 1) and edges (sums * entries, fewer, edges each), or the arguments.
    """
    useful = sources > 0
    counts = useful.sum(1)
    fewest = int(counts.min())
    if fewest == 0 or fewest == sources.shape[1] or (counts != fewest).any():
        return sources, edges
    sums, _, entries = sources.shape
    picked = np.argsort(~useful.transpose(0, 2, 1), axis=2, kind="stable")[:, :, :fewest]
    rows = np.arange(sums)[:, None, None]
    chosen = sources[rows, picked, np.arange(entries)[None, :, None]]
    return chosen.reshape(-1, fewest, 1), edges[rows, picked].reshape(sums * entries, fewest, -1)
