"""Variance of the log probability: how much the surprise of a sample varies."""

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.passes import push_up
from circuits.numerics import entropy_term
from circuits.queries.entropy import require_deterministic
from circuits.weights import WeightedCircuit


def log_prob_variance(distribution: WeightedCircuit) -> Float[Tensor, "*batch"]:
    """Return Var[log p(u)] for u drawn from the distribution, exactly, in nats squared.

    With the entropy it standardises an anomaly score: (-log p(u) - H) / sqrt(Var). At a product the variances of
    independent parts add up; at a deterministic sum the law of total variance holds, so with h(c) the entropy below c

        Var = sum over sums s of P(s is used) * sum_j w_j (h(child j) - log w_j - h(s))^2.

    Returns:
        Shape (*batch), at least 0; 0 where all possible values are equally likely. Differentiable.

    Raises:
        NotTractableError: some sum is not deterministic; the message names it.
    Requires: determinism.
    Cost: one upward and one downward pass, O(edges).
    Source: the second-moment recursion, written with central moments, which lose no digits.
    """
    require_deterministic(distribution, "log_prob_variance", "or estimate it from the log_prob of samples")
    compiled = distribution.circuit.compiled
    log_weights, weights = distribution.log_weights, distribution.weights
    local = log_weights.new_zeros((compiled.num_rows, *log_weights.shape[1:]))
    local = local.index_add(0, compiled.edge_sum.index(weights.device), entropy_term(log_weights, weights))
    entropies = push_up(compiled, weights, local)
    # An edge of weight zero counts nothing, but its surprise may be infinite, or overflow when squared.
    surprise = -torch.where(weights > 0, log_weights, 0.0)
    deviation = compiled.edge_child.take(entropies) + surprise - compiled.edge_sum.take(entropies)
    return (compiled.edge_sum.take(distribution.flows) * weights * deviation.square()).sum(0)
