"""Exact samples of the Boltzmann distribution: one pass up, then the variables in reverse, each given the last."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from circuits.numerics import choose, shifted_exp
from circuits.shapes import check_sample_shape
from factor_q.elimination.memory import DEFAULT_MAX_ENTRIES, check_memory
from factor_q.elimination.ordering import Order
from factor_q.elimination.passes import SUM_PRODUCT, Upward, aligned, upward
from factor_q.elimination.plan import SLICE, Plan, Step, make_plan, sizes
from factor_q.elimination.triangle import sample as one_of_each
from factor_q.elimination.triangle import triangle_of
from factor_q.tables import Tables
from factor_q.temperature import Temperature, check_possible, tempered

_CHUNK = 2**22
"""Weights that one choice may gather at a time."""


def sample(
    factors: Tables,
    sample_shape: Sequence[int] = (),
    temperature: Temperature = 1.0,
    *,
    order: Order = None,
    max_entries: int = DEFAULT_MAX_ENTRIES,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "*points variables"]:
    """Draw exact samples of all variables together from P(u) = exp(f(u) / temperature) / Z.

    Args:
        factors: tables of any arity; -inf entries are forbidden.
        sample_shape: how many draws per batch row.
        temperature: positive and finite; one number, or a tensor that broadcasts to one per batch row.
        order: as in `factor_q.log_partition`.
        max_entries: most table entries to hold at once, all batch rows together: all messages and a slice of a
            joined table. Draws are made in parts and come on top.
        generator: source of randomness; torch's global generator when None.

    Returns:
        Integers, shape (*sample_shape, *batch, n). A forbidden assignment is never drawn.

    Raises:
        EvidenceError: the shape has a negative entry.
        NotTractableError: the tables would exceed `max_entries`, or more than 2^30 numbers are wanted at once; raised
            before anything is made.
        ImpossibleEvidenceError: every assignment of a batch row is forbidden; the message names the rows.
        StructureError: the temperature is not positive, or order is not a permutation of the variables.
    Cost: one pass up, O(n k^(width + 1)) per batch row; then per draw k entries of every table and message.
    Source: Koller & Friedman 2009, section 12.1 (forward sampling, along the reversed elimination order).

    Example:
        >>> from factor_q import FactorGraph, Factors
        >>> f = Factors(FactorGraph([2, 2], [(0, 1)]), [torch.tensor([[-torch.inf, 0.0], [0.0, -torch.inf]])])
        >>> bool((sample(f, (100,)).sum(-1) == 1).all())
        True
    """
    with torch.no_grad():
        cooled = tempered(factors, temperature, "sample")
        graph, batch = cooled.graph, math.prod(cooled.batch_shape)
        draws = check_sample_shape(sample_shape, batch * graph.num_variables)
        triangle = triangle_of(graph) if order is None and draws.numel() == 1 else None
        if triangle is None or triangle.held(batch, True) > max_entries:
            values = _by_elimination(cooled, order, max_entries, draws.numel(), generator)
        else:

            def slow(rows: Tensor) -> Tensor:
                return _by_elimination(Tables.from_flat(graph, rows), order, max_entries, 1, generator)[:, 0].t()

            rows = cooled.flat.reshape(-1, graph.num_entries)
            values = one_of_each(triangle, rows, slow, generator, graph.num_variables).t()
    return values.movedim(0, -1).reshape(*draws, *cooled.batch_shape, graph.num_variables)


def _by_elimination(
    cooled: Tables, order: Order, max_entries: int, count: int, generator: torch.Generator | None
) -> Int[Tensor, "variables count batch"]:
    """Draw so many assignments of every row."""
    size, batch = sizes(cooled.graph, order), math.prod(cooled.batch_shape)
    needed = size.messages * batch + min(size.largest * batch, max(SLICE, max(cooled.cardinalities, default=1)))
    check_memory(cooled, order, needed, max_entries)
    plan = make_plan(cooled.graph, order)
    up = upward(plan, cooled.flat, SUM_PRODUCT.up, keep=True)
    check_possible(up.root.reshape(cooled.batch_shape), "sample")
    most = max(1, _CHUNK // max(1, batch * max(cooled.cardinalities, default=1)))
    starts = range(0, max(count, 1), most)
    return torch.cat([_draw(plan, up, min(most, count - start), generator) for start in starts], 1)


def _draw(plan: Plan, up: Upward, count: int, generator: torch.Generator | None) -> Tensor:
    """Draw values, shape (n, count, batch)."""
    batch, device = up.root.shape[-1], up.root.device
    values = torch.zeros(plan.graph.num_variables, count, batch, dtype=torch.long, device=device)
    for step in reversed(plan.steps):
        weights, _ = shifted_exp(_given(step, up, values), 0)
        uniform = torch.rand(count * batch, dtype=torch.float64, device=device, generator=generator)
        chosen = choose(weights.double().flatten(1).t(), uniform)
        values[step.variable] = chosen.reshape(count, batch)
    return values


def _given(step: Step, up: Upward, values: Tensor) -> Tensor:
    """Return the log weights of a step's variable given the values of its message, shape (k, count, batch)."""
    count, batch = values.shape[1:]
    total = up.root.new_zeros(step.shape[0], count, batch)
    for view in aligned(step.terms, up.tables, batch, keep=True):
        row = values.new_zeros(count, batch)
        for variable, size in zip(step.message, view.shape[1:-1], strict=True):
            if size > 1:  # the view has one entry for all values of a variable that it does not know
                row = row * size + values[variable]
        total = total + view.reshape(len(view), math.prod(view.shape[1:-1]), batch).gather(
            1, row.expand(len(view), -1, -1)
        )
    return total
