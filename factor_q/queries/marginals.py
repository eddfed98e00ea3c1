"""Marginals of the Boltzmann distribution: of every variable at once, and joint tables of chosen variables."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.numerics import logsumexp, posterior
from circuits.queries.marginal import check_variables
from factor_q.elimination.memory import DEFAULT_MAX_ENTRIES, both_passes, check_memory
from factor_q.elimination.ordering import Order
from factor_q.elimination.passes import SUM_PRODUCT, by_variable, upward
from factor_q.elimination.plan import make_plan, peak, sizes
from factor_q.tables import Tables
from factor_q.temperature import Temperature, check_possible, tempered


def marginals(
    factors: Tables, temperature: Temperature = 1.0, *, order: Order = None, max_entries: int = DEFAULT_MAX_ENTRIES
) -> Float[Tensor, "*batch variables values"]:
    """Return P(u_i = x) under P(u) = exp(f(u) / temperature) / Z, for every variable and value.

    Args:
        factors: tables of any arity; -inf entries are forbidden.
        temperature: positive and finite; one number, or a tensor that broadcasts to one per batch row.
        order: as in `factor_q.log_partition`.
        max_entries: most table entries to hold at once, all batch rows together: all messages up and down, and
            three joined tables; with gradients four of every joined table.

    Returns:
        Shape (*batch, n, max cardinality), zero beyond a variable's own values. Differentiable.

    Raises:
        NotTractableError: the tables would exceed `max_entries`; raised before they are made.
        ImpossibleEvidenceError: every assignment of a batch row is forbidden; the message names the rows.
        StructureError: the temperature is not positive, or order is not a permutation of the variables.
    Cost: one pass up and one pass down, O(n k^(width + 1)) per batch row.
    Source: Koller & Friedman 2009, section 10.2 (belief propagation in a clique tree, here a bucket tree).

    Example:
        >>> from factor_q import FactorGraph, Factors
        >>> f = Factors(FactorGraph([2, 2], [(0, 1)]), [torch.tensor([[0.0, 0.0], [-torch.inf, 0.0]])])
        >>> [[round(p, 3) for p in row] for row in marginals(f).tolist()]
        [[0.667, 0.333], [0.333, 0.667]]
    """
    cooled = tempered(factors, temperature, "marginals")
    check_memory(cooled, order, both_passes(cooled, order), max_entries)
    plan = make_plan(cooled.graph, order)
    up = upward(plan, cooled.flat, SUM_PRODUCT.up, keep=True)
    check_possible(up.root.reshape(cooled.batch_shape), "marginals")
    found = by_variable(plan, up, SUM_PRODUCT, torch.ones_like(up.root))
    # The logarithms carry rounding errors of their magnitude; what is left of them goes into the total.
    found = found / found.sum(1, keepdim=True)
    return found.movedim(-1, 0).reshape(*cooled.batch_shape, *found.shape[:2])


def marginal(
    factors: Tables,
    variables: Sequence[int],
    temperature: Temperature = 1.0,
    *,
    order: Order = None,
    max_entries: int = DEFAULT_MAX_ENTRIES,
) -> Float[Tensor, "..."]:
    """Return the joint table of some variables under P(u) = exp(f(u) / temperature) / Z.

    All other variables are summed away.

    Args:
        factors: tables of any arity; -inf entries are forbidden.
        variables: distinct variables; the table's axes follow their order.
        temperature: positive and finite; one number, or a tensor that broadcasts to one per batch row.
        order: as in `factor_q.log_partition`; the chosen variables are taken out of it.
        max_entries: most table entries to hold at once, all batch rows together, the result among them.

    Returns:
        Shape (*batch, k_a, k_b, ...), summing to one. Differentiable.

    Raises:
        EvidenceError: a variable does not exist or is named twice.
        NotTractableError: the tables would exceed `max_entries`; raised before they are made.
        ImpossibleEvidenceError: every assignment of a batch row is forbidden; the message names the rows.
        StructureError: the temperature is not positive, or order is not a permutation of the variables.
    Cost: one pass up with the chosen variables in every message that they reach.
    Source: Koller & Friedman 2009, section 9.3.
    """
    cooled = tempered(factors, temperature, "marginal")
    kept = check_variables(variables, cooled.graph.num_variables)
    graph, batch = cooled.graph, math.prod(cooled.batch_shape)
    records = cooled.records_gradients
    needed = sizes(graph, order, kept).total * batch if records else peak(graph, order, batch, kept)
    check_memory(cooled, order, needed, max_entries, kept=kept)
    root = upward(make_plan(graph, order, kept), cooled.flat, SUM_PRODUCT.up).root
    joint = root.flatten(0, -2) if root.ndim > 1 else root.unsqueeze(0)
    total = logsumexp(joint, 0)
    check_possible(total.reshape(cooled.batch_shape), "marginal")
    shape = tuple(graph.cardinalities[variable] for variable in kept)
    return posterior(joint, total).t().reshape((*cooled.batch_shape, *shape))
