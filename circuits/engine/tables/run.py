"""Joint tables of many scopes in one pass: the engine behind `marginal` and `expectation`.

A factor's scope is split at exactly one product of every sub-circuit, where its parts fall into different children.
Above that product only its flow matters, below it the conditional table of each part:

    P(scope) = sum over products e that split it of flow(e) * P(left part | left child) P(right part | right child).

So the pass has three steps: flows (downward), conditional tables of the parts that are still pending in each region
(upward, `_Mix` at sums and `_Outer` at products that split a part), and one contraction per split. Tables that do not
depend on numbers (the indicators of the variables that a label fixes) are shared, not computed. All index work is done
once per (circuit, scopes) and cached; operations of equal shape are folded over regions.

Source: the one-pass exact ELBO for selective circuits, generalised here to any smooth, decomposable circuit and arity.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from circuits.engine.layers import CompiledCircuit, Rows
from circuits.engine.passes import read
from circuits.engine.tables.plan import plan_tables
from circuits.engine.tables.steps import Contraction, Mix, Outer, TablePlan, Total


def tables_from(
    compiled: CompiledCircuit, scopes: tuple[tuple[int, ...], ...], flows: Tensor, weights: Tensor
) -> Tensor:
    """Return P(scope) of all scopes, one after the other and last variable fastest, shape (all entries, *batch).

    Args:
        compiled: the circuit.
        scopes: distinct variables each, in any order; the empty scope gives a table of one 1.
        flows: shape (rows, *batch). The result is linear in them: its gradient there is what each row contributes by
            itself, given what lies below it.
        weights: normalised, shape (parameters, *batch).

    Cost: see the module text; for C children on both sides of a split and tables of K entries, C^2 K + C K^2.
    """
    key = ("tables", scopes)
    if key not in compiled.cache:
        compiled.cache[key] = plan_tables(compiled, scopes)
    plan: TablePlan = compiled.cache[key]  # type: ignore[assignment]
    batch = flows.shape[1:]
    flat = (flows.shape[0], batch.numel())
    parts = plan.contractions
    direct, *flow_parts = read(flows.reshape(flat), [plan.flow_rows, *(part.flow for part in parts)])
    sources = [direct, torch.ones_like(direct[:1])]
    if parts:
        conditionals = _ConditionalTables.apply(plan, weights.reshape(weights.shape[0], batch.numel()))
        # One read for all sides, by turns left and right: their gradients meet in one buffer instead of one each.
        sides = read(conditionals, [side for part in parts for side in (part.left, part.right)])
        sources += map(_contract, parts, flow_parts, sides[::2], sides[1::2])
    tables = plan.entries.take(torch.cat(sources))
    if plan.repeats is not None:
        total = tables.new_zeros((plan.num_entries, *tables.shape[1:]))
        tables = total.index_add(0, plan.repeats.index(tables.device), tables)
    return tables.reshape(tables.shape[0], *batch)


def _contract(part: Contraction, flow: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return left^T flow right for every split of one shape, flattened to (rows, batch)."""
    middle = _batch_first(part.flow, flow)
    if part.missing is not None:  # their index is that of some other flow, see `TablePlan`
        exists = torch.as_tensor(~part.missing, dtype=flow.dtype, device=flow.device)
        middle = middle * exists.repeat_interleave(flow.shape[-1], 0)
    blocks = _Sandwich.apply(_batch_first(part.left, left), middle, _batch_first(part.right, right))
    return blocks.unflatten(0, (part.flow.shape[0], flow.shape[-1])).permute(0, 2, 3, 1).flatten(0, 2)


def _batch_first(rows: Rows, taken: Tensor) -> Tensor:
    """Turn (splits * a * b, batch) into (splits * batch, a, b), contiguous: batched products copy others row by row."""
    return taken.unflatten(0, rows.shape).permute(0, 3, 1, 2).flatten(0, 1).contiguous()


