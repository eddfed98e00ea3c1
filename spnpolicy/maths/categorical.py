"""Independent categorical policies under action masks: pure functions on logits, one row per agent."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits import numerics


def masked_log_probs(
    logits: Float[Tensor, "*batch actions"], available: Bool[Tensor, "*batch actions"]
) -> Float[Tensor, "*batch actions"]:
    """Return log probabilities, -inf for what is not available; gradients are finite everywhere.

    Args:
        logits: unnormalised log weights; -inf where an action does not exist.
        available: which actions may be chosen, at least one per row.
    """
    log_weights = logits.masked_fill(~available, -torch.inf)
    return log_weights - numerics.logsumexp(log_weights, -1).unsqueeze(-1)


def entropy(log_probs: Float[Tensor, "*batch actions"]) -> Float[Tensor, "*batch"]:
    """Return the entropy of each row in nats; impossible actions count nothing, in value and gradient."""
    return numerics.entropy_term(log_probs, log_probs.exp()).sum(-1)


def expected(log_probs: Float[Tensor, "*batch actions"], values: Float[Tensor, "*batch actions"]) -> Tensor:
    """Return the mean of values under each row, shape (*batch,); impossible actions count nothing."""
    return numerics.weighted(log_probs.exp(), values).sum(-1)


def sample(log_probs: Float[Tensor, "*batch actions"], generator: torch.Generator) -> Int[Tensor, "*batch"]:
    """Draw an action from each row; never one of probability zero. The generator lives on the CPU."""
    rows = log_probs.detach().cpu().exp().flatten(0, -2)
    uniform = torch.rand(len(rows), generator=generator, dtype=rows.dtype)
    return numerics.choose(rows, uniform).view(log_probs.shape[:-1])
