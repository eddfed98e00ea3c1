"""Cutset conditioning: fix a few variables, eliminate the rest for each of their assignments, and combine."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from circuits.errors import NotTractableError, StructureError
from circuits.variables import as_tuple
from factor_q.elimination.fix import fix, fixed_graph
from factor_q.elimination.ordering import Order, checked_order, elimination_cliques, table_size
from factor_q.elimination.plan import amount, peak
from factor_q.graph import FactorGraph, Scope
from factor_q.tables import AnyTables, Tables

Cutset = Sequence[int] | Literal["auto"] | None
"""Variables to fix, or "auto" for those of `choose_cutset` where elimination alone would exceed its limit."""

Held = Callable[[FactorGraph, Order, int], int]
"""The entries that a query of a graph, by an order and for a number of batch rows, holds at once."""

DEFAULT_MAX_ASSIGNMENTS = 2**16


def choose_cutset(graph: FactorGraph, max_entries: int, batch: int = 1, order: Order = None) -> tuple[int, ...]:
    """Return variables that, once fixed, leave tables that elimination can hold.

    Greedy: of the variables in the largest joined table, take the one that, with a loop over its values, costs the
    least entries in all; then look at what is left. The loop over the assignments of the cutset is the price.

    Args:
        graph: the scopes.
        max_entries: most entries that elimination may hold at once for one assignment, all batch rows together.
        batch: number of batch rows.
        order: elimination order; None finds the best one anew after each choice.

    Returns:
        The variables in the order chosen; empty when elimination fits without. Not always the smallest such set.

    Raises:
        NotTractableError: even one assignment of all other variables does not fit.
        StructureError: order is not a permutation of the variables.
    Source: Dechter 1990 (cutset conditioning); Bidyuk & Dechter 2007 (w-cutsets by greedy choice).

    Example:
        >>> choose_cutset(FactorGraph([2] * 4, [(0, 1), (1, 2), (2, 3), (0, 3)]), max_entries=10)
        (3,)
    """
    found = find_cutset(graph, max_entries, batch=batch, order=order)
    if found is None:
        raise NotTractableError(
            f"choose_cutset: not even one assignment at a time of {graph} fits: {batch} batch rows need more than "
            f"max_entries = {amount(max_entries)}. Raise max_entries or use fewer rows at a time."
        )
    return found


def find_cutset(
    graph: FactorGraph,
    max_entries: int,
    *,
    batch: int = 1,
    order: Order = None,
    held: Held = peak,
    most: int | None = None,
) -> tuple[int, ...] | None:
    """Return a cutset as `choose_cutset` does, None where there is none of at most that many assignments."""
    ordered = checked_order(graph, order)
    cutset: list[int] = []
    while most is None or table_size(graph, cutset) <= most:
        reduced = fixed_graph(graph, tuple(cutset))
        # What is left is another graph: the order that was best before may now be far from it.
        if order is None:
            ordered = checked_order(reduced, None)
        if held(reduced, ordered, batch) <= max_entries:
            return tuple(cutset)
        cliques = elimination_cliques(reduced, ordered)
        entries = [table_size(reduced, clique) for clique in cliques]
        total = sum(entries)
        inside: Counter[int] = Counter()
        for clique, size in zip(cliques, entries, strict=True):
            inside.update(dict.fromkeys(clique, size))
        largest = cliques[max(range(len(cliques)), key=entries.__getitem__)] if cliques else ()
        candidates = [variable for variable in largest if reduced.cardinalities[variable] > 1]
        if not candidates:
            return None  # one assignment at a time, and still too many batch rows
        # The work of the loop over k values: the tables without the variable k times, those with it once.
        work = {v: reduced.cardinalities[v] * (total - inside[v]) + inside[v] for v in candidates}
        cutset.append(min(candidates, key=lambda v: (work[v], v)))
    return None


def resolve_cutset(
    factors: Tables, cutset: Cutset, order: Order, held: Held, *, max_entries: int, max_assignments: int
) -> Scope:
    """Return the variables to fix, () for none, after checking that the loop over their values is allowed."""
    graph, batch = factors.graph, math.prod(factors.batch_shape)
    if cutset is None or (cutset == "auto" and held(graph, order, batch) <= max_entries):
        return ()
    if isinstance(cutset, str):
        if cutset != "auto":
            raise StructureError(f"cutset is {cutset!r}, but it must be variables, 'auto' or None.")
        chosen = find_cutset(graph, max_entries, batch=batch, order=order, held=held, most=max_assignments)
        if chosen is None:
            raise NotTractableError(
                f"cutset='auto': no cutset of at most max_assignments = {amount(max_assignments)} assignments was "
                f"found for {graph} that lets the rest, with {batch} batch rows, fit into max_entries = "
                f"{amount(max_entries)}.\n    Raise one of the two, or use bounds: "
                "factor_q.weighted_mini_bucket and factor_q.maximize_elbo."
            )
    else:
        chosen = tuple(map(int, as_tuple(cutset, "cutset", "[0, 2]", StructureError)))
        unknown = [variable for variable in chosen if not 0 <= variable < graph.num_variables]
        if unknown or len(set(chosen)) != len(chosen):
            raise StructureError(
                f"cutset {list(chosen)} must name distinct variables from 0 to {graph.num_variables - 1}."
            )
    loops = table_size(graph, chosen)
    shown = ", ".join(map(str, chosen[:8])) + (", ..." if len(chosen) > 8 else "")
    if loops > max_assignments:
        raise NotTractableError(
            f"cutset conditioning on the {len(chosen)} variables {shown} would loop over "
            f"{amount(loops)} assignments; max_assignments is {amount(max_assignments)}.\n    Raise "
            "max_assignments (time grows with it) or max_entries (a smaller cutset then does), or use bounds: "
            "factor_q.weighted_mini_bucket and factor_q.maximize_elbo."
        )
    return chosen


def over_assignments(
    factors: AnyTables,
    cutset: Scope,
    query: Callable[[AnyTables], Tensor],
    held: Held,
    *,
    order: Order,
    max_entries: int,
) -> Tensor:
    """Answer a query for every assignment of the cutset, many at a time as far as `max_entries` allows.

    The query takes factors in which the fixed variables have a single value, and gives one number per batch row; it
    holds what `held` says. Where gradients are recorded, each part is forgotten after its answer and computed again in
    the backward pass. Returns shape (assignments, *batch), the last variable of the cutset changing fastest.
    """
    graph, batch = factors.graph, factors.batch_shape
    rows = math.prod(batch)
    loops = table_size(graph, cutset)
    each = max(1, held(fixed_graph(graph, cutset), order, max(rows, 1)))
    size = max(1, min(loops, max_entries // each))
    answers: list[Tensor] = []

    def part(flat: Tensor, values: Tensor) -> Tensor:
        # Assignments are one more batch axis, so that a part is one elimination.
        points = values.reshape(-1, *(1,) * len(batch), len(cutset))
        return query(fix(type(factors).from_flat(graph, flat), cutset, points, single=True))

    for start in range(0, loops, size):
        values = assignment_at(graph, cutset, torch.arange(start, min(start + size, loops), device=factors.device))
        # What autograd kept of every part would add up to the tables that the cutset was to avoid.
        if factors.records_gradients:
            answer = checkpoint(part, factors.flat, values, use_reentrant=False, preserve_rng_state=False)
            assert isinstance(answer, Tensor)
        else:
            answer = part(factors.flat, values)
        answers.append(answer)
    return torch.cat(answers)


def assignment_at(graph: FactorGraph, cutset: Scope, index: Tensor) -> Tensor:
    """Return the values of the cutset, shape (..., cutset), at positions in row-major order."""
    shape = tuple(graph.cardinalities[variable] for variable in cutset)
    return torch.stack(torch.unravel_index(index, shape), -1)
