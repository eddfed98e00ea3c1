"""Conditioning: the family is closed under it, so every other query works under evidence."""

from functools import lru_cache

import torch
from torch import Tensor

from circuits.evidence import Evidence, EvidenceLike
from circuits.numerics import NEGATIVE_INFINITY
from factor_q.elimination.fix import fix
from factor_q.graph import FactorGraph, Scope
from factor_q.tables import AnyTables, Tables
from factor_q.temperature import require_factors


def condition(factors: AnyTables, evidence: EvidenceLike) -> AnyTables:
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
        >>> from factor_q import FactorGraph, Factors
        >>> f = Factors(FactorGraph([2, 3], [(0, 1)]), [torch.arange(6.0).reshape(2, 3)])
        >>> given = condition(f, {1: 0})
        >>> given.scopes, given.max()[0].item()
        (((0,), (1,)), 3.0)
    """
    require_factors(factors, "condition")
    cardinalities = factors.cardinalities
    if not cardinalities:
        return factors
    weights = Evidence.of(evidence, cardinalities, dtype=factors.dtype, device=factors.device).log_weights
    own = _own_values(cardinalities, factors.device)
    allowed = (weights > NEGATIVE_INFINITY) & own
    rows = tuple(range(weights.ndim - 2))
    # Cut out only where every row fixes the variable, else the rows would differ in their scopes.
    fixed = (allowed.sum(-1) == 1).all(rows) if rows else allowed.sum(-1) == 1
    touched = ((weights != 0) & own).any(-1)
    touched = touched.any(rows) if rows else touched
    # A soft weight of exactly 0 changes no value, but its gradient must still find a table to flow through.
    if weights.requires_grad:
        touched = torch.ones_like(touched)
    chosen = tuple(fixed.nonzero().flatten().tolist())
    values = allowed.long().argmax(-1)[..., list(chosen)]
    named = tuple((touched | fixed).nonzero().flatten().tolist())
    return fix(factors, chosen, values) + _unaries(cardinalities, named, weights)


def _unaries(cardinalities: tuple[int, ...], variables: Scope, weights: Tensor) -> Tables:
    """Return one table per variable, read from log weights (*batch, n, max cardinality)."""
    graph, positions = _unary_layout(cardinalities, variables, weights.device)
    return Tables.from_flat(graph, weights.flatten(-2).index_select(-1, positions))


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


def add_log_weights(factors: AnyTables, weights: Tensor) -> AnyTables:
    """Return f(u) + sum_i w_i(u_i) for log weights of shape (*batch, n, max cardinality); nothing is cut out."""
    return factors + _unaries(factors.cardinalities, tuple(range(len(factors.cardinalities))), weights)
