"""Conditional distributions of variables given all others, for all variables of one colour at once.

And what moves along them: Gibbs sampling, ascent, and the search for an allowed assignment to start from.
"""

from functools import lru_cache
from typing import NamedTuple

import networkx
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.errors import NotTractableError
from circuits.numerics import choose, logsumexp, posterior
from factor_q.factors import Factors
from factor_q.graph import FactorGraph
from factor_q.layout import strides_of
from factor_q.queries.maximum import max_assignment

_EXACT_ENTRIES = 2**22
_CHAINS = 32
_SWEEPS = 500
_FIRST_PENALTY, _LAST_PENALTY = 1.0, 12.0


class ColorPlan(NamedTuple):
    """Where the tables around the variables of one colour are read."""

    variables: Int[Tensor, "members"]
    is_value: Bool[Tensor, "members values"]
    target: Int[Tensor, "meetings"]
    """Which member each (factor, member) meeting is about."""
    entries: Int[Tensor, "meetings values"]
    """Entry of each value of the member while all others are 0; a repeated one beyond its values."""
    others: Int[Tensor, "meetings others"]
    strides: Int[Tensor, "meetings others"]
    """Step of each other variable in the table, 0 where the factor has fewer."""


@lru_cache(maxsize=256)
def color_classes(graph: FactorGraph) -> tuple[tuple[int, ...], ...]:
    """Return the variables of each colour: no two of one share a factor, so that updating them at once is in turn.

    Greedy, variables with most neighbours first.

    Example:
        >>> color_classes(FactorGraph([2, 2, 2], [(0, 1), (1, 2)]))
        ((0, 2), (1,))
    """
    classes = networkx.utils.groups(networkx.greedy_color(graph.to_networkx())).values()
    return tuple(sorted(tuple(sorted(members)) for members in classes))


@lru_cache(maxsize=256)
def conditional_plan(graph: FactorGraph, device: torch.device) -> tuple[ColorPlan, ...]:
    """Return the reading plan of each colour."""
    with torch.inference_mode(False):
        return tuple(_color_plan(graph, members, device) for members in color_classes(graph))


def conditional(
    plan: ColorPlan, flat: Float[Tensor, "*batch entries"], values: Int[Tensor, "*points variables"]
) -> Float[Tensor, "*points members options"]:
    """Return the unnormalised log weight of each value of each member of a colour given all other variables.

    The entries are divided by the temperature; values have shape (*sample, *batch, n), every batch row given.
    """
    shape = values.shape[:-1]
    # The others' values say where in its table each meeting's row begins; one gather then reads all rows.
    moved = values.index_select(-1, plan.others.flatten()).unflatten(-1, tuple(plan.others.shape))
    positions = (moved * plan.strides).sum(-1, keepdim=True) + plan.entries
    found = flat.expand(*shape, -1).gather(-1, positions.flatten(-2)).unflatten(-1, tuple(plan.entries.shape))
    weights = flat.new_zeros(*shape, *plan.is_value.shape).index_add(-2, plan.target, found)
    return weights.masked_fill(~plan.is_value, -torch.inf)


def gibbs_sweep(
    plans: tuple[ColorPlan, ...],
    flat: Float[Tensor, "*batch entries"],
    values: Int[Tensor, "*points variables"],
    *,
    generator: torch.Generator | None,
) -> Int[Tensor, "*points variables"]:
    """Draw every variable once from its conditional, one colour after the other; forbidden states stay unreached."""
    values = values.clone()
    for plan in plans:
        log_weights = conditional(plan, flat, values)
        weights = posterior(log_weights, logsumexp(log_weights, -1).unsqueeze(-1)).flatten(0, -2)
        uniform = torch.rand(len(weights), dtype=weights.dtype, device=weights.device, generator=generator)
        values[..., plan.variables] = choose(weights, uniform).reshape(*values.shape[:-1], len(plan.variables))
    return values


def ascend_coordinates(
    plans: tuple[ColorPlan, ...], flat: Float[Tensor, "*batch entries"], values: Int[Tensor, "*points variables"]
) -> Int[Tensor, "*points variables"]:
    """Give every variable its best value given the others, one colour after the other; ties keep the current value."""
    values = values.clone()
    for plan in plans:
        log_weights = conditional(plan, flat, values)
        held = values[..., plan.variables]
        current = log_weights.gather(-1, held.unsqueeze(-1)).squeeze(-1)
        best, choice = log_weights.max(-1)
        values[..., plan.variables] = torch.where(best > current, choice, held)
    return values


