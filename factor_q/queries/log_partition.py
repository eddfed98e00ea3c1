"""The log-partition function, exactly."""

import math

from jaxtyping import Float
from torch import Tensor

from circuits.numerics import NEGATIVE_INFINITY, logsumexp
from factor_q.elimination.cutset import DEFAULT_MAX_ASSIGNMENTS, Cutset, Held, over_assignments, resolve_cutset
from factor_q.elimination.memory import DEFAULT_MAX_ENTRIES, check_memory
from factor_q.elimination.ordering import Order
from factor_q.elimination.passes import SUM_PRODUCT, upward
from factor_q.elimination.plan import make_plan, peak, sizes
from factor_q.elimination.triangle import log_partition as by_products
from factor_q.elimination.triangle import triangle_of
from factor_q.graph import FactorGraph
from factor_q.tables import Tables
from factor_q.temperature import Temperature, tempered


def log_partition(
    factors: Tables,
    temperature: Temperature = 1.0,
    *,
    order: Order = None,
    max_entries: int = DEFAULT_MAX_ENTRIES,
    cutset: Cutset = None,
    max_assignments: int = DEFAULT_MAX_ASSIGNMENTS,
) -> Float[Tensor, "*batch"]:
    """Return log sum_u exp(f(u) / temperature), the log-partition function.

    Its gradient with respect to a table is the marginal distribution of that table's variables under the
    Boltzmann distribution, divided by the temperature.

    Args:
        factors: tables of any arity; -inf entries are forbidden.
        temperature: positive and finite; one number, or a tensor that broadcasts to one per batch row.
        order: elimination order, a permutation of the variables or the name of a heuristic; None uses
            `elimination_order`.
        max_entries: most table entries to hold at once, all batch rows together. Without gradients the live
            messages and a slice of a joined table count, with them every joined table; where these do not fit,
            only the messages are held and each joined table is made again in the backward pass.
        cutset: variables to fix one assignment after the other, which makes the rest narrower; "auto" chooses
            them where elimination alone would not fit. With gradients each part is computed again.
        max_assignments: most assignments of the cutset to loop over.

    Returns:
        Nats, shape (*batch,), differentiable. When every assignment is forbidden: -inf, with zero gradient.

    Raises:
        NotTractableError: the tables would exceed `max_entries`, or the loop `max_assignments`; raised before work.
        StructureError: the temperature is not positive, order is not a permutation of the variables, or the cutset
            not a set of them.
    Cost: O(n k^(width + 1)) per batch row, of the narrower rest for each assignment of a cutset. Where many variables
        meet and no order is given, as many multiplications of matrices but only O(k^(2n/3)) entries.
    Source: Koller & Friedman 2009, sections 9.3 and 9.5; Williams 2005 for the products.

    Example:
        >>> import torch
        >>> from factor_q import FactorGraph, Factors
        >>> f = Factors(FactorGraph([2, 2], [(0, 1)]), [torch.zeros(2, 2)])
        >>> round(log_partition(f).exp().item(), 4)
        4.0
    """
    cooled = tempered(factors, temperature, "log_partition")
    held = _held(max_entries, cooled.records_gradients)
    fixed = resolve_cutset(cooled, cutset, order, held, max_entries=max_entries, max_assignments=max_assignments)

    def part(slices: Tables) -> Tensor:
        return _solve(slices, order, max_entries, held)

    if not fixed:
        return part(cooled)
    return logsumexp(over_assignments(cooled, fixed, part, held, order=order, max_entries=max_entries), 0)


def _held(max_entries: int, with_gradients: bool) -> Held:
    """Return what is held: with gradients every joined table or, where these exceed the limit, the messages."""

    def held(graph: FactorGraph, order: Order, batch: int) -> int:
        triangle = triangle_of(graph) if order is None else None
        if triangle is not None:
            return triangle.held(batch, with_gradients)
        if not with_gradients:
            return peak(graph, order, batch)
        size = sizes(graph, order)
        whole, again = size.total * batch, (size.messages + 3 * size.largest) * batch
        return whole if whole <= max_entries else min(whole, again)

    return held


def _solve(factors: Tables, order: Order, max_entries: int, held: Held) -> Tensor:
    """Return the log-partition function at temperature 1."""
    graph = factors.graph
    check_memory(factors, order, held(graph, order, math.prod(factors.batch_shape)), max_entries)
    triangle = triangle_of(graph) if order is None else None
    if triangle is None:
        return _eliminate(factors, order, max_entries)

    def slow(rows: Tensor) -> Tensor:
        return _eliminate(Tables.from_flat(graph, rows), order, max_entries)

    return by_products(triangle, factors.flat.reshape(-1, graph.num_entries), slow).reshape(factors.batch_shape)


def _eliminate(factors: Tables, order: Order, max_entries: int) -> Tensor:
    graph, batch = factors.graph, math.prod(factors.batch_shape)
    recompute = factors.records_gradients and sizes(graph, order).total * batch > max_entries
    up = upward(make_plan(graph, order), factors.flat, SUM_PRODUCT.up, recompute=recompute)
    total = up.root.reshape(factors.batch_shape)
    # One impossible part of a disconnected graph makes a row impossible: its other parts get no gradient either.
    return total.masked_fill(total == NEGATIVE_INFINITY, NEGATIVE_INFINITY)
