"""Max-marginals: how good each value of each variable can get when the others play along."""

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.derivatives import by_variable, max_derivatives
from circuits.engine.passes import max_up
from circuits.queries.entropy import require_deterministic
from circuits.weights import WeightedCircuit


def max_marginals(distribution: WeightedCircuit) -> Float[Tensor, "*batch variables values"]:
    """Return log max over the other variables of P(u_i = x, u_-i), for every variable i and value x.

    Returns:
        Shape (*batch, variables, max cardinality), in nats; -inf for impossible values and beyond a variable's values.
        Each variable's largest entry is the log probability of the mode. No gradient.

    Raises:
        NotTractableError: some sum is not deterministic; the message names it.
    Requires: determinism.
    Cost: one upward and one downward max pass, O(edges).
    Source: Darwiche 2003, with maximisation in place of sums.
    """
    require_deterministic(
        distribution, "max_marginals", "or take maxima over many samples by log_prob, which are lower bounds"
    )
    compiled = distribution.circuit.compiled
    with torch.no_grad():
        log_weights = distribution.log_weights.detach()
        best, _ = max_up(compiled, log_weights)
        return by_variable(compiled, max_derivatives(compiled, log_weights, best))