def feasible_assignment(
    factors: Factors, *, generator: torch.Generator | None = None
) -> tuple[Int[Tensor, "*batch variables"], Bool[Tensor, "*batch"], bool]:
    """Look for an assignment of value above -inf.

    The best assignment where exact elimination is cheap. Otherwise 32 random walks per row that pay a rising
    penalty for each forbidden entry (Gibbs sampling of the number of conflicts), and the first conflict-free state.

    Returns:
        An assignment per row, whether it is allowed, and whether the search was exact: a row not found by an
        exact search has no allowed assignment at all.
    Cost: elimination of at most 2^22 entries, or 500 sweeps of 32 chains.
    """
    with torch.no_grad():
        try:
            value, assignment = max_assignment(factors.detach(), max_entries=_EXACT_ENTRIES)
        except NotTractableError:
            assignment, found = _walk(factors.detach(), generator)
            return assignment, found, False
        return assignment, value > -torch.inf, True


def _walk(factors: Factors, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Return the first conflict-free state of any chain, and where there was one."""
    conflicts = (factors.flat == -torch.inf).to(factors.dtype)
    plans = conditional_plan(factors.graph, factors.device)
    values = uniform_values(factors, (_CHAINS, *factors.batch_shape), generator=generator)
    kept = values[0]
    found = torch.zeros(factors.batch_shape, dtype=torch.bool, device=factors.device)
    for sweep in range(_SWEEPS):
        # At full price from the start a walk would freeze in the first dead end.
        penalty = _FIRST_PENALTY + (_LAST_PENALTY - _FIRST_PENALTY) * sweep / (_SWEEPS - 1)
        values = gibbs_sweep(plans, -penalty * conflicts, values, generator=generator)
        allowed = factors(values) > -torch.inf
        chain = allowed.to(torch.uint8).argmax(0)
        first = values.take_along_dim(chain[None, ..., None], 0).squeeze(0)
        new = allowed.any(0) & ~found
        kept = torch.where(new.unsqueeze(-1), first, kept)
        found = found | new
        if bool(found.all()):
            break
    return kept, found


def uniform_values(
    factors: Factors, shape: tuple[int, ...], *, generator: torch.Generator | None
) -> Int[Tensor, "*points variables"]:
    """Draw assignments uniformly, forbidden or not; shape (*shape, n)."""
    cards = torch.tensor(factors.cardinalities, dtype=torch.long, device=factors.device)
    uniform = torch.rand(*shape, len(cards), dtype=torch.float64, device=factors.device, generator=generator)
    return torch.minimum((uniform * cards).long(), cards - 1)


def _color_plan(graph: FactorGraph, members: tuple[int, ...], device: torch.device) -> ColorPlan:
    place = {variable: i for i, variable in enumerate(members)}
    most = max(graph.cardinalities[v] for v in members)
    arity = max((len(scope) for scope in graph.scopes if scope), default=1)
    targets: list[int] = []
    entries: list[list[int]] = []
    others: list[list[int]] = []
    strides: list[list[int]] = []
    for scope, shape, offset in zip(graph.scopes, graph.table_shapes, graph.offsets, strict=True):
        steps, padding = strides_of(shape), [0] * (arity - len(scope))
        for axis in (axis for axis, v in enumerate(scope) if v in place):
            targets.append(place[scope[axis]])
            # One row length for all: a value that a member lacks reads its last one again, and is masked afterwards.
            entries.append([offset + min(a, shape[axis] - 1) * steps[axis] for a in range(most)])
            others.append([*scope[:axis], *scope[axis + 1 :], *padding])
            strides.append([*steps[:axis], *steps[axis + 1 :], *padding])

    def tensor(rows: list[list[int]], columns: int) -> Tensor:
        return torch.tensor(rows, dtype=torch.long, device=device).reshape(len(rows), columns)

    values = torch.arange(most, device=device)
    cards = torch.tensor([graph.cardinalities[v] for v in members], device=device)
    return ColorPlan(
        torch.tensor(members, dtype=torch.long, device=device),
        values < cards.unsqueeze(-1),
        torch.tensor(targets, dtype=torch.long, device=device),
        tensor(entries, most),
        tensor(others, arity - 1),
        tensor(strides, arity - 1),
    )
