"""An allowed assignment to start from, where tables forbid some."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuits.errors import NotTractableError
from factor_q.approximate.conditionals import conditional_plan, gibbs_sweep
from factor_q.factors import Factors
from factor_q.queries.maximum import max_assignment

_EXACT_ENTRIES = 2**22
_CHAINS = 32
_SWEEPS = 500
_FIRST_PENALTY, _LAST_PENALTY = 1.0, 12.0


def feasible_assignment(
    factors: Factors, *, generator: torch.Generator | None = None
) -> tuple[Int[Tensor, "*batch variables"], Bool[Tensor, "*batch"], bool]:
    """Look for an assignment of value above -inf.

    The best assignment where exact elimination is cheap. Otherwise 32 random walks per row that pay a rising
    penalty for each forbidden entry (Gibbs sampling of the number of conflicts), and the first conflict-free state.

    Returns:
        An assignment per row, whether it is allowed, and whether the search was exact: a row not found by an
        exact search has no allowed assignment at all.
    Cost: elimination of at most 2^22 entries, or 500 sweeps of 32 chains.
    """
    with torch.no_grad():
        try:
            value, assignment = max_assignment(factors.detach(), max_entries=_EXACT_ENTRIES)
        except NotTractableError:
            assignment, found = _walk(factors.detach(), generator)
            return assignment, found, False
        return assignment, value > -torch.inf, True


def _walk(factors: Factors, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Return the first conflict-free state of any chain, and where there was one."""
    conflicts = (factors.flat == -torch.inf).to(factors.dtype)
    plans = conditional_plan(factors.graph, factors.device)
    values = uniform_values(factors, (_CHAINS, *factors.batch_shape), generator=generator)
    kept = values[0]
    found = torch.zeros(factors.batch_shape, dtype=torch.bool, device=factors.device)
    for sweep in range(_SWEEPS):
        penalty = _FIRST_PENALTY + (_LAST_PENALTY - _FIRST_PENALTY) * sweep / (_SWEEPS - 1)
        values = gibbs_sweep(plans, -penalty * conflicts, values, generator=generator)
        allowed = factors(values) > -torch.inf
        chain = allowed.to(torch.uint8).argmax(0)
        first = values.take_along_dim(chain[None, ..., None], 0).squeeze(0)
        new = allowed.any(0) & ~found
        kept = torch.where(new.unsqueeze(-1), first, kept)
        found = found | new
        if bool(found.all()):
            break
    return kept, found


def uniform_values(
    factors: Factors, shape: tuple[int, ...], *, generator: torch.Generator | None
) -> Int[Tensor, "*points variables"]:
    """Draw assignments uniformly, forbidden or not; shape (*shape, n)."""
    cards = torch.tensor(factors.cardinalities, dtype=torch.long, device=factors.device)
    uniform = torch.rand(*shape, len(cards), dtype=torch.float64, device=factors.device, generator=generator)
    return torch.minimum((uniform * cards).long(), cards - 1)
