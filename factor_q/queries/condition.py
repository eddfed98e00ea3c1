"""Conditioning: the family is closed under it, so every other query works under evidence."""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from circuits.evidence import Evidence, EvidenceLike
from circuits.numerics import NEGATIVE_INFINITY
from factor_q.factors import Factors
from factor_q.graph import FactorGraph, Scope
from factor_q.layout import common_shape


def condition(factors: Factors, evidence: EvidenceLike) -> Factors:
    """Return the factors given evidence, over the same variables: f(u) + sum_i w_i(u_i).

    w is the log weight of the evidence: 0 allowed, -inf forbidden, anything between is soft. A variable with exactly
    one allowed value in every batch row is cut out of all scopes (its value may differ from row to row), which makes
    elimination cheaper; it keeps a table of its own, -inf at its other values. Tables whose scopes become equal
    are added.

    Args:
        factors: batch shape (*batch).
        evidence: see `circuits.Evidence.of`; its batch shape broadcasts with that of the factors.

    Returns:
        Factors with the broadcast batch shape. Differentiable in the entries and in soft evidence. Evidence that no
        assignment satisfies is no error here: the maximum and the log-partition function are then -inf.

    Raises:
        EvidenceError: malformed evidence.
        StructureError: the batch shapes do not broadcast.
    Cost: one gather of the entries that are left.

    Example:
        >>> from factor_q import FactorGraph
        >>> f = Factors(FactorGraph([2, 3], [(0, 1)]), [torch.arange(6.0).reshape(2, 3)])
        >>> given = condition(f, {1: 0})
        >>> given.scopes, given.max()[0].item()
        (((0,), (1,)), 3.0)
    """
    cardinalities = factors.cardinalities
    if not cardinalities:
        return factors
    weights = Evidence.of(evidence, cardinalities, dtype=factors.dtype, device=factors.device).log_weights
    own = _own_values(cardinalities, factors.device)
    allowed = (weights > NEGATIVE_INFINITY) & own
    rows = tuple(range(weights.ndim - 2))
    fixed = (allowed.sum(-1) == 1).all(rows) if rows else allowed.sum(-1) == 1
    touched = ((weights != 0) & own).any(-1)
    touched = touched.any(rows) if rows else touched
    if weights.requires_grad:
        touched = torch.ones_like(touched)
    chosen = tuple(fixed.nonzero().flatten().tolist())
    values = allowed.long().argmax(-1)[..., list(chosen)]
    named = tuple((touched | fixed).nonzero().flatten().tolist())
    return fix(factors, chosen, values) + _unaries(cardinalities, named, weights)


def fix(
    factors: Factors, variables: Scope, values: Int[Tensor, "*points variables"], *, single: bool = False
) -> Factors:
    """Cut variables out of all scopes at given values; the result does not depend on them any more.

    Args:
        factors: batch shape (*batch).
        variables: which ones.
        values: one value for each of them, shape (*points, variables); points broadcast with the batch.
        single: give the fixed variables a single value each, so that queries do not count the others.
    """
    if not variables:
        return factors
    batch = factors.batch_shape
    if values.ndim > 1:
        batch = common_shape([values.shape[:-1], batch], "values and factors")
    layout = _fixed_layout(factors.graph, variables, single, factors.device)
    flat = factors.flat
    if values.numel() == len(variables):
        kept = flat.index_select(-1, layout.base + _shift(layout, values.flatten())).expand(*batch, -1)
    else:
        positions = layout.base + _shift(layout, values)
        kept = flat.expand(*batch, -1).gather(-1, positions.expand(*batch, -1))
    if not layout.merges:
        return Factors.from_flat(layout.graph, kept)
    total = kept.new_zeros(*batch, layout.graph.num_entries).index_add(-1, layout.target, kept)
    return Factors.from_flat(layout.graph, total)


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
        positions = graph.offsets[i] + np.arange(math.prod(shape)).reshape(shape)
        positions = positions[tuple(0 if variable in place else slice(None) for variable in scope)]
        ordered = scopes[frozenset(kept)]
        base.append(positions.transpose([kept.index(variable) for variable in ordered]).ravel())
        target.append(offset[frozenset(kept)] + np.arange(positions.size))
        sizes.append(positions.size)

    def tensor(parts: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *parts])).to(device)

    # Without this a first call under inference mode would cache tensors that training cannot use.
    with torch.inference_mode(False):
        factor = torch.from_numpy(np.repeat(np.arange(graph.num_factors), sizes)).to(device)
        moves = torch.from_numpy(columns).to(device), torch.from_numpy(strides).to(device)
        merges = reduced.num_factors < graph.num_factors
        return _FixedLayout(reduced, tensor(base), factor, *moves, tensor(target), merges)


def _unaries(cardinalities: tuple[int, ...], variables: Scope, weights: Tensor) -> Factors:
    """Return one table per variable, read from log weights (*batch, n, max cardinality)."""
    graph, positions = _unary_layout(cardinalities, variables, weights.device)
    return Factors.from_flat(graph, weights.flatten(-2).index_select(-1, positions))


@lru_cache(maxsize=256)
def _unary_layout(cardinalities: tuple[int, ...], variables: Scope, device: torch.device) -> tuple[FactorGraph, Tensor]:
    longest = max(cardinalities)
    positions = [variable * longest + value for variable in variables for value in range(cardinalities[variable])]
    with torch.inference_mode(False):
        index = torch.tensor(positions, dtype=torch.long, device=device)
    return FactorGraph(cardinalities, [(variable,) for variable in variables]), index


@lru_cache(maxsize=256)
def _own_values(cardinalities: tuple[int, ...], device: torch.device) -> Tensor:
    """Return which entries of (n, max cardinality) are values that exist."""
    with torch.inference_mode(False):
        counts = torch.tensor(cardinalities, device=device).unsqueeze(-1)
        return torch.arange(max(cardinalities), device=device) < counts


def add_log_weights(factors: Factors, weights: Tensor) -> Factors:
    """Return f(u) + sum_i w_i(u_i) for log weights of shape (*batch, n, max cardinality); nothing is cut out."""
    return factors + _unaries(factors.cardinalities, tuple(range(len(factors.cardinalities))), weights)
