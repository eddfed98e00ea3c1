"""Gradient steps: the optimiser that all algorithms use, and one guarded step of it."""

import math
from collections.abc import Iterable
from itertools import chain

import torch
from torch import Tensor, nn

from spnpolicy.base.distributed import average


def make_optimizer(parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Adam:
    """Return Adam in its fused form, which needs one call for all parameters on every device we use.

    Raises:
        ValueError: a parameter is not contiguous. Fused Adam walks through parameter and moments side by side in
            memory, and moments loaded from a checkpoint are contiguous: it would pair the wrong entries silently.
    """
    parameters = list(parameters)
    if not all(parameter.is_contiguous() for parameter in parameters):
        raise ValueError("every parameter must be contiguous: make it with nn.Parameter(tensor.contiguous()).")
    return torch.optim.Adam(parameters, lr=learning_rate, fused=True)


def descend(*steps: tuple[Tensor, torch.optim.Optimizer], max_gradient_norm: float) -> list[float]:
    """Do one gradient step on each loss with its optimiser, together or not at all.

    All gradients are computed before the first parameter moves; in a run of several processes they are averaged over
    these. Each is shortened to `max_gradient_norm` if it is longer. If any loss or gradient is not finite, no parameter
    and no moment of any optimiser changes, and the caller sees it in the returned numbers.

    Args:
        steps: losses and the optimisers of their parameters; a loss must not depend on another's parameters.
        max_gradient_norm: longest gradient.

    Returns:
        The norm of each gradient before it was shortened, nan or infinite where it is so.
    """
    gradients: list[list[Tensor]] = []
    for loss, optimizer in steps:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        gradients.append([parameter.grad for parameter in _parameters(optimizer) if parameter.grad is not None])
    losses = [loss.detach().clone() for loss, _ in steps]
    average([*chain(*gradients), *losses])
    norms = [nn.utils.get_total_norm(each) for each in gradients]
    lengths = [float(norm) for norm in norms]
    if all(map(math.isfinite, lengths)) and all(bool(loss.isfinite()) for loss in losses):
        for (_, optimizer), norm, length in zip(steps, norms, lengths, strict=True):
            if length >= max_gradient_norm:
                nn.utils.clip_grads_with_norm_(_parameters(optimizer), max_gradient_norm, norm)
            optimizer.step()
        return lengths
    return [length if bool(loss.isfinite()) else math.nan for length, loss in zip(lengths, losses, strict=True)]


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
