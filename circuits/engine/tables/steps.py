"""The steps of a plan for joint tables, which `plan` writes and `run` carries out, and how mixes are made smaller."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from circuits.engine.layers import Rows


@dataclass(frozen=True)
class Mix:
    """Tables of sums: `rows[start + i * entries + a] = sum_u sum_g weight[edges[i, u, g]] * rows[sources[i, u, a]]`."""

    start: int
    stop: int
    sources: Rows
    edges: Rows


@dataclass(frozen=True)
class Total:
    """Tables that are sums of weights: `rows[start + i] = sum_g weight[edges[i, g]]`."""

    start: int
    stop: int
    edges: Rows


@dataclass(frozen=True)
class Outer:
    """Tables of products that split a part: `rows[start + i] = rows[left[i]] * rows[right[i]]`."""

    start: int
    stop: int
    left: Rows
    right: Rows


@dataclass(frozen=True)
class Contraction:
    """Splits of equal shape: flow rows (splits, C_left, C_right), table rows (splits, C, entries)."""

    flow: Rows
    missing: np.ndarray | None
    """Pairs of children that no product joins; their flow is zero. None when every pair exists."""
    left: Rows
    right: Rows


@dataclass(frozen=True)
class TablePlan:
    """All there is to know to compute the tables of some scopes."""

    num_rows: int
    flow_rows: Rows
    """Flows that contribute as they are: of the indicators, and of products that fix all variables of a factor."""
    steps: tuple[Total | Mix | Outer, ...]
    contractions: tuple[Contraction, ...]
    entries: Rows
    """For each contribution to the result: its row in (flow rows, one, contractions)."""
    repeats: Rows | None
    """For each contribution: the entry it adds to; None when there is one per entry, in order."""
    num_entries: int


def merge_equal(sources: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Let edges with the same source table share one product, when all sums do so in the same pattern.

    Args:
        sources: buffer rows, shape (sums, fan_in, entries).
        edges: parameters, shape (sums, fan_in).

    Returns:
        Sources (sums, distinct, entries) and edges (sums, distinct, edges each).
    """
    sums = len(sources)
    _, pattern = np.unique(sources[0], axis=0, return_inverse=True)
    pattern = pattern.reshape(-1)  # its shape depends on the version of numpy
    counts = np.bincount(pattern)
    if counts.max() == 1 or (counts != counts[0]).any():
        return sources, edges[:, :, None]
    # Stable, so that equal sources keep the order of their edges, and one index serves all sums of the job.
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
    useful = sources > 0  # row 0 is the constant zero
    counts = useful.sum(1)
    fewest = int(counts.min())
    if fewest == 0 or fewest == sources.shape[1] or (counts != fewest).any():
        return sources, edges
    sums, _, entries = sources.shape
    # Sorting by "is zero" puts the others in front without changing their order.
    picked = np.argsort(~useful.transpose(0, 2, 1), axis=2, kind="stable")[:, :, :fewest]
    rows = np.arange(sums)[:, None, None]
    chosen = sources[rows, picked, np.arange(entries)[None, :, None]]
    return chosen.reshape(-1, fewest, 1), edges[rows, picked].reshape(sums * entries, fewest, -1)


def totals_first(
    steps: Sequence[Mix | Outer], contractions: Sequence[Contraction], num_rows: int
) -> tuple[list[Total | Mix | Outer], list[Contraction]]:
    """Turn mixes of nothing but the constant 1 into totals of weights, and do all of one shape at once.

    They depend on no table, so they can move to the front, and with them their rows, behind the two constants.

    Args:
        steps: as planned; row 1 is the constant 1.
        contractions: what reads their rows.
        num_rows: of the buffer.
    """
    groups: dict[int, list[Mix]] = defaultdict(list)
    others: list[Mix | Outer] = []
    for step in steps:
        if isinstance(step, Mix) and step.sources.shape[1:] == (1, 1) and (step.sources.positions == 1).all():
            groups[step.edges.shape[2]].append(step)
        else:
            others.append(step)
    # Everything else keeps its order. Rows move with their steps, so every index into the buffer has to follow.
    moved = [step for group in groups.values() for step in group] + others
    order = np.concatenate([np.arange(2), *(np.arange(step.start, step.stop) for step in moved)])
    new_row = np.empty(num_rows, dtype=np.int64)
    new_row[order] = np.arange(num_rows)

    def renumbered(rows: Rows) -> Rows:
        return Rows(new_row[rows.positions].reshape(rows.shape))

    result: list[Total | Mix | Outer] = []
    for group in groups.values():
        edges = np.concatenate([step.edges.positions.reshape(-1, step.edges.shape[2]) for step in group])
        start = int(new_row[group[0].start])
        result.append(Total(start, start + len(edges), Rows(edges)))
    for step in others:
        start = int(new_row[step.start])
        place = {"start": start, "stop": start + step.stop - step.start}
        if isinstance(step, Mix):
            result.append(replace(step, **place, sources=renumbered(step.sources)))
        else:
            result.append(replace(step, **place, left=renumbered(step.left), right=renumbered(step.right)))
    return result, [replace(c, left=renumbered(c.left), right=renumbered(c.right)) for c in contractions]
