"""Entropy: exact for deterministic circuits, refused otherwise."""

from jaxtyping import Float
from torch import Tensor

from circuits.errors import NotTractableError
from circuits.numerics import entropy_term
from circuits.weights import WeightedCircuit


def entropy(distribution: WeightedCircuit) -> Float[Tensor, "*batch"]:
    """Return the exact entropy of the joint distribution, in nats.

    H = -sum_u p(u) log p(u). At a deterministic sum the mixture entropy splits into weights and children, so
    H = sum over sums of P(sum is used) * entropy of its weights.

    Returns:
        Shape (*batch), between 0 and the sum of the log cardinalities. Differentiable.

    Raises:
        NotTractableError: some sum is not deterministic; the message names it. `entropy_lower_bound` still works.
    Requires: determinism.
    Cost: one downward pass, O(edges).
    Source: Shih and Ermon 2020 (exact ELBO with selective SPNs).
    """
    require_deterministic(distribution, "entropy")
    return sum_of_local_entropies(distribution)


def sum_of_local_entropies(distribution: WeightedCircuit) -> Tensor:
    """Return the entropy of values and choices together: the exact entropy if values determine the choices."""
    compiled = distribution.circuit.compiled
    terms = entropy_term(distribution.log_weights, distribution.weights)
    return (compiled.edge_sum.take(distribution.flows) * terms).sum(0)


def require_deterministic(
    distribution: WeightedCircuit, query: str, way_out: str = "or call entropy_lower_bound() instead"
) -> None:
    """Raise `NotTractableError` unless the circuit is proved deterministic."""
    overlap = distribution.circuit.overlap
    if overlap is not None:
        raise NotTractableError(
            f"{query} needs determinism, but {overlap.describe()}. "
            f"Build the structure with structures.keep_set(...), {way_out}."
        )
