"""Divergences: Kullback-Leibler on the same circuit, total correlation and mutual information."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from circuits.errors import NotTractableError
from circuits.numerics import entropy_of, entropy_term, weighted
from circuits.passes import align
from circuits.queries.entropy import entropy, require_deterministic
from circuits.queries.marginal import marginal

if TYPE_CHECKING:
    from circuits.distribution import CircuitDistribution


def kl_divergence(first: "CircuitDistribution", second: "CircuitDistribution") -> Float[Tensor, "*batch"]:
    """Return KL(first || second) in nats, exactly, for two distributions on the same deterministic circuit.

    KL = sum over edges of P(edge is used under first) * (log first weight - log second weight).

    Returns:
        Shape (*batch), the two batch shapes broadcast; at least 0, and +inf where `first` can do what `second` cannot.

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
    dims = max(first.log_weights.dim(), second.log_weights.dim())
    cross = weighted(align(used * first.weights, dims), -align(second.log_weights, dims))
    return (cross - align(used * entropy_term(first.log_weights, first.weights), dims)).sum(0)


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


def mutual_information(
    distribution: "CircuitDistribution", first: Sequence[int], second: Sequence[int]
) -> Float[Tensor, "*batch"]:
    """Return how much one group of variables tells about another, H(A) + H(B) - H(A, B), in nats.

    Args:
        distribution: batch shape (*batch).
        first: variables of group A.
        second: variables of group B; the groups share none.

    Returns:
        Shape (*batch), at least 0 up to rounding.

    Raises:
        EvidenceError: a variable does not exist or is named twice.
        NotTractableError: the joint table of both groups would be too large.

    Cost: one pass that carries the joint table of both groups; no determinism needed.
    """
    joint = marginal(distribution, [*first, *second])
    dims = len(first) + len(second)
    axes = list(range(joint.dim() - dims, joint.dim()))
    alone_first = joint.sum(axes[len(first) :]) if second else joint
    alone_second = joint.sum(axes[: len(first)]) if first else joint
    parts = ((alone_first, len(first)), (alone_second, len(second)), (joint, dims))
    one, two, both = (entropy_of(table).sum(list(range(-k, 0))) if k else entropy_of(table) for table, k in parts)
    return one + two - both