class _Sandwich(torch.autograd.Function):
    """left^T middle right for a batch of matrices, keeping every operand of a product contiguous."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, middle: Tensor, right: Tensor) -> Tensor:
        inner = middle @ right
        ctx.save_for_backward(left, middle, right, inner)
        return left.transpose(1, 2) @ inner

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        left, middle, right, inner = ctx.saved_tensors
        gradient = gradient.contiguous()
        to_inner = left @ gradient
        return (
            inner @ gradient.transpose(1, 2),
            to_inner @ right.transpose(1, 2),
            middle.transpose(1, 2) @ to_inner,
        )


_Held = tuple[Tensor, Tensor]
"""What a step keeps for its way back."""


class _Step(NamedTuple):
    """Forward, (step, buffer, weights) -> rows and what to keep, and backward of one kind of operation."""

    forward: Callable[[Any, Tensor, Tensor], tuple[Tensor, _Held]]
    backward: Callable[[Any, _Held, Tensor, Tensor, Tensor], None]


def _total(step: Total, buffer: Tensor, weights: Tensor) -> tuple[Tensor, _Held]:
    """Add up weights."""
    return step.edges.take(weights).unflatten(0, step.edges.shape).sum(1), (buffer, weights)


def _total_backward(step: Total, held: _Held, gradient: Tensor, to_buffer: Tensor, to_weights: Tensor) -> None:
    edges = gradient.unsqueeze(1).expand(*step.edges.shape, *gradient.shape[1:])
    step.edges.add_to(to_weights, edges.flatten(0, 1))


def _mix(step: Mix, buffer: Tensor, weights: Tensor) -> tuple[Tensor, _Held]:
    """Mix children: (sums, entries) = sum over sources of weight * table."""
    tables = step.sources.take(buffer).unflatten(0, step.sources.shape)
    folded = step.edges.take(weights).unflatten(0, step.edges.shape)
    # Edges that share a source share one product, and on the way back each of them gets the same gradient.
    weight = folded if step.edges.shape[2] == 1 else folded.sum(2, keepdim=True)
    return (tables * weight).sum(1).flatten(0, 1), (tables, weight)


def _mix_backward(step: Mix, held: _Held, gradient: Tensor, to_buffer: Tensor, to_weights: Tensor) -> None:
    tables, weight = held
    sums, count, entries = step.sources.shape
    folded = gradient.unflatten(0, (sums, 1, entries))
    step.sources.add_to(to_buffer, (folded * weight).flatten(0, 2))
    edge = (folded * tables).sum(2, keepdim=True).expand(sums, count, step.edges.shape[2], *gradient.shape[1:])
    step.edges.add_to(to_weights, edge.flatten(0, 2))


def _outer(step: Outer, buffer: Tensor, weights: Tensor) -> tuple[Tensor, _Held]:
    """Multiply the tables of independent parts."""
    left, right = step.left.take(buffer), step.right.take(buffer)
    return left * right, (left, right)


def _outer_backward(step: Outer, held: _Held, gradient: Tensor, to_buffer: Tensor, to_weights: Tensor) -> None:
    left, right = held
    step.left.add_to(to_buffer, gradient * right)
    step.right.add_to(to_buffer, gradient * left)


_STEPS = {
    Total: _Step(_total, _total_backward),
    Mix: _Step(_mix, _mix_backward),
    Outer: _Step(_outer, _outer_backward),
}


class _ConditionalTables(torch.autograd.Function):
    """The buffer of conditional tables, shape (plan.num_rows, batch); row 0 is zero, row 1 is one.

    All steps write into one buffer: a chain of 1,000 regions must not copy it 1,000 times.
    """

    @staticmethod
    def forward(ctx: Any, plan: TablePlan, weights: Tensor) -> Tensor:
        buffer = weights.new_empty((plan.num_rows, *weights.shape[1:]))
        buffer[0], buffer[1] = 0.0, 1.0
        # What a step keeps may be a view of the buffer: later steps write only to rows that nobody has read yet.
        held: list[_Held] = []
        for step in plan.steps:
            buffer[step.start : step.stop], kept = _STEPS[type(step)].forward(step, buffer, weights)
            held.append(kept if weights.requires_grad else (buffer, buffer))
        ctx.plan, ctx.held = plan, held
        ctx.save_for_backward(weights)
        return buffer

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        (weights,) = ctx.saved_tensors
        # Last step first: all readers of a row come after the step that made it, so its gradient is complete by then.
        to_buffer, to_weights = gradient.clone(), torch.zeros_like(weights)
        for step, held in zip(reversed(ctx.plan.steps), reversed(ctx.held), strict=True):
            above = to_buffer[step.start : step.stop]
            _STEPS[type(step)].backward(step, held, above, to_buffer, to_weights)
        return None, to_weights
