"""The only place that calls logsumexp and friends; minus infinity is a normal value with zero gradient."""

from typing import Any

import torch
from torch import Tensor

NEGATIVE_INFINITY = float("-inf")


def logsumexp(values: Tensor, dim: int) -> Tensor:
    """Return log(sum(exp(values))) along a dimension that is not empty.

    A slice of nothing but -inf gives -inf, and its gradient is zero (torch.logsumexp gives nan there): the limit of
    forbidding every entry, and what keeps one impossible row from spoiling a batch.
    """
    largest = values.detach().amax(dim)
    empty = largest == NEGATIVE_INFINITY
    shift = largest.masked_fill(empty, 0.0).unsqueeze(dim)
    total = (values - shift).exp().sum(dim)
    # log(0) has an infinite slope, and inf * 0 is nan; with 1 added an empty sum gives log(1), gradient zero.
    return (total + empty).log() + largest


def shifted_exp(values: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return exp(values - shift) and the shift: the largest value along a dimension, or the lowest number for -inf."""
    shift = values.amax(dim, keepdim=True).clamp_min_(torch.finfo(values.dtype).min)
    return (values - shift).exp_(), shift


def keep_precision(totals: Tensor, parts: Tensor, dim: int) -> tuple[bool, bool]:
    """Return whether no digits were lost in sums of `shifted_exp` times weights, and whether all sums are positive.

    Args:
        totals: the sums.
        parts: the exponentials, at most 1, that were summed along `dim`.
        dim: of the parts.

    A term that underflows is below the smallest number; relative to totals of `small` or more it is below rounding.
    """
    info = torch.finfo(totals.dtype)
    small = info.tiny / info.eps
    if not totals.numel() or totals.amin() >= small:
        return True, True
    return not ((totals < small) & (parts.amax(dim, keepdim=True) > 0)).any(), False


def softmax_into(x: Tensor, log_weights: Tensor, weights: Tensor, *, dim: int) -> None:
    """Write log softmax and softmax along a dimension, with one exponential per entry for both.

    Entries of -inf get probability zero. The gradient is `softmax_gradient`.
    """
    torch.sub(x, x.amax(dim, keepdim=True), out=log_weights)
    torch.exp(log_weights, out=weights)
    total = weights.sum(dim, keepdim=True)
    weights /= total
    log_weights -= total.log()


def softmax_gradient(to_log_weights: Tensor, to_weights: Tensor, weights: Tensor, dim: int) -> Tensor:
    """Return the gradient to the unnormalised logs; zero where the weight is zero and nothing else flows."""
    gradient = to_log_weights + to_weights * weights
    return gradient - weights * gradient.sum(dim, keepdim=True)


def exponentials(x: Tensor, dim: int) -> Tensor:
    """Replace x by exp(x - its largest along a dimension), in place, and return the totals along it."""
    x -= x.amax(dim, keepdim=True)
    return x.exp_().sum(dim)


def posterior(log_joint: Tensor, log_total: Tensor) -> Tensor:
    """Return exp(log_joint - log_total), and zero where the joint weight is zero.

    The plain difference is nan when both are -inf; nothing flows there, so zero is the limit we want.
    """
    possible = log_joint > NEGATIVE_INFINITY
    difference = torch.where(possible, log_joint, 0.0) - torch.where(possible, log_total, 0.0)
    return torch.where(possible, difference.exp(), 0.0)


def add_logs_into(held: Tensor, index: Tensor, amounts: Tensor) -> Tensor:
    """Return log(exp(held[r]) + sum of exp(amounts[i]) over all i with index[i] = r) for every row r.

    -inf is a normal amount. Not meant to be differentiated.
    """
    largest = max_into(held, index, amounts)
    shift = torch.where(largest > NEGATIVE_INFINITY, largest, 0.0)
    total = (held - shift).exp().index_add(0, index, (amounts - shift.index_select(0, index)).exp())
    return total.log() + shift


def max_into(held: Tensor, index: Tensor, amounts: Tensor) -> Tensor:
    """Return the largest of held[r] and all amounts[i] with index[i] = r, for every row r."""
    spread = index.reshape(-1, *(1,) * (amounts.dim() - 1)).expand_as(amounts)
    return held.scatter_reduce(0, spread, amounts, "amax")


class _EntropyTerm(torch.autograd.Function):
    """-w l for w = exp(l), with value and gradient zero at l = -inf (autograd alone gives nan there).

    All of the gradient goes to l. The weights are still an input that autograd knows, for the second derivative.
    """

    @staticmethod
    def forward(ctx: Any, log_weights: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(log_weights, weights)
        return -weights * _finite(log_weights)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        log_weights, weights = ctx.saved_tensors
        return -grad * weights * (_finite(log_weights) + 1), None


def _finite(log_weights: Tensor) -> Tensor:
    """Replace -inf by the lowest number, whose product with weight zero is zero and not nan."""
    return log_weights.clamp(min=torch.finfo(log_weights.dtype).min)


def entropy_term(log_weights: Tensor, weights: Tensor) -> Tensor:
    """Return -w log w elementwise, in nats, for `weights` equal to exp(log_weights); the gradient is to the logs."""
    return _EntropyTerm.apply(log_weights, weights)  # type: ignore[no-any-return]


def weighted(probability: Tensor, value: Tensor) -> Tensor:
    """Return probability * value, where an impossible event counts nothing even if its value is infinite."""
    if torch.isfinite(value.sum()):  # a finite sum has finite terms only
        return probability * value
    ignored = (probability == 0) & ~torch.isfinite(value)
    return probability * torch.where(ignored, 0.0, value)


def choose(weights: Tensor, uniform: Tensor) -> Tensor:
    """Draw one index along the last dimension by inverse transform; never an entry of weight zero.

    Args:
        weights: non-negative, shape (rows, options), each row with a positive sum.
        uniform: numbers in [0, 1), shape (rows,).

    Returns:
        Indices, shape (rows,).
    """
    cumulative = weights.cumsum(-1)
    threshold = uniform * cumulative[:, -1]
    # Rounding can lift the threshold to the total; zero then selects the first possible entry.
    threshold = torch.where(threshold < cumulative[:, -1], threshold, 0.0)
    return (cumulative <= threshold.unsqueeze(-1)).sum(-1)


def entropy_of(probability: Tensor) -> Tensor:
    """Return -p log p elementwise, in nats, with value and gradient zero at p = 0."""
    # Its slope there is infinite. 1 log 1 is zero as well, and what stands in for p passes no gradient on.
    return torch.special.entr(torch.where(probability == 0, 1.0, probability))


def choose_from_table(weights: Tensor, rows: Tensor, uniform: Tensor) -> Tensor:
    """Draw one index from a row of a table for each entry of `rows`; for many draws per row.

    One binary search in all cumulative sums laid end to end: row r occupies the interval (r, r + 1]. The uniform
    numbers are cut to as many bits as leave `r + u` exact, so that no draw slips into the next row or onto an
    entry of weight zero.

    Args:
        weights: non-negative, shape (table rows, options), each row with a positive sum.
        rows: which row to draw from, shape (draws,).
        uniform: float64 numbers in [0, 1), shape (draws,).

    Returns:
        Indices, shape (draws,).
    """
    count, options = weights.shape
    cumulative = weights.double().cumsum(-1)
    shares = cumulative / cumulative[:, -1:]
    ends = (shares + torch.arange(count, device=weights.device).unsqueeze(-1)).flatten()
    scale = 2.0 ** (52 - count.bit_length())
    targets = rows + (uniform * scale).floor() / scale
    return torch.searchsorted(ends, targets, right=True) - rows * options
