"""Entropy: exact for deterministic circuits, refused otherwise, with a certified lower bound for every circuit."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import NotTractableError
from circuits.numerics import entropy_term
from circuits.properties import Overlap

if TYPE_CHECKING:
    from circuits.distribution import CircuitDistribution


def entropy(distribution: "CircuitDistribution") -> Float[Tensor, "*batch"]:
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
    return _sum_of_local_entropies(distribution, None)


def entropy_lower_bound(distribution: "CircuitDistribution") -> Float[Tensor, "*batch"]:
    """Return a certified lower bound of the entropy for any circuit, in nats; exact for deterministic ones.

    By concavity a mixture has at least the mean entropy of its parts, so sums that may overlap contribute only
    their children's entropies.

    Returns:
        Shape (*batch), at least 0.
    Cost: one downward pass, O(edges).
    Source: concavity of the entropy; exact_inference literature calls it the conditional-entropy bound.
    """
    circuit = distribution.circuit
    if circuit.is_deterministic:
        return _sum_of_local_entropies(distribution, None)
    from circuits.properties import overlapping_sums

    if "overlapping" not in circuit.compiled.cache:
        keep = torch.ones(circuit.num_parameters, dtype=torch.bool)
        for node in overlapping_sums(circuit):
            keep[circuit.parameters_of(node)] = False
        circuit.compiled.cache["overlapping"] = keep
    return _sum_of_local_entropies(distribution, circuit.compiled.cache["overlapping"])  # type: ignore[arg-type]


def _sum_of_local_entropies(distribution: "CircuitDistribution", keep: Tensor | None) -> Tensor:
    compiled = distribution.circuit.compiled
    terms = entropy_term(distribution.log_weights, distribution.weights)
    if keep is not None:
        terms = torch.where(keep.to(terms.device).reshape(-1, *(1,) * (terms.dim() - 1)), terms, 0.0)
    return (compiled.edge_sum.take(distribution.flows) * terms).sum(0)


def require_deterministic(distribution: "CircuitDistribution", query: str) -> None:
    """Raise `NotTractableError` unless the circuit is proved deterministic."""
    overlap: Overlap | None = distribution.circuit.overlap
    if overlap is not None:
        raise NotTractableError(
            f"{query} needs determinism, but {overlap.describe()}. "
            "Build the structure with structures.keep_set(...), or call entropy_lower_bound() instead."
        )
