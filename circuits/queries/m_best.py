"""The m most probable joint values, exactly."""

import torch
from torch import Tensor

from circuits.engine.layers import CompiledCircuit, ProductLayer
from circuits.engine.passes import log_root
from circuits.errors import NotTractableError
from circuits.numerics import NEGATIVE_INFINITY
from circuits.queries.entropy import require_deterministic
from circuits.queries.mode import Best
from circuits.shapes import check_count
from circuits.weights import WeightedCircuit

_MAX_ENTRIES = 2**26
"""Of the lists of all rows together; sorting holds several times as much."""


def m_best(distribution: WeightedCircuit, count: int) -> Best:
    """Return the `count` most probable joint values and their log probabilities, best first.

    Every row of the circuit keeps a sorted list of its best partial values: a product merges two lists by sums, a
    deterministic sum merges its children's, whose values differ. Ties are broken by position, so equal numbers give
    equal answers.

    Args:
        distribution: batch shape (*batch).
        count: how many values, at least 1 and at most the number of possible ones.

    Returns:
        Assignments, shape (count, *batch, variables), and their log probabilities in nats, shape (count, *batch). No
        gradient.

    Raises:
        NotTractableError: some sum is not deterministic; the message names it. Or the lists would be too large.
        ValueError: `count` is less than 1, or some batch row has fewer possible values; the message says how many.
    Requires: determinism.
    Cost: O(edges * count) to read, and to sort per product count * log(count) candidates and per sum at most
        count * min(children, count); one upward and one downward pass.
    Source: the k-best extension of MAP, Choi, Vergari and Van den Broeck 2020, with sorted lists for maxima.

    Example:
        >>> import torch, circuits
        >>> c = circuits.structures.mean_field([2, 2])
        >>> pi = circuits.CircuitDistribution(c, torch.tensor([0.0, 1.0, 0.0, 3.0]))
        >>> pi.m_best(2).assignment.tolist()
        [[1, 1], [0, 1]]
    """
    check_count("m_best", count)
    require_deterministic(distribution, "m_best", "or take the best of many samples by log_prob")
    compiled = distribution.circuit.compiled
    with torch.no_grad():
        size = distribution.batch_shape.numel()
        log_weights = distribution.log_weights.detach().reshape(compiled.num_parameters, size)
        _check_count(compiled, log_weights, count)
        pairs = _useful_pairs(count, log_weights.device)
        log_probs, picks = _best_lists(compiled, log_weights, pairs, count)
        values = _read_values(compiled, _ranks_used(compiled, picks, pairs, count, size)).movedim(0, -1)
    batch = distribution.batch_shape
    return Best(values.reshape(count, *batch, len(compiled.cardinalities)), log_probs.reshape(count, *batch))


def _check_count(compiled: CompiledCircuit, log_weights: Tensor, count: int) -> None:
    """Raise before any list is made where there are fewer values than asked for, or the lists would not fit."""
    # Each possible joint value counts once in a deterministic circuit, so the passes that add up weights count them.
    ones = torch.where(log_weights > NEGATIVE_INFINITY, 0.0, NEGATIVE_INFINITY).double()
    possible = log_root(compiled, ones, ones.new_zeros(compiled.num_values, ones.shape[1])).exp().round()
    if possible.numel() and count > (least := float(possible.min())):
        row = int(possible.argmin())
        raise ValueError(
            f"m_best was asked for {count:,} values, but only {least:,.0f} are possible"
            + (f" in batch row {row}" if len(possible) > 1 else "")
            + "; ask for no more than that, or allow more by evidence."
        )
    if (entries := compiled.num_rows * count * len(possible)) > _MAX_ENTRIES:
        raise NotTractableError(
            f"m_best would keep {entries:,} entries, {count:,} for each of {compiled.num_rows:,} rows of the circuit "
            f"and {len(possible):,} of the batch, more than {_MAX_ENTRIES:,}. Ask for fewer, or sample."
        )


