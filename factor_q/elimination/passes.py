"""The engine of exact inference on Factors: joins, the pass up a plan, and the pass down it."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from circuits.numerics import NEGATIVE_INFINITY, logsumexp, shifted_exp
from factor_q.elimination.plan import SLICE, Plan, Step, Term

Reduce = Callable[[Tensor], tuple[Tensor, ...]]
"""Removes the first axis of a joined table; returns the message, and what else is to be remembered of the step."""


class Upward(NamedTuple):
    """What a pass up leaves."""

    root: Tensor
    """The table over the kept variables, shape (*kept, batch)."""
    tables: dict[int, Tensor]
    """By number, the factors and messages that were not used up; all of them when asked to keep them."""
    remembered: list[tuple[Tensor, ...]]
    """Per step what its reduction returned beside the message."""


class Semiring(NamedTuple):
    """How tables are reduced: on the way up one axis at a time, on the way down all axes but some at once."""

    up: Reduce
    down: Callable[[Tensor, tuple[int, ...]], Tensor]
    """Takes an opened belief and the axes to remove."""
    open: Callable[[Tensor], Tensor]
    close: Callable[[Tensor], Tensor]
    normalised: bool
    """Whether beliefs are relative to the total of all assignments."""


def upward(plan: Plan, flat: Tensor, reduce: Reduce, *, keep: bool = False, recompute: bool = False) -> Upward:
    """Run the plan: in turn join the tables with a variable and reduce it away.

    The batch is folded into one last axis, so that every operation runs along contiguous memory even when
    the tables are tiny. Without gradients a large joined table is made and reduced in slices.

    Args:
        plan: the steps.
        flat: entries of all tables, shape (*batch, entries).
        reduce: removes the first axis of a table.
        keep: keep factors and messages instead of forgetting each once it is joined.
        recompute: let autograd hold the messages only, and make each joined table again in the backward pass.

    Example:
        >>> from factor_q import FactorGraph
        >>> from factor_q.elimination.plan import make_plan
        >>> plan = make_plan(FactorGraph([2, 2], [(0,), (0, 1)]), None)
        >>> upward(plan, torch.tensor([0.0, 1.0, 1.0, 0.0, 0.0, 1.0]), lambda joint: (joint.amax(0),)).root
        tensor([2.])
    """
    batch = math.prod(flat.shape[:-1])
    tables = batch_last(flat, plan.factor_shapes)
    remembered: list[tuple[Tensor, ...]] = []
    for i, step in enumerate(plan.steps, start=len(tables)):
        views = aligned(step.terms, tables, batch, keep=keep) or [flat.new_zeros(*step.shape, batch)]
        tables[i], *rest = _reduced(step.shape, views, reduce, recompute)
        remembered.append(tuple(rest))
        # Two messages over the same variables would both wait for the same join: added at once they hold half the
        # memory. A pass down needs each of them, so there they stay apart.
        if step.twin is not None and not keep:
            tables[step.twin] = tables[step.twin] + tables.pop(i)
    views = aligned(plan.root, tables, batch, keep=keep)
    return Upward(_sum([flat.new_zeros(*plan.root_shape, batch), *views]), tables, remembered)


def batch_last(flat: Tensor, shapes: Sequence[tuple[int, ...]]) -> dict[int, Tensor]:
    """Return the tables by number, the batch folded into one last axis: shape (*shape, batch)."""
    batch = math.prod(flat.shape[:-1])
    rows = flat.reshape(batch, flat.shape[-1]).t().contiguous()
    pieces = rows.split([math.prod(shape) for shape in shapes]) if shapes else ()
    return {i: piece.reshape(*shape, batch) for i, (piece, shape) in enumerate(zip(pieces, shapes, strict=True))}


def downward(plan: Plan, up: Upward, semiring: Semiring) -> Iterator[tuple[Step, Tensor, Tensor]]:
    """Run the plan in reverse after a pass up that kept its tables and every variable eliminated.

    Yields (step, joined table, belief); the belief, of the shape of the joined table, counts all other tables too.
    """
    first, batch = len(plan.factor_shapes), up.root.shape[-1]
    # What the rest of the model says to each message, by the message's number: all else divided out of the belief.
    total = torch.zeros_like(up.root) if semiring.normalised else up.root
    outer = {t.table: difference(total, up.tables[t.table]) for t in plan.root if t.table >= first}
    for i in reversed(range(len(plan.steps))):
        step = plan.steps[i]
        joint = _sum(aligned(step.terms, up.tables, batch, keep=True) or [up.root.new_zeros(*step.shape, batch)])
        belief = joint + outer.pop(first + i).unsqueeze(0)
        opened = semiring.open(belief)
        for term in step.terms:
            if term.table >= first:
                # A term has size 1 in the axes that its message lacks: reduce those away, and what the message itself
                # brought in is divided out (in logarithms a difference), else it would be counted twice.
                removed = tuple(axis for axis, size in enumerate(term.shape) if size == 1)
                inner = semiring.close(semiring.down(opened, removed))
                outer[term.table] = difference(inner, up.tables[term.table])
        yield step, joint, opened


def by_variable(plan: Plan, up: Upward, semiring: Semiring, single: Tensor) -> Tensor:
    """Return what a pass down says about each variable, shape (n, max cardinality, batch).

    `single`, of shape (batch,), is the answer for the only value of a variable that has one. Beyond a variable's own
    values the result is zero where beliefs are normalised, and otherwise -inf.
    """
    cardinalities = plan.graph.cardinalities
    parts = [single.unsqueeze(0)] * len(cardinalities)
    for step, _, opened in downward(plan, up, semiring):
        parts[step.variable] = semiring.down(opened, tuple(range(1, opened.ndim - 1)))
    longest = max(cardinalities, default=0)
    if not longest:
        return single.new_zeros(0, 0, *single.shape)
    fill = 0.0 if semiring.normalised else NEGATIVE_INFINITY
    return torch.stack([pad(part, (0, 0, 0, longest - len(part)), value=fill) for part in parts])


def difference(whole: Tensor, part: Tensor) -> Tensor:
    """Return whole - part, and -inf where the part is: nothing added to it changes an impossible part."""
    # -inf - (-inf) is nan, and one nan would spread to every belief below.
    possible = part > NEGATIVE_INFINITY
    return torch.where(possible, whole - part.masked_fill(~possible, 0.0), NEGATIVE_INFINITY)


def _log(probability: Tensor) -> Tensor:
    """Return the logarithm; at zero -inf, with zero gradient."""
    zero = probability == 0
    return probability.masked_fill(zero, 1.0).log().masked_fill(zero, NEGATIVE_INFINITY)


def _log_sum(joint: Tensor) -> tuple[Tensor]:
    """Return the log of the sum of the exponentials along the first axis."""
    if joint.requires_grad and torch.is_grad_enabled():
        return (logsumexp(joint, 0),)
    # In place: without gradients nobody else holds these numbers, and the table is the largest there is.
    weights, shift = shifted_exp(joint, 0)
    return (weights.sum(0).log_().add_(shift.squeeze(0)),)


def _remove(function: Callable[..., Tensor]) -> Callable[[Tensor, tuple[int, ...]], Tensor]:
    """Let a reduction of torch do nothing when no axes are to be removed."""
    return lambda table, axes: function(table, axes) if axes else table


SUM_PRODUCT = Semiring(_log_sum, _remove(torch.sum), torch.exp, _log, normalised=True)
MAX_SUM = Semiring(lambda joint: (joint.amax(0),), _remove(torch.amax), lambda x: x, lambda x: x, normalised=False)


def aligned(terms: tuple[Term, ...], tables: dict[int, Tensor], batch: int, *, keep: bool) -> list[Tensor]:
    """Return the tables of a join with their axes lined up; forget them in `tables` unless they are kept."""
    take = tables.__getitem__ if keep else tables.pop
    found = (term for term in terms if term.table in tables)  # a message may have been added to its twin
    return [take(term.table).permute(*term.axes, -1).reshape(*term.shape, batch) for term in found]


def _sum(views: Sequence[Tensor]) -> Tensor:
    """Add tables by broadcasting."""
    first, *rest = views
    return sum(rest, start=first)


def _reduced(shape: tuple[int, ...], views: list[Tensor], reduce: Reduce, recompute: bool) -> tuple[Tensor, ...]:
    """Join the views to a table of this shape and reduce its first axis; a large one in slices or made twice."""
    batch = views[0].shape[-1]
    # Autograd keeps what every slice is made of, so slices would save nothing: with gradients the table is made in
    # one piece, and forgotten and made again where it is too large to keep.
    if torch.is_grad_enabled() and any(view.requires_grad for view in views):
        if not recompute:
            return reduce(_sum(views))
        return checkpoint(lambda *parts: reduce(_sum(parts)), *views, use_reentrant=False, preserve_rng_state=False)
    # The joined table is k times larger than what is kept of it and lives for a moment only. Made in slices of all
    # values of the first axis, it stays in the cache and out of the peak of memory.
    depth = _depth(shape, batch)
    if not depth:
        return reduce(_sum(views))
    views = _small_joined(views)
    whole: list[Tensor] = []
    for index in product(*(range(size) for size in shape[1 : 1 + depth])):
        parts = reduce(_sum([_slice(view, index) for view in views]))
        whole = whole or [part.new_empty(*shape[1:], batch) for part in parts]
        for table, part in zip(whole, parts, strict=True):
            table[index] = part
    return tuple(whole)


def _depth(shape: tuple[int, ...], batch: int) -> int:
    """Return how many axes after the first to walk along, so that a slice of the table is small."""
    depth, entries = 0, math.prod(shape) * batch
    while entries > SLICE and depth < len(shape) - 1:
        depth += 1
        entries //= shape[depth]
    return depth


def _small_joined(views: list[Tensor]) -> list[Tensor]:
    """Add up the first views as long as the sum is small: they are then not added again in every slice."""
    joined, rest = views[0], views[1:]
    while rest:
        shape = [max(sizes) for sizes in zip(joined.shape, rest[0].shape, strict=True)]
        if math.prod(shape) * 16 > SLICE:
            break
        joined = joined + rest.pop(0)
    return [joined, *rest]


def _slice(view: Tensor, index: tuple[int, ...]) -> Tensor:
    """Return view[:, index], where an axis of size 1 stands for all values."""
    return view[(slice(None), *(i if size > 1 else 0 for i, size in zip(index, view.shape[1:], strict=False)))]
