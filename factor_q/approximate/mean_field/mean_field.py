"""Mean field: the best fully factorised distribution, and the lower bound of log Z that it proves."""

from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from factor_q.approximate.bundles import tempered_entries
from factor_q.approximate.mean_field.coordinate_ascent import MeanField, ascend, initial_state
from factor_q.approximate.mean_field.product_family import product_family, single_marginals
from factor_q.factors import Factors
from factor_q.limits import Limits, Rounds


def mean_field(
    factors: Factors,
    temperature: float | Float[Tensor, "..."] = 1.0,
    *,
    restarts: int = 1,
    start: Float[Tensor, "*rows variables values"] | None = None,
    generator: torch.Generator | None = None,
    **limits: Unpack[Limits],
) -> MeanField:
    """Maximise E_q[f / T] + H(q) over q(u) = prod_i q_i(u_i) by coordinate ascent.

    Each update q_i(x) ~ exp E[f(x, others) / T] is the exact optimum given the other variables, so the bound never
    falls. Variables that share no factor are updated at once, which is the same as in turn. The end point is a local
    optimum. Where entries are forbidden the ascent starts at an allowed assignment, and a value joins the support
    only when that overlaps with nothing forbidden.

    Args:
        factors: tables of any arity; -inf entries are forbidden.
        temperature: positive and finite; one number, or a tensor that broadcasts to one per batch row.
        restarts: number of random starts; the best is kept for each row.
        start: weights of each variable's values, shape (*batch, n, k_max) or one that broadcasts to it, for the
            first start; None is random (standard normal logits).
        generator: source of randomness; torch's global generator when None.
        **limits: `steps` sweeps (1000), `seconds`, `tolerance` in nats (1e-9), `on_step`.

    Returns:
        A lower bound of log Z with the marginals that reach it.

    Raises:
        StructureError: an argument is out of range.
    Cost: per sweep O(entries * arity) per row and restart.
    Source: Wainwright & Jordan 2008, section 5.3.

    Example:
        >>> from factor_q import FactorGraph
        >>> f = Factors(FactorGraph([2, 2], [(0,)]), [torch.tensor([0.0, 0.0])])
        >>> round(mean_field(f).lower_bound.item(), 4)  # nothing interacts: exact, 2 log 2
        1.3863
    """
    rounds = Rounds(limits, steps=1000)
    with torch.no_grad():
        flat = tempered_entries("mean_field", factors, temperature).detach()
        target, blocks = Factors.from_flat(factors.graph, flat), tuple((v,) for v in range(factors.graph.num_variables))
        family = product_family(factors.graph, blocks, factors.device)
        state = initial_state(family, target, restarts, start=start, generator=generator)
        found = ascend(family, flat, state, rounds)
        return MeanField(found.value, single_marginals(family, found.means), found.steps, found.converged)
