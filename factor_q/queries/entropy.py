"""Entropy of the Boltzmann distribution, exactly."""

from jaxtyping import Float
from torch import Tensor

from circuits.numerics import weighted
from factor_q.elimination.memory import DEFAULT_MAX_ENTRIES, both_passes, check_memory
from factor_q.elimination.ordering import Order
from factor_q.elimination.passes import SUM_PRODUCT, difference, downward, upward
from factor_q.elimination.plan import make_plan
from factor_q.tables import Tables
from factor_q.temperature import Temperature, check_possible, tempered


def entropy(
    factors: Tables, temperature: Temperature = 1.0, *, order: Order = None, max_entries: int = DEFAULT_MAX_ENTRIES
) -> Float[Tensor, "*batch"]:
    """Return H = -sum_u P(u) log P(u) for P(u) = exp(f(u) / temperature) / Z, in nats.

    By the chain rule H is the sum over variables of the entropy of each given the variables of its message; no
    large numbers cancel, as they would in log Z - E[f] / temperature. Takes, raises and costs what
    `factor_q.queries.marginals` does.

    Returns:
        Nats, shape (*batch,), between 0 and the sum of the log cardinalities. Differentiable.
    Source: Koller & Friedman 2009, section 10.2, with the chain rule of entropy along the elimination order.

    Example:
        >>> import torch
        >>> from factor_q import FactorGraph, Factors
        >>> f = Factors(FactorGraph([2, 2], [(0, 1)]), [torch.tensor([[0.0, 0.0], [-torch.inf, 0.0]])])
        >>> round(entropy(f).item(), 4)  # three equally likely assignments
        1.0986
    """
    cooled = tempered(factors, temperature, "entropy")
    check_memory(cooled, order, both_passes(cooled, order), max_entries)
    plan = make_plan(cooled.graph, order)
    up = upward(plan, cooled.flat, SUM_PRODUCT.up, keep=True)
    check_possible(up.root.reshape(cooled.batch_shape), "entropy")
    total = up.root.new_zeros(up.root.shape)
    message = len(plan.factor_shapes) + len(plan.steps)
    for _, joint, probability in downward(plan, up, SUM_PRODUCT):
        message -= 1
        conditional = difference(joint, up.tables[message].unsqueeze(0))
        total = total + weighted(probability, -conditional).flatten(0, -2).sum(0)
    return total.reshape(cooled.batch_shape)
