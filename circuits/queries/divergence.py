"""Divergences: Kullback-Leibler and cross-entropy, total correlation and mutual information."""

from collections.abc import Sequence
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.engine.layers import ProductLayer
from circuits.engine.passes import align
from circuits.numerics import NEGATIVE_INFINITY, entropy_of, entropy_term, weighted
from circuits.operations.product import ProductCircuit, match
from circuits.queries.entropy import entropy, require_deterministic
from circuits.queries.marginal import check_variables, marginal
from circuits.queries.multiply import normalized, pick, product_weights
from circuits.shapes import common_shape
from circuits.weights import WeightedCircuit, require_weights

_PRIME = (1 << 31) - 1
"""The product of two numbers below it fits into 63 bits."""


def kl_divergence(first: WeightedCircuit, second: WeightedCircuit) -> Float[Tensor, "*batch"]:
    """Return KL(first || second) in nats, exactly, for two distributions on deterministic, compatible circuits.

    KL = E_first[log first(u)] - E_first[log second(u)]. On one and the same circuit it is a sum over edges of
    P(edge is used under first) * (log first weight - log second weight).

    Args:
        first: batch shape (*batch).
        second: on the same circuit or a compatible one (see `operations.product`); its batch shape broadcasts.

    Returns:
        Shape (*batch), the two batch shapes broadcast; at least 0 up to rounding, and +inf where `first` can do what
        `second` cannot. Gradients are finite wherever the value is.

    Raises:
        StructureError: the circuits have different cardinalities.
        NotTractableError: a circuit is not deterministic, or they are incompatible; the message names the nodes.
    Requires: determinism of both circuits.
    Cost: one downward pass on the same circuit; otherwise also that of `cross_entropy`.
    Source: Vergari et al. 2021, A compositional atlas of tractable circuit operations.
    """
    require_weights("kl_divergence", second)
    require_deterministic(first, "kl_divergence")
    if first.circuit is not second.circuit:
        return cross_entropy(first, second) - entropy(first)
    compiled = first.circuit.compiled
    used = compiled.edge_sum.take(first.flows)
    dims = max(first.log_weights.dim(), second.log_weights.dim())
    cross = weighted(align(used * first.weights, dims), -align(second.log_weights, dims))
    return (cross - align(used * entropy_term(first.log_weights, first.weights), dims)).sum(0)


def cross_entropy(first: WeightedCircuit, second: WeightedCircuit) -> Float[Tensor, "*batch"]:
    """Return -E[log second(u)] in nats for u drawn from `first`, exactly.

    Where `second` is deterministic, log second(u) is a sum of log weights, and their expectations are read off the
    flows of `first` in the product of the two circuits.

    Args:
        first: batch shape (*batch); its circuit need not be deterministic.
        second: on a compatible circuit (see `operations.product`); its batch shape broadcasts with that of `first`.

    Returns:
        Shape (*batch), the two batch shapes broadcast; +inf where `first` can do what `second` cannot. Gradients are
        finite wherever the value is.

    Raises:
        StructureError: the circuits have different cardinalities.
        NotTractableError: the second circuit is not deterministic, or they are incompatible; the message names the
            nodes.
    Requires: determinism of the second circuit.
    Cost: an upward and a downward pass over the product circuit, and upward passes in integers over it and over the
        first circuit, which decide whether the value is infinite.
    Source: Vergari et al. 2021, A compositional atlas of tractable circuit operations.
    """
    require_weights("cross_entropy", second)
    require_deterministic(second, "cross_entropy", "or estimate it by samples of the first and log_prob of the second")
    matched = match(first.circuit, second.circuit)
    if matched is None:  # they share no joint value
        batch = common_shape([first.batch_shape, second.batch_shape], "two distributions")
        return first.log_weights.new_full(batch, float("inf"))
    ours, theirs = product_weights(matched, first.log_weights, second.log_weights)
    joint, _ = normalized(first, matched.circuit, ours)
    used = matched.circuit.compiled.edge_sum.take(joint.flows) * joint.weights
    expected = (used * -torch.where(theirs > NEGATIVE_INFINITY, theirs, 0.0)).sum(0)
    return torch.where(_is_covered(first, second, matched), expected, float("inf"))


def _is_covered(first: WeightedCircuit, second: WeightedCircuit, matched: ProductCircuit) -> Tensor:
    """Return whether all that is possible under `first` is possible under `second`, shape (*batch).

    A joint value may be possible and yet too rare for floating point, so sums of probabilities cannot tell. Instead
    two polynomials are compared at random points of a prime field: one with a term for each way to a joint value in
    `first`, the other with those terms that `second` allows. Different ones agree at a point with probability of at
    most (edges used at a time) / 2^31; two points are tried.
    Source: Darwiche and Huang 2002, Testing equivalence probabilistically.
    """
    generator = torch.Generator().manual_seed(0)  # the same points at every call: the answer depends on its input only
    theirs = align(second.log_weights, max(first.log_weights.dim(), second.log_weights.dim()))
    possible = align(first.log_weights, theirs.dim()) > NEGATIVE_INFINITY
    allowed = pick(theirs, matched.second_edges) > NEGATIVE_INFINITY
    covered = torch.ones((), dtype=torch.bool, device=theirs.device)
    for _ in range(2):
        point = torch.randint(1, _PRIME, (len(possible),), generator=generator).to(theirs.device)
        weights = point.reshape(-1, *(1,) * (possible.dim() - 1)) * possible
        kept = pick(weights, matched.first_edges, otherwise=1) * allowed
        covered = covered & (_value_mod_prime(first.circuit, weights) == _value_mod_prime(matched.circuit, kept))
    return covered


def _value_mod_prime(circuit: Circuit, weights: Tensor) -> Tensor:
    """Return the root's value modulo a prime when all evidence is 1, for weights (parameters, *batch) below it."""
    compiled = circuit.compiled
    values = weights.new_ones((compiled.num_rows, *weights.shape[1:]))
    for layer in compiled.layers:
        if isinstance(layer, ProductLayer):
            result = layer.left.take(values) * layer.right.take(values)
        else:
            result = layer.fold(layer.children.take(values) * weights[layer.edges] % _PRIME).sum(1)
        values[layer.start : layer.stop] = result % _PRIME
    return values[compiled.root]


def total_correlation(distribution: WeightedCircuit) -> Float[Tensor, "*batch"]:
    """Return the total correlation sum_i H(u_i) - H(u), in nats: how far the variables are from independent.

    Returns:
        Shape (*batch), at least 0 up to rounding; 0 exactly for independent variables.

    Raises:
        NotTractableError: some sum is not deterministic.
    Requires: determinism.
    Cost: one downward pass.
    Source: Watanabe 1960.
    """
    joint = entropy(distribution)
    return entropy_of(distribution.flows[: distribution.circuit.compiled.num_values]).sum(0) - joint


def mutual_information(
    distribution: WeightedCircuit, first: Sequence[int], second: Sequence[int]
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
    cards = distribution.circuit.cardinalities
    groups = [check_variables(group, len(cards)) for group in (first, second)]
    joint = marginal(distribution, groups[0] + groups[1])
    joint = joint.reshape(*distribution.batch_shape, *(prod(cards[v] for v in group) for group in groups))
    alone = [entropy_of(joint.sum(axis)).sum(-1) for axis in (-1, -2)]
    return alone[0] + alone[1] - entropy_of(joint).sum((-1, -2))
