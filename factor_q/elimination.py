"""Exact maximum and exact log-partition function of Factors by eliminating one variable after the other."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.errors import NotTractableError, StructureError
from circuits.numerics import logsumexp
from factor_q.factors import Factors
from factor_q.plan import Plan, Sizes, Term, make_plan, sizes

DEFAULT_MAX_ENTRIES = 2**26


def max_assignment(
    factors: Factors, *, order: Sequence[int] | None = None, max_entries: int = DEFAULT_MAX_ENTRIES
) -> tuple[Float[Tensor, "*batch"], Int[Tensor, "*batch variables"]]:
    """Return the largest value over all joint assignments, and an assignment that has it.

    Variables are maximised away in turn and read back in reverse. Among equal values each variable takes its
    lowest index, given the variables read back before it, so the result is deterministic.

    Args:
        factors: tables of any arity; -inf entries are forbidden.
        order: elimination order, a permutation of the variables; None uses `elimination_order`.
        max_entries: most table entries to hold at once, all batch rows together.

    Returns:
        The value, shape (*batch,), differentiable with respect to the entries that the assignment uses, and
        the assignment, long of shape (*batch, n). When every assignment is forbidden: -inf and any of them.

    Raises:
        NotTractableError: the tables would exceed `max_entries`; raised before they are made.
        StructureError: order is not a permutation of the variables.
    Cost: O(n k^(width + 1)) per batch row.
    Source: Guestrin, Lagoudakis & Parr 2002; Koller & Friedman 2009, section 13.2.

    Example:
        >>> from factor_q import FactorGraph, Factors
        >>> f = Factors(FactorGraph([2, 2], [(0,), (0, 1)]), [torch.tensor([0.0, 1.0]), torch.eye(2)])
        >>> value, assignment = max_assignment(f)
        >>> value.item(), assignment.tolist()
        (2.0, [1, 1])
    """
    size = sizes(factors.graph, order)
    _check_size(factors, size, size.largest + size.messages, math.prod(factors.batch_shape), max_entries)
    choices: list[Tensor] = []

    def reduce(joint: Tensor) -> Tensor:
        value, choice = joint.max(0)
        choices.append(choice)
        return value

    plan = make_plan(factors.graph, order)
    with torch.no_grad():
        _eliminate(plan, factors.flat, reduce)
        assignment = _read_back(plan, choices, factors)
    return factors(assignment), assignment


def log_partition(
    factors: Factors,
    temperature: float | Float[Tensor, "..."] = 1.0,
    *,
    order: Sequence[int] | None = None,
    max_entries: int = DEFAULT_MAX_ENTRIES,
) -> Float[Tensor, "*batch"]:
    """Return log sum_u exp(f(u) / temperature), the log-partition function.

    Its gradient with respect to a table is the marginal distribution of that table's variables under the
    Boltzmann distribution, divided by the temperature.

    Args:
        factors: tables of any arity; -inf entries are forbidden.
        temperature: positive and finite; one number, or a tensor that broadcasts to one per batch row.
        order: elimination order, a permutation of the variables; None uses `elimination_order`.
        max_entries: most table entries to hold at once, all batch rows together. With gradients every joined
            table is held until the backward pass, without them the largest one and the messages.

    Returns:
        Nats, shape (*batch,), differentiable. When every assignment is forbidden: -inf, with zero gradient.

    Raises:
        NotTractableError: the tables would exceed `max_entries`; raised before they are made.
        StructureError: the temperature is not positive, or order is not a permutation of the variables.
    Cost: O(n k^(width + 1)) per batch row.
    Source: Koller & Friedman 2009, section 9.3.
    """
    flat = _tempered(factors, temperature)
    size = sizes(factors.graph, order)
    held = size.total if flat.requires_grad else size.largest + size.messages
    _check_size(factors, size, held, math.prod(flat.shape[:-1]), max_entries)
    plan = make_plan(factors.graph, order)
    total = _eliminate(plan, flat, lambda joint: logsumexp(joint, 0)).reshape(flat.shape[:-1])
    # One impossible part of a disconnected graph makes a row impossible: its other parts get no gradient either.
    return total.masked_fill(total == -torch.inf, -torch.inf)


def _eliminate(plan: Plan, flat: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """Run the plan; `reduce` removes the first axis of a joined table. Returns the result per batch row.

    The batch is folded into one last axis, so that every operation runs along contiguous memory even when
    the tables are tiny.
    """
    batch = math.prod(flat.shape[:-1])
    rows = flat.reshape(batch, flat.shape[-1]).t().contiguous()
    pieces = rows.split(list(plan.graph.table_sizes)) if plan.factor_shapes else ()
    shaped = zip(pieces, plan.factor_shapes, strict=True)
    tables = {i: piece.reshape(*shape, batch) for i, (piece, shape) in enumerate(shaped)}
    for i, step in enumerate(plan.steps, start=len(tables)):
        joint = _join(step.terms, tables, batch) if step.terms else flat.new_zeros(*step.shape, batch)
        tables[i] = reduce(joint)
    result = flat.new_zeros(batch)
    for constant in plan.constants:
        result = result + tables[constant]
    return result


def _join(terms: tuple[Term, ...], tables: dict[int, Tensor], batch: int) -> Tensor:
    """Add the tables of one step by broadcasting, and forget them."""
    views = (tables.pop(term.table).permute(*term.axes, -1).reshape(*term.shape, batch) for term in terms)
    first, *rest = views
    return sum(rest, start=first)


def _read_back(plan: Plan, choices: list[Tensor], factors: Factors) -> Tensor:
    """Fix the variables in reverse elimination order from the choice tables; returns (*batch, n)."""
    shape, num_variables = factors.batch_shape, plan.graph.num_variables
    batch = math.prod(shape)
    assignment = torch.zeros(num_variables, batch, dtype=torch.long, device=factors.device)
    for step, choice in zip(reversed(plan.steps), reversed(choices), strict=True):
        row = torch.zeros(batch, dtype=torch.long, device=factors.device)
        for variable, size in zip(step.message, step.shape[1:], strict=True):
            row = row * size + assignment[variable]
        rows = choice.reshape(math.prod(step.shape[1:]), batch)
        assignment[step.variable] = rows.gather(0, row.unsqueeze(0)).squeeze(0)
    return assignment.t().reshape(*shape, num_variables)


def _tempered(factors: Factors, temperature: float | Tensor) -> Tensor:
    """Return flat / temperature with batch shapes broadcast; -inf passes no gradient to the temperature."""
    scale = torch.as_tensor(temperature, dtype=factors.dtype, device=factors.device)
    if not bool(((scale > 0) & scale.isfinite()).all()):
        raise StructureError(
            f"log_partition: the temperature is {temperature}, but it must be positive and finite; "
            "max_assignment is the limit of temperature 0."
        )
    scale = scale.unsqueeze(-1)
    flat = factors.flat
    if not scale.requires_grad:
        return flat / scale
    # The slope -x / t^2 of x / t is infinite at a forbidden entry, and inf * 0 is nan.
    forbidden = flat == -torch.inf
    return (flat.masked_fill(forbidden, 0.0) / scale).masked_fill(forbidden, -torch.inf)


def _check_size(factors: Factors, size: Sizes, entries: int, batch: int, max_entries: int) -> None:
    """Raise before memory is taken when elimination would hold more table entries than allowed."""
    needed = entries * batch
    if needed <= max_entries:
        return
    raise NotTractableError(
        f"exact elimination of {factors.graph} has induced width {size.width}: it would hold "
        f"{_amount(needed)} table entries ({_amount(needed * factors.dtype.itemsize)} bytes), the "
        f"largest table having {_amount(size.largest)} for each of {batch} batch rows; max_entries is "
        f"{_amount(max_entries)}.\n"
        "    Use fewer or smaller factors or a smaller batch, or give factor_q.max_assignment or "
        "factor_q.log_partition a better order=... or a larger max_entries=...; for a lower bound at a size "
        "you choose, fit a circuit built with circuits.structures.keep_set(..., labels=...)."
    )


def _amount(count: int) -> str:
    """Write a count, large ones as a power of ten."""
    return f"{count:,}" if count < 10**12 else f"about 10^{math.log10(count):.0f}"
