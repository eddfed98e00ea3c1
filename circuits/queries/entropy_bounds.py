"""Certified bounds of the entropy for every circuit; both are exact for deterministic ones."""

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.overlaps import OverlapPlan, SumOfPairs, plan_overlaps
from circuits.numerics import entropy_of, entropy_term
from circuits.properties import Disjointness
from circuits.queries.entropy import sum_of_local_entropies
from circuits.weights import WeightedCircuit


def entropy_lower_bound(distribution: WeightedCircuit) -> Float[Tensor, "*batch"]:
    """Return a certified lower bound of the entropy for any circuit, in nats; exact for deterministic ones.

    Sums with disjoint children contribute the entropy of their weights, as in `entropy`. A sum p = sum_i w_i p_i that
    may overlap contributes the pairwise bound

        H(p) >= sum_i w_i H(p_i) - sum_i w_i log sum_j w_j BC(p_i, p_j),    BC(p, q) = sum_u sqrt(p(u) q(u)),

    where BC is itself bounded from above: BC of products is the product over parts that split alike (1 for parts that
    do not), and BC(sum_i a_i p_i, sum_j b_j q_j) <= min(1, sum_ij sqrt(a_i b_j) BC(p_i, q_j)). It is never below
    the mean entropy of the children (concavity). Sums of more than 64 children, and those that would take more than
    2^17 pairs of nodes in all, contribute that mean only.

    Returns:
        Shape (*batch), at least 0. Differentiable.
    Cost: one downward pass, plus one term per pair of edges that overlapping children share; at most 2^17 of them.
    Source: Kolchinsky and Tracey 2017, Estimating mixture entropy with pairwise distances (Bhattacharyya case), applied
        recursively.
    """
    circuit, compiled = distribution.circuit, distribution.circuit.compiled
    if circuit.is_deterministic:
        return sum_of_local_entropies(distribution)
    if "overlaps" not in compiled.cache:
        unproved = Disjointness(circuit.nodes, circuit.scopes).unproved_sums()
        rows = [compiled.row_of_node[node] for node, _ in unproved]
        compiled.cache["overlaps"] = plan_overlaps(compiled, rows)
    plan: OverlapPlan = compiled.cache["overlaps"]  # type: ignore[assignment]
    terms = _choice_terms(plan, distribution.log_weights, distribution.weights)
    return (compiled.edge_sum.take(distribution.flows) * terms).sum(0)


def entropy_upper_bound(distribution: WeightedCircuit) -> Float[Tensor, "*batch"]:
    """Return a certified upper bound of the entropy for any circuit, in nats; exact for deterministic ones.

    The smaller of H(u, z), the entropy of the values together with the child that each sum chooses, and
    sum_i H(u_i), the entropy of independent variables with the same marginals.

    Returns:
        Shape (*batch). Differentiable, except where the two bounds meet.
    Cost: one downward pass, O(edges).
    Source: H(u) <= H(u, z) for any z; subadditivity of the entropy.
    """
    with_choices = sum_of_local_entropies(distribution)
    if distribution.circuit.is_deterministic:
        return with_choices
    independent = entropy_of(distribution.flows[: distribution.circuit.compiled.num_values]).sum(0)
    return torch.minimum(with_choices, independent)


def _choice_terms(plan: OverlapPlan, log_weights: Tensor, weights: Tensor) -> Tensor:
    """Return what each edge adds to its sum's entropy, shape (parameters, *batch)."""
    shape = (-1, *(1,) * (weights.dim() - 1))
    device = weights.device
    exact = torch.as_tensor(plan.is_disjoint, device=device).reshape(shape)
    terms = torch.where(exact, entropy_term(log_weights, weights), 0.0)
    if not len(plan.edge.positions):
        return terms
    shares = plan.other_edge.take(weights) * plan.pair.take(_coefficients(plan, log_weights))
    overlap = torch.zeros_like(weights).index_add(0, plan.edge.index(device), shares)
    # An edge of weight zero counts nothing. Rounding must not lift an overlap over one, where its log turns positive.
    overlap = torch.where(torch.as_tensor(plan.is_bounded, device=device).reshape(shape) & (weights > 0), overlap, 1.0)
    return terms - weights * overlap.clamp(max=1.0).log()


def _coefficients(plan: OverlapPlan, log_weights: Tensor) -> Tensor:
    """Return upper bounds of the Bhattacharyya coefficients, shape (pairs, *batch)."""
    batch = log_weights.shape[1:]
    # sqrt has an infinite slope at weight zero; the exponential of half the log has none. The last row is weight one.
    halves = torch.cat([log_weights / 2, log_weights.new_zeros((1, *batch))])
    values = torch.cat([log_weights.new_zeros((1, *batch)), log_weights.new_ones((1, *batch))])
    for step in plan.steps:
        below = step.sources.take(values).unflatten(0, step.sources.shape)
        if isinstance(step, SumOfPairs):
            joint = step.first_edges.take(halves) + step.second_edges.take(halves)
            new = (joint.unflatten(0, step.sources.shape).exp() * below).sum(1).clamp(max=1.0)
        else:
            new = below.prod(1)
        values = torch.cat([values, new])
    return values
