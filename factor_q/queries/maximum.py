"""The largest value and an assignment that has it, exactly."""

import math
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factor_q.elimination.cutset import DEFAULT_MAX_ASSIGNMENTS, Cutset, assignment_at, over_assignments, resolve_cutset
from factor_q.elimination.fix import fix
from factor_q.elimination.memory import DEFAULT_MAX_ENTRIES, check_memory
from factor_q.elimination.ordering import Order
from factor_q.elimination.passes import MAX_SUM, upward
from factor_q.elimination.plan import Plan, make_plan, peak, sizes
from factor_q.graph import FactorGraph
from factor_q.tables import Tables
from factor_q.temperature import check_entries

_STREAM = 2**15
"""From this many entries on a loop over the values is faster than torch's maximum with positions."""


class Maximum(NamedTuple):
    """The largest value, and where it is taken."""

    value: Float[Tensor, "*batch"]
    assignment: Int[Tensor, "*batch variables"]


def max_assignment(
    factors: Tables,
    *,
    order: Order = None,
    max_entries: int = DEFAULT_MAX_ENTRIES,
    cutset: Cutset = None,
    max_assignments: int = DEFAULT_MAX_ASSIGNMENTS,
) -> Maximum:
    """Return the largest value over all joint assignments, and an assignment that has it.

    Variables are maximised away in turn and read back in reverse. Among equal values each variable takes its
    lowest index, given the variables read back before it, so the result is deterministic.

    Args:
        factors: tables of any arity; -inf entries are forbidden.
        order: as in `factor_q.log_partition`.
        max_entries: most table entries to hold at once, all batch rows together: the live messages, a slice of a
            joined table, and one byte for every entry of every message.
        cutset: as in `factor_q.log_partition`.
        max_assignments: most assignments of the cutset to loop over.

    Returns:
        The value, shape (*batch,), differentiable with respect to the entries that the assignment uses, and
        the assignment, long of shape (*batch, n). When every assignment is forbidden: -inf and any of them.

    Raises:
        NotTractableError: the tables would exceed `max_entries`, or the loop `max_assignments`; raised before work.
        StructureError: order is not a permutation of the variables, or the cutset not a set of them.
    Cost: O(n k^(width + 1)) per batch row, of the narrower rest for each assignment of a cutset.
    Source: Guestrin, Lagoudakis & Parr 2002; Koller & Friedman 2009, section 13.2.

    Example:
        >>> from factor_q import FactorGraph, Factors
        >>> f = Factors(FactorGraph([2, 2], [(0,), (0, 1)]), [torch.tensor([0.0, 1.0]), torch.eye(2)])
        >>> value, assignment = max_assignment(f)
        >>> value.item(), assignment.tolist()
        (2.0, [1, 1])
    """
    check_entries(factors, "max")
    with torch.no_grad():
        fixed = resolve_cutset(factors, cutset, order, _held, max_entries=max_entries, max_assignments=max_assignments)
        if not fixed:
            assignment = _eliminate(factors, order, max_entries)
        else:
            part = partial(_value, order=order, max_entries=max_entries)
            values = over_assignments(factors, fixed, part, _held, order=order, max_entries=max_entries)
            best = assignment_at(factors.graph, fixed, values.max(0).indices)
            assignment = _eliminate(fix(factors, fixed, best, single=True), order, max_entries)
            assignment[..., list(fixed)] = best
    return Maximum(factors(assignment), assignment)


def _held(graph: FactorGraph, order: Order, batch: int) -> int:
    """Return the entries that are held at once; a choice takes one byte, a quarter of the smallest usual entry."""
    return peak(graph, order, batch) + -(-sizes(graph, order).messages * batch // 4)


def _value(factors: Tables, order: Order, max_entries: int) -> Tensor:
    """Return the largest value alone."""
    check_memory(factors, order, peak(factors.graph, order, math.prod(factors.batch_shape)), max_entries)
    up = upward(make_plan(factors.graph, order), factors.flat, MAX_SUM.up)
    return up.root.reshape(factors.batch_shape)


def _eliminate(factors: Tables, order: Order, max_entries: int) -> Tensor:
    """Return an assignment of largest value, shape (*batch, n)."""
    check_memory(factors, order, _held(factors.graph, order, math.prod(factors.batch_shape)), max_entries)
    plan = make_plan(factors.graph, order)
    up = upward(plan, factors.flat, _best)
    return _read_back(plan, [choice for (choice,) in up.remembered], factors)


def _best(joint: Tensor) -> tuple[Tensor, Tensor]:
    """Return the maximum along the first axis and the lowest position that has it."""
    if joint.numel() < _STREAM or len(joint) > 255:
        value, choice = joint.max(0)
        return value, choice.to(torch.uint8) if len(joint) <= 255 else choice
    value = joint[0]
    choice = torch.zeros_like(value, dtype=torch.uint8)
    for option in range(1, len(joint)):
        better = (joint[option] > value).view(torch.uint8)
        choice = torch.maximum(choice, better.mul_(option))  # options come in order; this is vectorised, filling is not
        value = torch.maximum(value, joint[option])
    return value, choice


def _read_back(plan: Plan, choices: list[Tensor], factors: Tables) -> Tensor:
    """Fix the variables in reverse elimination order from the choice tables; returns (*batch, n)."""
    shape, num_variables = factors.batch_shape, plan.graph.num_variables
    batch = math.prod(shape)
    assignment = torch.zeros(num_variables, batch, dtype=torch.long, device=factors.device)
    for step, choice in zip(reversed(plan.steps), reversed(choices), strict=True):
        row = torch.zeros(batch, dtype=torch.long, device=factors.device)
        # The message's variables go later, so in reverse they are fixed already; choices lie in their row-major order.
        for variable, size in zip(step.message, step.shape[1:], strict=True):
            row = row * size + assignment[variable]
        rows = choice.reshape(math.prod(step.shape[1:]), batch)
        assignment[step.variable] = rows.gather(0, row.unsqueeze(0)).squeeze(0)
    return assignment.t().reshape(*shape, num_variables)
