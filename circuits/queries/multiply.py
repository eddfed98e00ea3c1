"""Products of distributions, and distributions given a constraint: new circuits with exact numbers."""

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.engine.layers import Rows
from circuits.engine.passes import align, log_up
from circuits.errors import ImpossibleEvidenceError, NotTractableError, StructureError, in_batch_rows
from circuits.numerics import NEGATIVE_INFINITY
from circuits.operations.product import NO_EDGE, ProductCircuit, match
from circuits.shapes import common_shape
from circuits.weights import Weighted, WeightedCircuit, require_weights


def multiply(first: Weighted, second: WeightedCircuit) -> tuple[Weighted, Float[Tensor, "*batch"]]:
    """Return the distribution proportional to p(u) q(u), and the log of its normaliser sum_u p(u) q(u).

    Two opinions about the same variables become one (a product of experts), on the circuit `operations.product`.

    Args:
        first: p, batch shape (*batch).
        second: q on a compatible circuit, see `operations.product`; its batch shape broadcasts with p's.

    Returns:
        A distribution with the broadcast batch shape and the normaliser in nats, (*batch). Differentiable.

    Raises:
        StructureError: the circuits have different cardinalities.
        NotTractableError: incompatible circuits; the message names the nodes and the splits.
        ImpossibleEvidenceError: no joint value is possible in both, in some batch row; the message names the rows.
    Cost: one upward pass over the product circuit, which is built on the first call and remembered.
    Source: Vergari et al. 2021, A compositional atlas of tractable circuit operations.
    """
    require_weights("multiply", second, "; for a Circuit use constrain")
    matched = match(first.circuit, second.circuit)
    batch = common_shape([first.batch_shape, second.batch_shape], "two distributions")
    what = "the product of the two distributions"
    if matched is None:
        raise _impossible(torch.ones(batch, dtype=torch.bool), what)
    ours, theirs = product_weights(matched, first.log_weights, second.log_weights)
    result, log_total = normalized(first, matched.circuit, ours + theirs)
    if (log_total == NEGATIVE_INFINITY).any():
        raise _impossible(log_total == NEGATIVE_INFINITY, what)
    return result, log_total


def constrain(distribution: Weighted, constraint: Circuit) -> tuple[Weighted, Float[Tensor, "*batch"]]:
    """Return the distribution given that the joint value meets a constraint, and the constraint's log probability.

    Only what is possible in the constraint's circuit counts, not how it is weighted. `operations.exactly`,
    `operations.all_different` and `structures.decision_diagram` with a transition make such circuits.

    Args:
        distribution: batch shape (*batch).
        constraint: a deterministic circuit, compatible with the distribution's; see `operations.product`.

    Returns:
        A distribution with the same batch shape on the product of the circuits, deterministic if the
        distribution's is; and log P(constraint) in nats, shape (*batch). Differentiable.

    Raises:
        StructureError: the circuits have different cardinalities.
        NotTractableError: the constraint is not deterministic, or the circuits are incompatible; the message names
            the nodes.
        ImpossibleEvidenceError: the constraint has probability zero in some batch row; the message names the rows.
    Requires: a deterministic constraint, so that each allowed joint value counts once.
    Cost: one upward pass over the product circuit, which is built on the first call and remembered.

    Example:
        >>> import torch, circuits
        >>> c = circuits.structures.mean_field([2, 2])
        >>> pi = circuits.CircuitDistribution(c, torch.zeros(c.num_parameters))
        >>> given, log_probability = pi.constrain(circuits.operations.exactly([2, 2], 1))
        >>> given.marginal([0, 1]).tolist(), round(log_probability.exp().item(), 4)
        ([[0.0, 0.5], [0.5, 0.0]], 0.5)
    """
    if not isinstance(constraint, Circuit):
        kind = type(constraint).__name__
        raise StructureError(f"constrain takes a Circuit, not a {kind}; for two distributions use multiply.")
    overlap = constraint.overlap
    if overlap is not None:
        raise NotTractableError(
            f"a constraint must be deterministic, so that each allowed joint value counts once, but "
            f"{overlap.describe()}. Build it with structures.decision_diagram(..., transition=...), or use multiply() "
            "to weight joint values by how often they are allowed."
        )
    matched = match(distribution.circuit, constraint)
    what = f"the constraint {constraint.name!r}"
    if matched is None:
        raise _impossible(torch.ones(distribution.batch_shape, dtype=torch.bool), what)
    result, log_total = normalized(distribution, matched.circuit, pick(distribution.log_weights, matched.first_edges))
    if (log_total == NEGATIVE_INFINITY).any():
        raise _impossible(log_total == NEGATIVE_INFINITY, what)
    return result, log_total


def product_weights(matched: ProductCircuit, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the two circuits' log weights (parameters, *batch) contribute to the product's, batches aligned."""
    dims = max(first.dim(), second.dim())
    return pick(align(first, dims), matched.first_edges), pick(align(second, dims), matched.second_edges)


def pick(weights: Tensor, edges: Rows, *, otherwise: int = 0) -> Tensor:
    """Return the weights of edges, and `otherwise` for `NO_EDGE`; (parameters, *batch) -> (edges, *batch)."""
    padded = torch.cat([weights, weights.new_full((1, *weights.shape[1:]), otherwise)])
    index = edges.index(weights.device)
    return padded.index_select(0, torch.where(index == NO_EDGE, len(weights), index))


def normalized(like: Weighted, circuit: Circuit, log_weights: Tensor) -> tuple[Weighted, Tensor]:
    """Return the distribution proportional to a circuit with unnormalised weights, and the log of its total.

    A batch row whose total is zero gets -inf, and a distribution without meaning but without nan.

    Args:
        like: gives the type and the checks of the result.
        circuit: its structure.
        log_weights: shape (parameters, *batch), any numbers below +inf.
    """
    compiled = circuit.compiled
    nothing = log_weights.new_zeros((compiled.num_values, *(1,) * (log_weights.dim() - 1)))
    values = log_up(compiled, log_weights, nothing)
    totals = compiled.edge_sum.take(values)
    # A sum of value zero is never reached; any weights do no harm there, nan would.
    joint = torch.where(totals > NEGATIVE_INFINITY, log_weights + compiled.edge_child.take(values), 0.0)
    return like.with_circuit(circuit, joint.movedim(0, -1)), values[compiled.root]


def _impossible(rows: Tensor, what: str) -> ImpossibleEvidenceError:
    """Return the error for batch rows, shape (*batch), in which something has probability zero."""
    where = in_batch_rows(rows)
    return ImpossibleEvidenceError(f"{what} has probability zero{where}; loosen it there, or leave those rows out.")
