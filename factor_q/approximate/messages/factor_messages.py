"""Messages between factors and variables, all of one kind in one vector, for sum-product and max-product alike."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.variables import value_offsets
from factor_q.approximate.bundles import Bundle, View, make_bundles, take
from factor_q.graph import FactorGraph
from factor_q.limits import Rounds

Reduce = Callable[[Tensor, int], Tensor]
"""logsumexp or torch.amax along a dimension."""


class MessageGraph(NamedTuple):
    """Layout of one message per (factor, variable) meeting."""

    size: int
    """Numbers in all messages of one direction."""
    num_values: int
    """Values of all variables together."""
    bundles: tuple[Bundle, ...]
    """Every factor seen from each of its variables; the sides are messages."""
    by_variable: tuple[tuple[Int[Tensor, "members"], tuple[Bundle, ...]], ...]
    """The same for subsets of variables that share no factor, in an order in which they may be decoded."""
    factors: tuple[Bundle, ...]
    """Every factor that is not constant, seen once."""
    belongs: Int[Tensor, "numbers"]
    """The (variable, value) that each number of a message is about."""
    meetings: Int[Tensor, "meetings values"]
    """Where each message lies; beyond the values of its variable this points one past the end."""
    values: Int[Tensor, "variables values"]
    """Where each (variable, value) lies; beyond the values of the variable one past the end."""


@lru_cache(maxsize=128)
def message_graph(graph: FactorGraph, device: torch.device, groups: tuple[tuple[int, ...], ...] = ()) -> MessageGraph:
    """Lay the messages out; `groups` are the subsets of variables for `by_variable`."""
    first_value = value_offsets(graph.cardinalities)
    belongs: list[int] = []
    runs: list[tuple[int, int]] = []
    seen: dict[int, list[View]] = {v: [] for v in range(graph.num_variables)}
    for factor, scope in enumerate(graph.scopes):
        starts: list[int] = []
        for v in scope:
            starts.append(len(belongs))
            runs.append((len(belongs), graph.cardinalities[v]))
            belongs.extend(range(first_value[v], first_value[v + 1]))
        for axis, v in enumerate(scope):
            # The axis that receives comes first, so that one reduction over all the others serves every view.
            axes = [axis, *(j for j in range(len(scope)) if j != axis)]
            seen[v].append(View(factor, tuple((j,) for j in axes), tuple(starts[j] for j in axes)))
    every = [view for views in seen.values() for view in views]
    once = [view for view in every if view.sides[0] == (0,)]
    with torch.inference_mode(False):
        by_variable = [
            (
                torch.tensor(members, dtype=torch.long, device=device),
                make_bundles(graph, (view for v in members for view in seen[v]), device),
            )
            for members in groups
        ]
        return MessageGraph(
            len(belongs),
            first_value[-1],
            make_bundles(graph, every, device),
            tuple(by_variable),
            make_bundles(graph, once, device),
            torch.tensor(belongs, dtype=torch.long, device=device),
            _padded(runs, len(belongs), device),
            _padded(list(zip(first_value, graph.cardinalities, strict=False)), first_value[-1], device),
        )


def _padded(runs: list[tuple[int, int]], past: int, device: torch.device) -> Int[Tensor, "rows columns"]:
    """Return one row of consecutive positions per (start, length), padded with `past`."""
    most = max((length for _, length in runs), default=0)
    rows = [list(range(start, start + length)) + [past] * (most - length) for start, length in runs]
    return torch.tensor(rows, dtype=torch.long, device=device).reshape(len(runs), most)


def rows_of(numbers: Float[Tensor, "*batch all"], rows: Int[Tensor, "rows columns"]) -> Float[Tensor, "..."]:
    """Return numbers[..., rows], -inf where a row points past the end; shape (*batch, rows, columns)."""
    past = numbers.new_full((*numbers.shape[:-1], 1), -torch.inf)
    return take(torch.cat([numbers, past], -1), rows)


def total_and_rest(
    layout: MessageGraph, messages: Float[Tensor, "*batch numbers"]
) -> tuple[Float[Tensor, "*batch values"], Float[Tensor, "*batch numbers"]]:
    """Return the sum of the messages at each value of each variable, and that sum without each message itself.

    -inf cannot be subtracted again, so the infinite messages are counted apart from the finite ones.
    """
    blocked = messages == -torch.inf
    finite = messages.masked_fill(blocked, 0.0)
    shape = (*messages.shape[:-1], layout.num_values)
    total = messages.new_zeros(shape).index_add(-1, layout.belongs, finite)
    count = messages.new_zeros(shape).index_add(-1, layout.belongs, blocked.to(messages.dtype))
    rest = total.index_select(-1, layout.belongs) - finite
    others = count.index_select(-1, layout.belongs) - blocked.to(messages.dtype)
    return total.masked_fill(count > 0, -torch.inf), rest.masked_fill(others > 0, -torch.inf)


def joined(bundle: Bundle, tables: Tensor, to_factors: Tensor, *, with_target: bool) -> Float[Tensor, "..."]:
    """Return the tables plus the messages of every side, or of every side but the first."""
    for side in range(0 if with_target else 1, len(bundle.shape)):
        message = take(to_factors, bundle.sides[side])
        tail = (1,) * (len(bundle.shape) - 1 - side)
        tables = tables + message.unflatten(-1, (*(1,) * side, bundle.shape[side], *tail))
    return tables


def to_variables(
    bundles: tuple[Bundle, ...], tables: list[Tensor], to_factors: Float[Tensor, "*batch numbers"], reduce: Reduce
) -> Float[Tensor, "*batch numbers"]:
    """Return the messages from factors to variables, each up to the constant that the factor gives it."""
    result = torch.zeros_like(to_factors)
    for bundle, table in zip(bundles, tables, strict=True):
        joint = joined(bundle, table, to_factors, with_target=False)
        # A factor of one variable has nothing to reduce: one option, which flatten cannot make of no axis.
        joint = joint.flatten(to_factors.ndim + 1) if len(bundle.shape) > 1 else joint.unsqueeze(-1)
        message = reduce(joint, -1).flatten(-2)
        result = result.index_copy(-1, bundle.sides[0].flatten(), message.expand(*result.shape[:-1], -1))
    return result


def normalized(layout: MessageGraph, messages: Float[Tensor, "*batch numbers"], reduce: Reduce) -> Tensor:
    """Shift every message so that it reduces to 0; a message of nothing but -inf stays."""
    if not layout.size:
        return messages
    shift = reduce(rows_of(messages, layout.meetings), -1)
    shift = shift.masked_fill(shift == -torch.inf, 0.0)
    lengths = (layout.meetings < layout.size).sum(-1)
    return messages - shift.repeat_interleave(lengths, -1, output_size=layout.size)


def damped(old: Tensor, new: Tensor, damping: float) -> Tensor:
    """Return damping * old + (1 - damping) * new; what is forbidden in one of them is forbidden."""
    blocked = (old == -torch.inf) | (new == -torch.inf)
    mixed = damping * old.masked_fill(blocked, 0.0) + (1 - damping) * new.masked_fill(blocked, 0.0)
    return mixed.masked_fill(blocked, -torch.inf)


def change(old: Tensor, new: Tensor) -> Float[Tensor, "*batch"]:
    """Return the largest difference of two messages of each row; equal infinities differ by 0."""
    if not old.shape[-1]:
        return old.new_zeros(old.shape[:-1])
    return torch.where(old == new, 0.0, new - old).abs().amax(-1)


def pass_messages(
    layout: MessageGraph,
    flat: Float[Tensor, "*batch entries"],
    messages: Float[Tensor, "*batch numbers"],
    reduce: Reduce,
    damping: float,
    rounds: Rounds,
    note: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Float[Tensor, "*batch numbers"], Bool[Tensor, "*batch"], int]:
    """Pass messages, all at once in every iteration, until none changes by more than the tolerance.

    Begins with given messages to variables. `note` takes the messages to factors and the largest change of each row,
    and returns what is reported. Returns the last messages to variables, the rows that converged, and the iterations.
    """
    tables = [bundle.tables(flat) for bundle in layout.bundles]
    _, rest = total_and_rest(layout, messages)
    steps, converged = 0, torch.zeros(flat.shape[:-1], dtype=torch.bool, device=flat.device)
    for steps in rounds:
        new = normalized(layout, to_variables(layout.bundles, tables, rest, reduce), reduce)
        # Measured before damping, which makes every change look small.
        residual = change(messages, new)
        messages = damped(messages, new, damping)
        _, rest = total_and_rest(layout, messages)
        converged = residual <= rounds.tolerance
        rounds.report(steps, note(rest, residual))
        if bool(converged.all()):
            break
    return messages, converged, steps
