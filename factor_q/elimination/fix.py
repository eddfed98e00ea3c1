"""Fixing variables: cut them out of all scopes at given values."""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from circuits.shapes import common_shape
from factor_q.graph import FactorGraph, Scope
from factor_q.tables import AnyTables


def fix(
    factors: AnyTables, variables: Scope, values: Int[Tensor, "*points variables"], *, single: bool = False
) -> AnyTables:
    """Cut variables out of all scopes at given values; the result does not depend on them any more.

    Values have shape (*points, variables), whose points broadcast with the batch. `single` leaves the fixed variables
    one value each, so that queries do not count the others.
    """
    if not variables:
        return factors
    batch = factors.batch_shape
    if values.ndim > 1:
        batch = common_shape([values.shape[:-1], batch], "values and factors")
    layout = _fixed_layout(factors.graph, variables, single, factors.device)
    flat = factors.flat
    # One value for all rows moves the entries alike: a plain selection, without positions for every row.
    if values.numel() == len(variables):
        kept = flat.index_select(-1, layout.base + _shift(layout, values.flatten())).expand(*batch, -1)
    else:
        positions = layout.base + _shift(layout, values)
        kept = flat.expand(*batch, -1).gather(-1, positions.expand(*batch, -1))
    if not layout.merges:
        return type(factors).from_flat(layout.graph, kept)
    # A scope may name a set of variables once only, so tables whose scopes have become equal are added.
    total = kept.new_zeros(*batch, layout.graph.num_entries).index_add(-1, layout.target, kept)
    return type(factors).from_flat(layout.graph, total)


@lru_cache(maxsize=256)
def fixed_graph(graph: FactorGraph, variables: Scope, *, single: bool = True) -> FactorGraph:
    """Return the graph without some variables in its scopes; `single` leaves them one value each."""
    fixed = frozenset(variables)
    unique: dict[frozenset[int], Scope] = {}
    for scope in graph.scopes:
        left = tuple(variable for variable in scope if variable not in fixed)
        unique.setdefault(frozenset(left), left)
    cardinalities = [1 if single and variable in fixed else k for variable, k in enumerate(graph.cardinalities)]
    return FactorGraph(cardinalities, unique.values()) if variables else graph


class _FixedLayout(NamedTuple):
    """Where the entries that are left come from and go to."""

    graph: FactorGraph
    base: Tensor
    """Position of each kept entry in the old tables, as if the fixed variables had value 0."""
    factor: Tensor
    """The factor of each kept entry."""
    columns: Tensor
    """Row j: for each factor the j-th of its fixed variables, as a position among them."""
    strides: Tensor
    """Row j: the step of that variable in the table, 0 for factors that have fewer."""
    target: Tensor
    """Position of each kept entry in the new tables."""
    merges: bool
    """Whether tables are added."""


def _shift(layout: _FixedLayout, values: Tensor) -> Tensor:
    """Return how far the values of the fixed variables move each kept entry, shape (*points, entries)."""
    steps = values.new_zeros(*values.shape[:-1], layout.columns.shape[-1])
    for columns, strides in zip(layout.columns, layout.strides, strict=True):
        steps = steps + values.index_select(-1, columns) * strides
    return steps.index_select(-1, layout.factor)


@lru_cache(maxsize=256)
def _fixed_layout(graph: FactorGraph, variables: Scope, single: bool, device: torch.device) -> _FixedLayout:
    place = {variable: i for i, variable in enumerate(variables)}
    left = [tuple(variable for variable in scope if variable not in place) for scope in graph.scopes]
    reduced = fixed_graph(graph, variables, single=single)
    scopes = {frozenset(scope): scope for scope in reduced.scopes}
    offset = dict(zip(scopes, reduced.offsets, strict=True))
    arity = max((len(scope) - len(kept) for scope, kept in zip(graph.scopes, left, strict=True)), default=0)
    columns = np.zeros((arity, graph.num_factors), np.int64)
    strides = np.zeros((arity, graph.num_factors), np.int64)
    base, target, sizes = [], [], []
    for i, (scope, shape, kept) in enumerate(zip(graph.scopes, graph.table_shapes, left, strict=True)):
        fixed = [axis for axis, variable in enumerate(scope) if variable in place]
        columns[: len(fixed), i] = [place[scope[axis]] for axis in fixed]
        strides[: len(fixed), i] = [math.prod(shape[axis + 1 :]) for axis in fixed]
        # Positions as if every fixed variable had value 0; other values add value x stride, by `_shift`.
        positions = graph.offsets[i] + np.arange(math.prod(shape)).reshape(shape)
        positions = positions[tuple(0 if variable in place else slice(None) for variable in scope)]
        # The table that it is added to may have its axes in another order.
        ordered = scopes[frozenset(kept)]
        base.append(positions.transpose([kept.index(variable) for variable in ordered]).ravel())
        target.append(offset[frozenset(kept)] + np.arange(positions.size))
        sizes.append(positions.size)

    empty = np.zeros(0, np.int64)
    factor = np.repeat(np.arange(graph.num_factors), sizes)
    arrays = np.concatenate([empty, *base]), factor, columns, strides, np.concatenate([empty, *target])
    # Without this a first call under inference mode would cache tensors that training cannot use.
    with torch.inference_mode(False):
        tensors = [torch.from_numpy(array).to(device) for array in arrays]
    return _FixedLayout(reduced, *tensors, merges=reduced.num_factors < graph.num_factors)
