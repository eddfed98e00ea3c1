"""The m best assignments, exactly."""

import math

import torch
from torch import Tensor

from circuits import Best
from circuits.errors import NotTractableError
from circuits.numerics import NEGATIVE_INFINITY
from circuits.shapes import check_count
from factor_q.elimination.memory import DEFAULT_MAX_ENTRIES, both_passes
from factor_q.elimination.ordering import Order
from factor_q.queries.condition import add_log_weights
from factor_q.queries.log_partition import log_partition
from factor_q.queries.max_marginals import max_marginals
from factor_q.queries.maximum import max_assignment
from factor_q.tables import Tables
from factor_q.temperature import check_entries

MOST_LISTED = 2**14
"""Assignments of one call: a minute or two of small passes."""


def m_best(factors: Tables, count: int, *, order: Order = None, max_entries: int = DEFAULT_MAX_ENTRIES) -> Best:
    """Return the `count` assignments of largest f and their values, best first.

    The assignments not yet listed are kept in parts, each with its best assignment known and listed. The
    max-marginals of a part say what its second-best value is and which value of which variable leads to it; that
    part is split by it in two. Batch rows go in lockstep.

    Args:
        factors: tables of any arity; -inf entries are forbidden.
        count: how many assignments, at least 1 and at most the number of possible ones.
        order: as in `factor_q.max_assignment`.
        max_entries: most table entries to hold at once, as in `factor_q.queries.marginals`; rows that do not fit
            together take turns.

    Returns:
        Values of the variables, shape (count, *batch, n), and values of f, shape (count, *batch), differentiable
        in the entries that they use. Among assignments whose values are equal up to rounding any may come first.

    Raises:
        ValueError: `count` is less than 1, or some batch row has fewer possible values; the message says how many.
        NotTractableError: the tables would exceed `max_entries`, or `count` is above 2^14; raised before any work.
        StructureError: order is not a permutation of the variables.
    Cost: per assignment two passes up and one pass down, of twice the batch rows.
    Source: Nilsson 1998; Yanover & Weiss 2004 (max-marginals find the best split).

    Example:
        >>> from factor_q import FactorGraph, Factors
        >>> f = Factors(FactorGraph([2, 2], [(0, 1)]), [torch.tensor([[0.0, 5.0], [1.0, 2.0]])])
        >>> values, value = m_best(f, 3)
        >>> values.tolist(), value.tolist()
        ([[0, 1], [1, 1], [1, 0]], [5.0, 2.0, 1.0])
    """
    check_count("m_best", count)
    check_entries(factors, "m_best")
    graph, batch = factors.graph, factors.batch_shape
    with torch.no_grad():
        _check_count(factors, count, order, max_entries)
        flat = factors.flat.detach().reshape(math.prod(batch), graph.num_entries)
        listed = _listed(Tables.from_flat(graph, flat), count, order, max_entries)
    values = listed.reshape(count, *batch, graph.num_variables)
    found = factors(values)
    # Rounding in the passes can swap assignments whose values are almost equal.
    found, places = found.sort(dim=0, descending=True, stable=True)
    return Best(values.take_along_dim(places.unsqueeze(-1), 0), found)


def _listed(factors: Tables, count: int, order: Order, max_entries: int) -> Tensor:
    """Return the assignments, shape (count, rows, n), for factors with one batch axis."""
    (rows,) = factors.batch_shape
    n, longest = factors.graph.num_variables, max(factors.cardinalities, default=0)
    value, first = max_assignment(factors, order=order, max_entries=max_entries)
    if count == 1 or not rows:
        return first.expand(count, rows, n)
    # By part and row: which values each variable may take, the assignment listed, the value of the best other one, and
    # the position (variable, value) in (n x k) that leads to it.
    allowed = torch.ones(count, rows, n, longest, dtype=torch.bool, device=factors.device)
    best = first.expand(count, rows, n).clone()
    second = value.new_full((count, rows), NEGATIVE_INFINITY)
    split = first.new_zeros(count, rows)
    second[0], split[0] = _second(factors, first, order, max_entries)
    row = torch.arange(rows, device=factors.device)
    for number in range(1, count):
        _, source = second.max(0)
        chosen = split[source, row].unsqueeze(-1)
        # The source keeps its listed assignment and loses the value of the split; the new part has only that value.
        rest = allowed[source, row].flatten(1)
        only = rest & ~(torch.arange(n * longest, device=row.device) // longest == chosen // longest)
        allowed[source, row] = rest.scatter(1, chosen, False).unflatten(1, (n, longest))
        allowed[number] = only.scatter(1, chosen, True).unflatten(1, (n, longest))
        both = torch.stack([allowed[source, row], allowed[number]])
        given = add_log_weights(factors, torch.where(both, 0.0, NEGATIVE_INFINITY).to(factors.dtype))
        new = Tables.from_flat(given.graph, given.flat[1])
        _, best[number] = max_assignment(new, order=order, max_entries=max_entries)
        listed = torch.cat([best[source, row], best[number]])
        values, places = _second(Tables.from_flat(given.graph, given.flat.flatten(0, 1)), listed, order, max_entries)
        second[source, row], second[number] = values.split(rows)
        split[source, row], split[number] = places.split(rows)
    return best


def _second(factors: Tables, best: Tensor, order: Order, max_entries: int) -> tuple[Tensor, Tensor]:
    """Return the largest max-marginal off the best assignments (rows, n), and its position in (n x k)."""
    one = Tables.from_flat(factors.graph, factors.flat[:1])
    size = max(1, max_entries // max(1, both_passes(one, order)))
    values, positions = [], []
    for flat, listed in zip(factors.flat.split(size), best.split(size), strict=True):
        reachable = max_marginals(Tables.from_flat(factors.graph, flat), order=order, max_entries=max_entries)
        others = reachable.scatter(-1, listed.unsqueeze(-1), NEGATIVE_INFINITY)
        value, position = others.flatten(-2).max(-1)
        values.append(value)
        positions.append(position)
    return torch.cat(values), torch.cat(positions)


def _check_count(factors: Tables, count: int, order: Order, max_entries: int) -> None:
    """Raise before any assignment is listed when there are fewer, or listing them would take hours."""
    # With 0 wherever an entry is allowed, the partition function counts the allowed assignments.
    flat = factors.flat.detach().double()
    allowed = flat.masked_fill(flat > NEGATIVE_INFINITY, 0.0)
    counted = log_partition(Tables.from_flat(factors.graph, allowed), order=order, max_entries=max_entries)
    possible = counted.exp().round()  # inf beyond 1e308, which is enough for any count
    if possible.numel() and count > (least := float(possible.min())):
        where = f" in batch row {int(possible.argmin())}" if possible.numel() > 1 else ""
        raise ValueError(
            f"m_best was asked for {count:,} assignments, but only {least:,.0f} are possible{where}; ask for no more "
            "than that, or allow more."
        )
    if count > MOST_LISTED:
        raise NotTractableError(
            f"m_best was asked for {count:,} assignments; each takes two passes of its own, so that more than "
            f"{MOST_LISTED:,} are refused. Ask for fewer, or sample."
        )
