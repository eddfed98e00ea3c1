"""The steps of a plan for joint tables: what `tables_plan` writes and `tables` carries out."""

from dataclasses import dataclass

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
