"""Log-sum-exp that stays finite where everything is forbidden."""

import torch
from jaxtyping import Float
from torch import Tensor


def logsumexp(values: Float[Tensor, "..."], dim: int) -> Float[Tensor, "..."]:
    """Return log(sum(exp(values))) along one dimension.

    A slice of nothing but -inf gives -inf, and its gradient is zero (torch.logsumexp gives nan there):
    the limit of forbidding every entry, and what keeps one impossible row from spoiling a batch.

    Args:
        values: log weights in nats, any shape; -inf means forbidden.
        dim: the dimension to sum over; it must not be empty.

    Returns:
        The shape of `values` without `dim`.
    Cost: one read for the maximum, one exp per entry.
    """
    largest = values.detach().amax(dim)
    empty = largest == -torch.inf
    shift = largest.masked_fill(empty, 0.0).unsqueeze(dim)
    total = (values - shift).exp().sum(dim)
    # log(0) has an infinite slope, and inf * 0 is nan; with 1 added an empty sum gives log(1), gradient zero.
    return (total + empty).log() + largest
