"""Bundles: tables of one shape stacked, each seen from one of its sides; what makes message passing one tensor step."""

from collections.abc import Iterable
from math import prod
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factor_q.graph import FactorGraph


class View(NamedTuple):
    """One table, with its axes gathered into sides; the first side is the one that receives a message."""

    factor: int
    """Which table."""
    sides: tuple[tuple[int, ...], ...]
    """The axes of each side; every axis of the table is in exactly one."""
    starts: tuple[int, ...]
    """Where the numbers of each side begin in the vector of messages or marginals."""


class Bundle(NamedTuple):
    """Views of equal shape (target, other, other, ...)."""

    shape: tuple[int, ...]
    """Joint values of each side."""
    entries: Int[Tensor, "views entries"]
    """Where the table of each view lies in `flat`, target side first."""
    sides: tuple[Int[Tensor, "views values"], ...]
    """Where the numbers of each side lie in the vector."""

    def tables(self, flat: Float[Tensor, "*batch all"]) -> Float[Tensor, "..."]:
        """Return the tables, shape (*batch, views, *shape)."""
        return take(flat, self.entries).unflatten(-1, self.shape)


class BundledTables(NamedTuple):
    """A bundle with its numbers; forbidden entries are told apart, because 0 x -inf must count as 0."""

    bundle: Bundle
    finite: Float[Tensor, "..."]
    """The tables, 0 where forbidden; shape (*batch, views, *shape)."""
    forbidden: Float[Tensor, "..."] | None
    """1 where forbidden and 0 elsewhere; None when nothing is."""


def take(vector: Float[Tensor, "*batch numbers"], positions: Int[Tensor, "rows columns"]) -> Float[Tensor, "..."]:
    """Return vector[..., positions], shape (*batch, rows, columns)."""
    return vector.index_select(-1, positions.flatten()).unflatten(-1, tuple(positions.shape))


def make_bundles(graph: FactorGraph, views: Iterable[View], device: torch.device) -> tuple[Bundle, ...]:
    """Stack views of equal shape."""
    groups: dict[tuple[int, ...], list[tuple[Tensor, tuple[int, ...]]]] = {}
    orders: dict[tuple[object, ...], Tensor] = {}
    for view in views:
        table = graph.table_shapes[view.factor]
        shape = tuple(prod(table[axis] for axis in side) for side in view.sides)
        if (table, view.sides) not in orders:
            axes = [axis for side in view.sides for axis in side]
            orders[table, view.sides] = torch.arange(prod(table)).reshape(table).permute(axes).flatten()
        entries = orders[table, view.sides] + graph.offsets[view.factor]
        groups.setdefault(shape, []).append((entries, view.starts))
    # Without this a first call under inference mode would cache tensors that training cannot use.
    with torch.inference_mode(False):
        return tuple(_bundle(shape, members, device) for shape, members in groups.items())


def split_forbidden(bundle: Bundle, flat: Float[Tensor, "*batch all"], any_forbidden: bool) -> BundledTables:
    """Gather the tables of a bundle and tell forbidden entries apart."""
    tables = bundle.tables(flat)
    if not any_forbidden:
        return BundledTables(bundle, tables, None)
    forbidden = tables == -torch.inf
    return BundledTables(bundle, tables.masked_fill(forbidden, 0.0), forbidden.to(flat.dtype))


def _bundle(shape: tuple[int, ...], members: list[tuple[Tensor, tuple[int, ...]]], device: torch.device) -> Bundle:
    entries = torch.stack([entries for entries, _ in members]).to(device)
    starts = torch.tensor([starts for _, starts in members], dtype=torch.long).reshape(len(members), len(shape))
    sides = tuple((starts[:, j, None] + torch.arange(size)).to(device) for j, size in enumerate(shape))
    return Bundle(shape, entries, sides)
