"""Full conditionals: the distribution of every variable, given all the others."""

from jaxtyping import Float, Int
from torch import Tensor

from circuits.engine.derivatives import by_variable, log_derivatives
from circuits.engine.passes import log_up
from circuits.errors import ImpossibleEvidenceError, listed
from circuits.evidence import observed_rows
from circuits.numerics import NEGATIVE_INFINITY, logsumexp, posterior
from circuits.queries.log_prob import for_each_sample
from circuits.weights import WeightedCircuit


def conditionals(
    distribution: WeightedCircuit, values: Int[Tensor, "*#shape variables"]
) -> Float[Tensor, "*#shape variables values"]:
    """Return P(u_i = x | u_-i) for every variable i and value x, at complete joint values.

    The derivative of the network polynomial for indicator (i, x) is P(u_i = x, u_-i); normalised over x it is the
    full conditional. The value itself may be impossible, as long as the rest of each variable is possible.

    Args:
        distribution: batch shape (*batch).
        values: integers, shape (*sample, *batch, variables) or anything that broadcasts to it.

    Returns:
        Shape (*sample, *batch, variables, max cardinality), zero beyond a variable's values. Differentiable once.

    Raises:
        ImpossibleEvidenceError: for some variable the values of all others have probability zero; the message names
            the rows and their variables.
    Cost: one upward and one downward pass per sample, whatever the number of variables.
    Source: Darwiche 2003; counterfactual baselines as in COMA (Foerster et al. 2018).

    Example:
        >>> import torch, circuits
        >>> c = circuits.structures.markov_chain([2, 2])
        >>> pi = circuits.CircuitDistribution(c, torch.zeros(c.num_parameters))
        >>> pi.conditionals(torch.tensor([0, 1])).tolist()
        [[0.5, 0.5], [0.5, 0.5]]
    """
    compiled = distribution.circuit.compiled
    weights = distribution.log_weights.unsqueeze(1)

    def one_pass(part: Tensor) -> Tensor:
        below = log_up(compiled, weights, observed_rows(part, compiled, weights.dtype))
        return by_variable(compiled, log_derivatives(compiled, weights, below))

    joint = for_each_sample(distribution, values, one_pass)
    rest = logsumexp(joint, -1)
    impossible = rest == NEGATIVE_INFINITY
    if impossible.any():
        places = [(tuple(row), variable) for *row, variable in impossible.nonzero().tolist()]
        shown = listed([f"variable {variable}" + (f" of row {row}" if row else "") for row, variable in places])
        raise ImpossibleEvidenceError(
            f"the conditional is undefined where all other variables together have probability zero: {shown}; "
            "pass values that the distribution allows, for example its samples."
        )
    return posterior(joint, rest.unsqueeze(-1))
