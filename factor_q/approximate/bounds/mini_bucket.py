"""Mini-buckets: upper bounds of the maximum and of log Z by elimination with a limit on the tables."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import StructureError
from circuits.numerics import logsumexp, posterior
from factor_q.elimination.ordering import Order, checked_order, table_size
from factor_q.elimination.passes import aligned, batch_last
from factor_q.elimination.plan import Term, term
from factor_q.factors import Factors
from factor_q.graph import FactorGraph, Scope
from factor_q.limits import Limits, Rounds
from factor_q.temperature import tempered

Eliminate = Callable[[int, int, Tensor], Tensor]
"""(bucket, mini-bucket, joined table (values, ..., rows)) -> message without the first axis."""


class UpperBound(NamedTuple):
    """A proven upper bound of log Z."""

    upper_bound: Float[Tensor, "*batch"]
    """At least log Z, in nats; differentiable with respect to the tables and the temperature."""
    is_exact: bool
    """Whether no bucket was split: the bound then equals log Z."""
    steps: int
    """Tightening steps made."""


class MiniBucket(NamedTuple):
    """Join the terms to a table (variable, *message), then eliminate the variable from it."""

    terms: tuple[Term, ...]
    shape: tuple[int, ...]


class MiniBucketPlan(NamedTuple):
    """What is joined, one variable after the other. Tables 0 to F - 1 are the factors, then come the messages."""

    buckets: tuple[tuple[MiniBucket, ...], ...]
    """The mini-buckets of each variable, in elimination order; more than one is where the bound loses."""
    constants: tuple[int, ...]
    """Tables that depend on nothing; their sum is the result."""

    @property
    def is_exact(self) -> bool:
        """Whether no bucket was split."""
        return all(len(minis) <= 1 for minis in self.buckets)


def mini_bucket_maximum(factors: Factors, *, max_entries: int = 2**12, order: Order = None) -> Float[Tensor, "*batch"]:
    """Return an upper bound of the largest value over all joint assignments.

    When the tables that meet in a variable are too large to be joined, they are maximised in groups: each group may
    pick its own value of the variable, so the sum of the parts is at least the maximum. Without a split it is exact.

    Args:
        factors: tables of any arity; -inf entries are forbidden.
        max_entries: most entries of a joined table per batch row; a larger factor stays alone.
        order: elimination order, a permutation of the variables or the name of a heuristic; None for the best found.

    Returns:
        Shape (*batch,), differentiable. -inf proves that every assignment is forbidden.

    Raises:
        StructureError: order is not a permutation of the variables, or max_entries is below 1.
    Cost: O(n max_entries) per row and mini-bucket.
    Source: Dechter & Rish 2003.

    Example:
        >>> from factor_q import FactorGraph
        >>> f = Factors(FactorGraph([2, 2], [(0,), (0, 1)]), [torch.tensor([0.0, 1.0]), torch.eye(2)])
        >>> mini_bucket_maximum(f).item()
        2.0
    """
    flat = tempered(factors, 1.0, "mini_bucket_maximum").flat
    plan = _plan(factors.graph, order, max_entries)
    return _run(plan, factors, flat, lambda _, __, joint: joint.amax(0))


def weighted_mini_bucket(
    factors: Factors,
    temperature: float | Float[Tensor, "..."] = 1.0,
    *,
    max_entries: int = 2**16,
    order: Order = None,
    learning_rate: float = 0.1,
    **limits: Unpack[Limits],
) -> UpperBound:
    """Return an upper bound of log Z by Hoelder's inequality where tables are too large to be joined.

    For weights w_r > 0 of sum 1, sum_x prod_r f_r(x) <= prod_r (sum_x f_r(x)^(1/w_r))^(w_r). Each group of tables
    that meet in a variable is summed in its own power norm. `steps` of Adam tighten the weights and shift a table
    over the variable between its groups; every setting gives a bound, and the lowest seen is returned.

    Args:
        factors: tables of any arity; -inf entries are forbidden.
        temperature: positive and finite; one number, or a tensor that broadcasts to one per batch row.
        max_entries: most entries of a joined table per batch row; a larger factor stays alone.
        order: as in `mini_bucket_maximum`.
        learning_rate: step size of Adam.
        **limits: `steps` of tightening (0), `seconds`, `on_step`; `tolerance` is not used.

    Returns:
        The bound, differentiable at the weights found. -inf proves that every assignment is forbidden.

    Raises:
        StructureError: the temperature is not positive, order is not a permutation of the variables, or max_entries
            is below 1.
    Cost: O(n max_entries) per row and mini-bucket; each step about three times that.
    Source: Liu & Ihler 2011; Dechter & Rish 2003.

    Example:
        >>> from factor_q import complete
        >>> graph = complete([2] * 4, unary=False)
        >>> f = Factors.from_flat(graph, torch.linspace(-1, 1, graph.num_entries))
        >>> weighted_mini_bucket(f).is_exact, weighted_mini_bucket(f, max_entries=4).is_exact
        (True, False)
    """
    rounds = Rounds(limits, steps=0)
    flat = tempered(factors, temperature, "weighted_mini_bucket").flat
    plan = _plan(factors.graph, order, max_entries)
    shifts = _Shifts(plan, flat)
    steps = 0 if plan.is_exact else _tighten(plan, factors, flat.detach(), shifts, learning_rate, rounds)
    return UpperBound(_run(plan, factors, flat, shifts.eliminate), plan.is_exact, steps)


class _Shifts:
    """Weights of the mini-buckets of each split variable, and the tables shifted between them, for every row."""

    def __init__(self, plan: MiniBucketPlan, flat: Tensor) -> None:
        rows = flat.shape[:-1].numel()
        self.parameters: list[Tensor] = []
        """Of each split bucket in turn the logits of its weights (minis, rows) and its tables (minis, values, rows)."""
        self._first: dict[int, int] = {}
        for i, minis in enumerate(plan.buckets):
            if len(minis) > 1:
                self._first[i] = len(self.parameters)
                values = minis[0].shape[0]
                self.parameters += [flat.new_zeros(len(minis), rows), flat.new_zeros(len(minis), values, rows)]

    def eliminate(self, bucket: int, mini: int, joint: Tensor) -> Tensor:
        """Sum a variable out of a mini-bucket in its power norm."""
        if (first := self._first.get(bucket)) is None:
            return logsumexp(joint, 0)
        logits, shift = self.parameters[first : first + 2]
        # Hoelder asks for positive weights of sum 1: a softmax keeps both, whatever Adam does to the logits.
        weight = posterior(logits, logsumexp(logits, 0).unsqueeze(0))[mini]
        # The shifts of one variable sum to zero over its mini-buckets, so their product is unchanged.
        moved = shift[mini] - shift.mean(0)
        joint = joint + moved.reshape(len(moved), *(1,) * (joint.ndim - 2), joint.shape[-1])
        # A forbidden entry divided by the weight has no finite slope; it stays forbidden whatever the weight.
        blocked = joint == -torch.inf
        powered = (joint.masked_fill(blocked, 0.0) / weight).masked_fill(blocked, -torch.inf)
        total = logsumexp(powered, 0)
        # weight x -inf has no finite slope in the weight either; an impossible part stays impossible, with slope 0.
        empty = total == -torch.inf
        return (total.masked_fill(empty, 0.0) * weight).masked_fill(empty, -torch.inf)


def _tighten(
    plan: MiniBucketPlan, factors: Factors, flat: Tensor, shifts: _Shifts, learning_rate: float, rounds: Rounds
) -> int:
    """Leave in `shifts` the setting of the lowest bound seen, for each row on its own."""
    parameters = [tensor.requires_grad_() for tensor in shifts.parameters]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    best = [tensor.detach().clone() for tensor in parameters]
    lowest = flat.new_full((flat.shape[:-1].numel(),), torch.inf)
    steps = 0
    with torch.enable_grad():
        for step in rounds:
            value = _run(plan, factors, flat, shifts.eliminate).flatten()
            _keep(best, parameters, lowest, value.detach())
            lowest = torch.minimum(lowest, value.detach())
            optimizer.zero_grad()
            # A row proven impossible has nothing left to lower, and its -inf would drown the other rows.
            torch.where(value > -torch.inf, value, 0.0).sum().backward()
            optimizer.step()
            steps = step
            rounds.report(step, lowest)
    if steps:
        with torch.no_grad():
            _keep(best, parameters, lowest, _run(plan, factors, flat, shifts.eliminate).flatten())
    shifts.parameters = best
    return steps


def _keep(best: list[Tensor], parameters: list[Tensor], lowest: Tensor, value: Tensor) -> None:
    """Copy the parameters of the rows whose value is a new lowest."""
    better = value < lowest
    for held, now in zip(best, parameters, strict=True):
        held.copy_(torch.where(better, now.detach(), held))


def _run(plan: MiniBucketPlan, factors: Factors, flat: Tensor, eliminate: Eliminate) -> Float[Tensor, "*batch"]:
    """Eliminate all variables; rows are the last axis, so that tiny tables still run along contiguous memory."""
    rows = flat.shape[:-1].numel()
    tables = batch_last(flat, factors.graph.table_shapes)
    for i, minis in enumerate(plan.buckets):
        for j, mini in enumerate(minis):
            views = aligned(mini.terms, tables, rows, keep=True)
            tables[len(tables)] = eliminate(i, j, sum(views, start=flat.new_zeros(*mini.shape, rows)))
    return sum((tables[i] for i in plan.constants), start=flat.new_zeros(rows)).reshape(flat.shape[:-1])


def _plan(graph: FactorGraph, order: Order, max_entries: int) -> MiniBucketPlan:
    """Return the plan; a table of the factors that alone exceeds `max_entries` makes a mini-bucket of its own."""
    if max_entries < 1:
        raise StructureError(f"mini-buckets: max_entries is {max_entries}, but a table has at least 1 entry.")
    return _made_plan(graph, checked_order(graph, order), max_entries)


@lru_cache(maxsize=256)
def _made_plan(graph: FactorGraph, order: tuple[int, ...], max_entries: int) -> MiniBucketPlan:
    position = {variable: i for i, variable in enumerate(order)}
    scopes: list[Scope] = []
    # A table waits for the first of its variables that is eliminated; behind them all wait the constants.
    waiting: list[list[int]] = [[] for _ in range(len(order) + 1)]

    def file(scope: Scope) -> None:
        waiting[min((position[variable] for variable in scope), default=-1)].append(len(scopes))
        scopes.append(scope)

    for scope in graph.scopes:
        file(scope)
    buckets: list[tuple[MiniBucket, ...]] = []
    for variable, tables in zip(order, waiting, strict=False):
        minis: list[MiniBucket] = []
        for members in _partition(graph, scopes, tables, max_entries) or [[]]:
            joined = {v for table in members for v in scopes[table]} - {variable}
            message = tuple(sorted(joined, key=position.__getitem__))
            whole = (variable, *message)
            terms = tuple(term(graph, table, scopes[table], whole) for table in members)
            minis.append(MiniBucket(terms, tuple(graph.cardinalities[v] for v in whole)))
            file(message)
        buckets.append(tuple(minis))
    return MiniBucketPlan(tuple(buckets), tuple(waiting[-1]))


def _partition(graph: FactorGraph, scopes: list[Scope], tables: list[int], max_entries: int) -> list[list[int]]:
    """Put each table, large ones first, where it adds least to a mini-bucket that stays within the limit."""
    minis: list[tuple[set[int], list[int]]] = []
    for table in sorted(tables, key=lambda table: (-table_size(graph, scopes[table]), table)):
        # Not the smallest result but the smallest growth: a table that lies inside another joins it for nothing.
        growth: dict[int, float] = {}
        for i, (joined, _) in enumerate(minis):
            size = table_size(graph, tuple(joined.union(scopes[table])))
            if size <= max_entries:
                growth[i] = size / table_size(graph, tuple(joined))
        if not growth:
            growth[len(minis)] = 1.0
            minis.append((set(), []))
        joined, members = minis[min(growth, key=growth.__getitem__)]
        joined.update(scopes[table])
        members.append(table)
    return [members for _, members in minis]
