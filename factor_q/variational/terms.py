"""The terms of the evidence lower bound taken apart: forbidden entries, and what each row and each weight is worth."""

from typing import NamedTuple

import torch
from torch import Tensor

from circuits.engine.layers import CompiledCircuit, ProductLayer
from circuits.engine.passes import flows, normalize
from circuits.engine.tables.run import tables_from
from circuits.numerics import NEGATIVE_INFINITY, entropy_term, logsumexp
from factor_q.factors import Factors


class Terms(NamedTuple):
    """The tables of Factors, entries first: finite numbers, and which entries are forbidden."""

    scopes: tuple[tuple[int, ...], ...]
    finite: Tensor
    """Shape (entries, *batch); 0 where forbidden."""
    forbidden: Tensor | None
    """1 where forbidden and 0 elsewhere, the same shape; None when nothing is."""

    def energy(self, tables: Tensor) -> Tensor:
        """Return the expectation of the finite part under joint tables (entries, *batch)."""
        return (tables * self.finite).sum(0)

    def violation(self, tables: Tensor) -> Tensor:
        """Return the probability on forbidden entries, added up: exactly zero when none is touched."""
        assert self.forbidden is not None
        return (tables * self.forbidden).sum(0)


def terms_of(factors: Factors) -> Terms:
    """Take the tables apart, so that 0 x inf never arises and 'forbidden' stays an exact statement."""
    flat = factors.flat.detach().movedim(-1, 0)
    forbidden = flat == NEGATIVE_INFINITY
    if not bool(forbidden.any()):
        return Terms(factors.scopes, flat, None)
    return Terms(factors.scopes, flat.masked_fill(forbidden, 0.0), forbidden.to(flat.dtype))


def bound(
    compiled: CompiledCircuit, terms: Terms, logits: Tensor, scale: Tensor | float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return E + H and scale * E + H for logits (parameters, *batch) of a deterministic circuit.

    Returns:
        The bound, without gradient, -inf where forbidden entries have mass; and the differentiable target of
        training, in which forbidden entries count nothing.
    """
    log_weights, weights = normalize(compiled, logits)
    used = flows(compiled, weights)
    tables = tables_from(compiled, terms.scopes, used, weights)
    energy = terms.energy(tables)
    entropy = (compiled.edge_sum.take(used) * entropy_term(log_weights, weights)).sum(0)
    exact = (energy + entropy).detach()
    if terms.forbidden is not None:
        exact = exact.masked_fill(terms.violation(tables.detach()) > 0, NEGATIVE_INFINITY)
    return exact, scale * energy + entropy


def row_values(compiled: CompiledCircuit, terms: Terms, weights: Tensor) -> Tensor:
    """Return what each row is worth, E + H of what lies below it, when every sum below chooses its weights anew.

    What a row decides by itself (the factors that it splits, given the tables below) is the slope of the energy in its
    flow. Products add that to their parts' values, and a sum over children of values v is worth logsumexp(v), the
    maximum of sum_j w_j (v_j - log w_j). The values of a row are right once the weights below are these maximisers, so
    repeating this from the bottom is a soft Bellman backup.

    Returns:
        Shape (rows, *batch); -inf where all that lies below touches forbidden entries.
    """
    with torch.enable_grad():
        used = flows(compiled, weights).detach().requires_grad_()
        tables = tables_from(compiled, terms.scopes, used, weights.detach())
        values = _slope(terms, tables, terms.energy(tables), used).clone()
    for layer in compiled.layers:
        own = values[layer.start : layer.stop]
        if isinstance(layer, ProductLayer):
            own += layer.left.take(values) + layer.right.take(values)
        else:
            own += logsumexp(layer.fold(layer.children.take(values)), 1)
    return values


def edge_values(compiled: CompiledCircuit, terms: Terms, logits: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    """Return the logits that maximise scale * E + H in the weights of any one region while the others stay.

    As a function of the weights w of one sum the target is flow * sum_e w_e (A_e - log w_e) + constant, where A_e is
    its slope in w_e with the entropies of the sums held fixed and only flows moving, divided by the sum's flow. So
    w = softmax(A) is the maximiser, for all sums over one region at once, because no two of them are used together.

    Returns:
        A, shape (parameters, *batch); -inf at edges that lead to forbidden entries, nan at sums that are not used.
    """
    log_weights, weights = normalize(compiled, logits.detach())
    with torch.enable_grad():
        free = weights.detach().requires_grad_()
        used = flows(compiled, free)
        tables = tables_from(compiled, terms.scopes, used, free)
        # Held fixed, entropies act through flows only; their own slope, log w + 1, is what the softmax then answers.
        held = entropy_term(log_weights, weights).detach()
        target = scale * terms.energy(tables) + (compiled.edge_sum.take(used) * held).sum(0)
        slope = _slope(terms, tables, target, free)
    flow = compiled.edge_sum.take(used.detach())
    return torch.where(flow > 0, slope / flow, torch.nan)


def _slope(terms: Terms, tables: Tensor, target: Tensor, of: Tensor) -> Tensor:
    """Return the slope of a target of the tables, -inf where what moves would reach forbidden entries."""
    (slope,) = torch.autograd.grad(target.sum(), of, retain_graph=terms.forbidden is not None)
    if terms.forbidden is None:
        return slope
    (touched,) = torch.autograd.grad(terms.violation(tables).sum(), of)
    # Any probability on a forbidden entry, however small, is worth -inf; the slope of the probability is positive
    # exactly there, and needs no threshold.
    return slope.masked_fill(touched > 0, NEGATIVE_INFINITY)
