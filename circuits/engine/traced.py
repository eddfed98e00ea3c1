"""The log-likelihood as one opaque operator, so that `torch.compile` traces whatever calls it as a single graph.

Inside a graph the circuit is a number. The operator then runs what runs without compiling: matrix products or machine
code, chosen by the numbers, which a traced graph could not do.
"""

from typing import Any

import torch
from torch import Tensor

from circuits.engine.layers import by_number
from circuits.engine.likelihood import log_likelihood


@torch.library.custom_op("circuits::log_likelihood", mutates_args=())
def traced_log_likelihood(number: int, logits: Tensor, log_values: Tensor) -> Tensor:
    """Return `log_likelihood` of the circuit of a number; differentiable once."""
    return log_likelihood(by_number[number], logits.detach(), log_values.detach())


@torch.library.custom_op("circuits::log_likelihood_gradients", mutates_args=())
def _gradients(number: int, logits: Tensor, log_values: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        inputs = logits.detach().requires_grad_(), log_values.detach().requires_grad_()
        result = log_likelihood(by_number[number], *inputs)
    to_logits, to_values = torch.autograd.grad(result, inputs, gradient)
    # A custom operator may return neither an input nor a view of one, and a gradient can be either.
    return to_logits.clone(), to_values.clone()


@traced_log_likelihood.register_fake
def _(number: int, logits: Tensor, log_values: Tensor) -> Tensor:
    return log_values.new_empty(log_values.shape[1:])


@_gradients.register_fake
def _(number: int, logits: Tensor, log_values: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(logits), torch.empty_like(log_values)


def _keep(ctx: Any, inputs: tuple[int, Tensor, Tensor], output: Tensor) -> None:
    number, logits, log_values = inputs
    ctx.number = number
    ctx.save_for_backward(logits, log_values)


def _backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor]:
    return None, *_gradients(ctx.number, *ctx.saved_tensors, gradient)


traced_log_likelihood.register_autograd(_backward, setup_context=_keep)
