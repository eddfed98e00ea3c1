"""Max-marginals: how good each value of each variable can get when the others play along."""

from jaxtyping import Float
from torch import Tensor

from factor_q.elimination.memory import DEFAULT_MAX_ENTRIES, both_passes, check_memory
from factor_q.elimination.ordering import Order
from factor_q.elimination.passes import MAX_SUM, by_variable, upward
from factor_q.elimination.plan import make_plan
from factor_q.tables import Tables
from factor_q.temperature import check_entries


def max_marginals(
    factors: Tables, *, order: Order = None, max_entries: int = DEFAULT_MAX_ENTRIES
) -> Float[Tensor, "*batch variables values"]:
    """Return max f(u) over all u with u_i = x, for every variable i and value x.

    Takes, raises and costs what `factor_q.queries.marginals` does, but for the temperature.

    Returns:
        Shape (*batch, n, max cardinality); -inf for impossible values and beyond a variable's own. Each variable's
        largest entry is the maximum of f. Differentiable where the maximisers are unique.
    Source: Koller & Friedman 2009, section 13.3 (max-sum in a clique tree).

    Example:
        >>> import torch
        >>> from factor_q import FactorGraph, Factors
        >>> f = Factors(FactorGraph([2, 2], [(0, 1)]), [torch.tensor([[0.0, 5.0], [1.0, 2.0]])])
        >>> max_marginals(f).tolist()
        [[5.0, 2.0], [1.0, 5.0]]
    """
    check_entries(factors, "max_marginals")
    check_memory(factors, order, both_passes(factors, order), max_entries)
    plan = make_plan(factors.graph, order)
    up = upward(plan, factors.flat, MAX_SUM.up, keep=True)
    found = by_variable(plan, up, MAX_SUM, up.root)
    return found.movedim(-1, 0).reshape(*factors.batch_shape, *found.shape[:2])
