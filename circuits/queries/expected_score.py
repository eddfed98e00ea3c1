"""Expected score: what the choices of a circuit earn on average, and what their entropy is worth, in one pass."""

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.scores import mean_score
from circuits.errors import EvidenceError, StructureError
from circuits.queries.entropy import require_deterministic
from circuits.weights import WeightedCircuit


def expected_score(
    distribution: WeightedCircuit, scores: Float[Tensor, "parameters *batch"], temperature: float = 0.0
) -> Float[Tensor, "*batch"]:
    """Return E[sum of the scores of the edges that are used] + temperature * entropy, exactly.

    A function that the circuit decides edge by edge has its mean, and so the evidence lower bound, without the joint
    tables that `expectation` needs.

    Args:
        distribution: batch shape (*batch).
        scores: of the edges, finite, with the batch last as in `distribution.log_weights`, shape (parameters, *batch).
        temperature: worth of a nat of entropy.

    Returns:
        Shape (*batch), in the scores' unit. Differentiable once, in logits and scores.

    Raises:
        NotTractableError: some sum is not deterministic.
        StructureError: the scores have another shape.
        EvidenceError: scores are nan or infinite.
    Requires: determinism.
    Cost: one upward pass, and one downward pass for the gradient: O(edges).
    Source: Shih and Ermon 2020 (exact ELBO with selective SPNs), with the recursion of policy evaluation.
    """
    require_deterministic(distribution, "expected_score", "or call expectation() and entropy_lower_bound() instead")
    logits = distribution.logits.movedim(-1, 0)
    if scores.shape != logits.shape:
        raise StructureError(
            f"expected_score: the scores have shape {tuple(scores.shape)}, but edges and batch {tuple(logits.shape)}."
        )
    normalized = distribution.log_weights, distribution.weights
    answer = mean_score(distribution.circuit.compiled, logits, normalized, scores, temperature)
    # A finite sum has finite terms only, and there are far fewer answers than scores.
    if not torch.compiler.is_compiling() and not bool(answer.detach().sum().isfinite()):
        wrong = (~scores.detach().isfinite()).nonzero()
        if len(wrong):
            raise EvidenceError(
                f"expected_score: the scores hold nan or an infinity, first at index {wrong[0].tolist()}."
            )
    return answer