def _useful_pairs(count: int, device: torch.device) -> Tensor:
    """Return the pairs of ranks (2, pairs) that can be among the `count` best sums of two sorted lists.

    Pair (a, b) is beaten or tied by (a + 1)(b + 1) - 1 others, so there are only about count * log(count) of them.
    """
    pairs = [(a, b) for a in range(count) for b in range(count // (a + 1))]
    return torch.tensor(pairs, device=device).T


def _best_lists(
    compiled: CompiledCircuit, log_weights: Tensor, pairs: Tensor, count: int
) -> tuple[Tensor, list[Tensor]]:
    """Return the root's sorted list (count, batch), and per layer where each entry of each list comes from.

    An entry of a product comes from a column of `pairs`, one of a sum from `count` * child + rank.
    """
    values = log_weights.new_full((compiled.num_rows, count, log_weights.shape[1]), NEGATIVE_INFINITY)
    values[: compiled.num_values, 0] = 0.0
    picks: list[Tensor] = []
    for layer in compiled.layers:
        if isinstance(layer, ProductLayer):
            candidates = layer.left.take(values)[:, pairs[0]] + layer.right.take(values)[:, pairs[1]]
            ordered, order = _sort(candidates)
            origin = order[:, :count]
        else:
            joint = layer.fold(layer.children.take(values) + log_weights[layer.edges].unsqueeze(1))
            ordered, origin = _merge(joint, count)
        values[layer.start : layer.stop] = ordered[:, :count]
        picks.append(origin)
    return values[compiled.root].clone(), picks


def _merge(joint: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Merge the sorted lists of children, (sums, children, count, batch), and say where the entries come from.

    With children in order of their best entries, entry r of child c is beaten or tied by the best of the c children
    before it and by r of its list, so only c + r < count matters.
    """
    children = _sort(joint[:, :, 0])[1][:, :count]
    kept = joint.gather(1, children.unsqueeze(2).expand(-1, -1, count, -1))
    column, rank = (torch.arange(length, device=joint.device) for length in kept.shape[1:3])
    place, entry = (column.unsqueeze(1) + rank < count).nonzero(as_tuple=True)
    ordered, order = _sort(kept[:, place, entry])
    origins = children[:, place] * count + entry.reshape(1, -1, 1)
    return ordered, origins.gather(1, order[:, :count])


def _sort(candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Sort along the second axis, best first; torch.topk promises no order among equals, a stable sort does."""
    ordered, order = candidates.sort(stable=True, dim=1, descending=True)
    return ordered, order


def _ranks_used(compiled: CompiledCircuit, picks: list[Tensor], pairs: Tensor, count: int, size: int) -> Tensor:
    """Walk down from the root: 1 + the rank that each answer takes from each row's list, 0 where it uses none.

    An answer uses a row at most once, because all rows that it uses have different scopes or are each other's child.
    """
    used = pairs.new_zeros((compiled.num_rows, count, size))
    used[compiled.root] = torch.arange(1, count + 1, device=pairs.device).unsqueeze(1)
    for layer, order in zip(reversed(compiled.layers), reversed(picks), strict=True):
        wanted = used[layer.start : layer.stop]
        active = wanted > 0
        pick = order.gather(1, (wanted - 1).clamp(min=0))
        if isinstance(layer, ProductLayer):
            layer.left.add_to(used, torch.where(active, pairs[0][pick] + 1, 0))
            layer.right.add_to(used, torch.where(active, pairs[1][pick] + 1, 0))
        else:
            slots = torch.arange(layer.fan_in, device=pairs.device).reshape(1, -1, 1, 1)
            chosen = active.unsqueeze(1) & ((pick // count).unsqueeze(1) == slots)
            ranks = torch.where(chosen, (pick % count + 1).unsqueeze(1), 0)
            layer.children.add_to(used, ranks.flatten(0, 1))
    return used[: compiled.num_values]


def _read_values(compiled: CompiledCircuit, used: Tensor) -> Tensor:
    """Return the value of each variable, shape (variables, count, batch), from the indicators in use."""
    parts = [
        (used[start:stop] > 0).long().argmax(0)
        for start, stop in zip(compiled.offsets, compiled.offsets[1:], strict=False)
    ]
    return torch.stack(parts)
