"""Gradient steps: the optimiser that all algorithms use, and one guarded step of it."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


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


def descend(loss: Tensor, optimizer: torch.optim.Optimizer, max_gradient_norm: float) -> float:
    """Do one gradient step on `loss`, with the gradient shortened to `max_gradient_norm` if it is longer.

    A gradient that is not finite leaves the parameters alone; the caller sees it in the returned number.

    Returns:
        The norm of the gradient before it was shortened.
    """
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = float(nn.utils.clip_grad_norm_(parameters, max_gradient_norm))
    if norm < float("inf"):
        optimizer.step()
    return norm
