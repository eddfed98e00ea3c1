"""Maximum likelihood in closed form, for deterministic circuits and complete data."""

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.errors import NotTractableError
from circuits.learning.counts import check_rows_possible, expected_counts, weights_from_counts
from circuits.learning.data import check_smoothing, complete_rows


def maximum_likelihood(
    circuit: Circuit, data: Tensor, *, weights: Tensor | None = None, smoothing: float = 1.0
) -> Float[Tensor, "parameters"]:
    """Return the logits under which the data is most likely, exactly.

    In a deterministic circuit a complete row uses one child of each sum that it reaches, so the likelihood is a
    product over sums and each weight is a share of counts: w_e = (count_e + smoothing / fan-in) / (count_sum +
    smoothing).

    Args:
        circuit: a deterministic circuit.
        data: integers, shape (rows, variables).
        weights: how often each row counts, shape (rows,), at least 0; one each when None.
        smoothing: every sum gets this many more rows, spread evenly over its children (Jeffreys' prior for binary
            choices at the default). With 0 a value that was never seen gets probability zero.

    Returns:
        Normalised log weights in float64, shape (parameters,). A sum that no row reaches is uniform.

    Raises:
        NotTractableError: some sum is not deterministic; the message names it. Use `expectation_maximization`.
        EvidenceError: malformed data or weights, or missing values; those need `expectation_maximization`.
        ImpossibleEvidenceError: the structure itself forbids some rows; the message names them.
    Requires: determinism.
    Cost: one upward and one downward pass, O(edges) per row.
    Source: Kisa et al. 2014 (PSDD), theorem 9; Peharz, Gens and Domingos 2014 (selective SPNs).

    Example:
        >>> import torch, circuits
        >>> c = circuits.structures.mean_field([2])
        >>> circuits.learning.maximum_likelihood(c, torch.tensor([[0], [0], [1]]), smoothing=0.0).exp()
        tensor([0.6667, 0.3333], dtype=torch.float64)
    """
    if circuit.overlap is not None:
        raise NotTractableError(
            f"closed-form maximum likelihood needs determinism, but {circuit.overlap.describe()}. "
            "Use learning.expectation_maximization(...), which takes any circuit."
        )
    way_out = "Use learning.expectation_maximization(...) for those."
    what = "closed-form maximum likelihood"
    values, row_weights = complete_rows(data, circuit.cardinalities, what, way_out, weights=weights)
    check_smoothing(smoothing)
    compiled = circuit.compiled
    # A row takes one way through a deterministic circuit whatever the weights are, as long as none is zero.
    uniform = weights_from_counts(compiled, torch.zeros(compiled.num_parameters).to(row_weights), 1.0)
    counts, scores = expected_counts(compiled, uniform, values, row_weights)
    check_rows_possible(scores, row_weights, "The structure forbids them: drop these rows or change the structure.")
    return weights_from_counts(compiled, counts, smoothing)
