"""Divergences: Kullback-Leibler on the same circuit, and total correlation."""

from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from circuits.errors import NotTractableError
from circuits.numerics import entropy_of, entropy_term, weighted
from circuits.queries.entropy import entropy, require_deterministic

if TYPE_CHECKING:
    from circuits.distribution import CircuitDistribution


def kl_divergence(first: "CircuitDistribution", second: "CircuitDistribution") -> Float[Tensor, "*batch"]:
    """Return KL(first || second) in nats, exactly, for two distributions on the same deterministic circuit.

    KL = sum over edges of P(edge is used under first) * (log first weight - log second weight).

    Returns:
        Shape (*batch), at least 0; +inf where `first` can do what `second` cannot.

    Raises:
        NotTractableError: the circuits differ, or are not deterministic.
    Requires: determinism.
    Cost: one downward pass.
    Source: Vergari et al. 2021, A compositional atlas of tractable circuit operations.
    """
    if first.circuit is not second.circuit:
        raise NotTractableError(
            "kl_divergence needs both distributions on the same circuit object; build the structure once and share it."
        )
    require_deterministic(first, "kl_divergence")
    compiled = first.circuit.compiled
    used = compiled.edge_sum.take(first.flows)
    edges = used * first.weights
    cross = weighted(edges, -second.log_weights)
    return (cross - used * entropy_term(first.log_weights, first.weights)).sum(0)


def total_correlation(distribution: "CircuitDistribution") -> Float[Tensor, "*batch"]:
    """Return the total correlation sum_i H(u_i) - H(u), in nats: how far the agents are from independent.

    Returns:
        Shape (*batch), at least 0 up to rounding; 0 exactly for independent agents.

    Raises:
        NotTractableError: some sum is not deterministic.
    Requires: determinism.
    Cost: one downward pass.
    Source: Watanabe 1960.
    """
    joint = entropy(distribution)
    compiled = distribution.circuit.compiled
    probabilities = distribution.flows[: compiled.num_values]
    return entropy_of(probabilities).sum(0) - joint
