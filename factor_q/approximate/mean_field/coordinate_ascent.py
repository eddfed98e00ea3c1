"""Coordinate ascent on E[f / T] + H over products of blocks: what mean field and structured mean field share."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.errors import StructureError
from factor_q.approximate.conditionals import conditional_plan, gibbs_sweep
from factor_q.approximate.feasible import feasible_assignment
from factor_q.approximate.mean_field.product_family import (
    Energy,
    Family,
    State,
    bundle_energy,
    expected_energy,
    product_state,
    update_color,
)
from factor_q.factors import Factors
from factor_q.graph import Scope
from factor_q.limits import Rounds

_SPREAD_SWEEPS = 10


class MeanField(NamedTuple):
    """The best product distribution found. A lower bound, not log Z."""

    lower_bound: Float[Tensor, "*batch"]
    """E_q[f / T] + H(q) <= log Z, in nats. -inf where no allowed assignment was found."""
    marginals: Float[Tensor, "*batch variables values"]
    """q of each variable, 0 beyond its values."""
    steps: int
    """Iterations made."""
    converged: Bool[Tensor, "*batch"]
    """Whether the last iteration raised the bound by no more than the tolerance."""
    parts: tuple[tuple[Scope, Float[Tensor, "..."]], ...] = ()
    """For structured mean field: q of each single variable, and of what a factor has in common with a block."""


class Ascent(NamedTuple):
    """The best distribution of all restarts."""

    value: Float[Tensor, "*batch"]
    means: Float[Tensor, "*batch numbers"]
    steps: int
    converged: Bool[Tensor, "*batch"]


def initial_state(
    family: Family,
    factors: Factors,
    restarts: int,
    *,
    start: Float[Tensor, "*rows variables values"] | None,
    generator: torch.Generator | None,
) -> State:
    """Return a distribution per restart and row, shape (restarts, *batch, ...), that forbids nothing it should not.

    Single-variable parameters are standard normal. In rows with forbidden entries the start is one allowed
    assignment, because a product distribution that overlaps with a forbidden one has the bound -inf; further
    restarts spread from it by Gibbs sampling. A given start replaces the first restart.
    """
    if restarts < 1:
        raise StructureError(f"mean field: restarts is {restarts}, but it must be at least 1.")
    shape, options = (restarts, *factors.batch_shape), family.is_value.shape[-1]
    noise = torch.randn(*shape, *family.singles.shape, dtype=factors.dtype, device=factors.device, generator=generator)
    restricted = (factors.flat == -torch.inf).any(-1)
    if bool(restricted.any()):
        assignment, found, _ = feasible_assignment(factors, generator=generator)
        chains = assignment.expand(*shape, -1)
        plans = conditional_plan(factors.graph, factors.device)
        # A forbidden row cannot be swept; the penalty is then the same everywhere and changes nothing.
        safe = factors.flat.masked_fill(~found.unsqueeze(-1), 0.0)
        for _ in range(_SPREAD_SWEEPS if restarts > 1 else 0):
            chains = gibbs_sweep(plans, safe, chains, generator=generator)
        chains = torch.cat([assignment.expand(1, *shape[1:], -1), chains[1:]])
        fixed = torch.where(torch.nn.functional.one_hot(chains, options) > 0, 0.0, -torch.inf).to(noise.dtype)
        noise = torch.where(restricted[..., None, None], fixed, noise)
    if start is not None:
        noise = torch.cat([_logs_of(start, family, factors).expand(1, *shape[1:], -1, -1), noise[1:]])
    values = noise.flatten(-2)[..., family.is_value.flatten()]
    natural = noise.new_zeros(*shape, family.size)
    return product_state(family, natural.index_copy(-1, family.singles[family.is_value], values))


def ascend(family: Family, flat: Float[Tensor, "*batch entries"], state: State, rounds: Rounds) -> Ascent:
    """Update colour after colour until no row gains more than the tolerance; keep the best restart of each row."""
    with torch.no_grad():
        energy = bundle_energy(family, flat)
        value, steps = bound(energy, state), 0
        converged = torch.zeros_like(value, dtype=torch.bool)
        for steps in rounds:
            for color in range(len(family.colors)):
                state = update_color(family, energy, color, state)
            before, value = value, bound(energy, state)
            converged = (value == before) | (value - before <= rounds.tolerance)
            rounds.report(steps, value.amax(0))
            if bool(converged.all()):
                break
        return best_restart(value, state.means, steps, converged)


def best_restart(
    value: Float[Tensor, "restarts *batch"],
    means: Float[Tensor, "restarts *batch numbers"],
    steps: int,
    converged: Bool[Tensor, "restarts *batch"],
) -> Ascent:
    """Keep the best restart of each row."""
    best, which = value.max(0)
    index = which[None, ..., None].expand(1, *which.shape, means.shape[-1])
    chosen = means.gather(0, index).squeeze(0)
    return Ascent(best, chosen, steps, converged.gather(0, which.unsqueeze(0)).squeeze(0))


def bound(energy: Energy, state: State) -> Float[Tensor, "*batch"]:
    """Return E[f / T] + H."""
    return expected_energy(energy, state.means) + state.entropies.sum(-1)


def _logs_of(start: Tensor, family: Family, factors: Factors) -> Tensor:
    """Return log marginals of a given start, after checking it."""
    wanted = (*factors.batch_shape, *family.singles.shape)
    inside = start.masked_fill(~family.is_value, 0.0) if start.shape[-2:] == family.singles.shape else None
    if inside is None or not bool((start >= 0).all()) or not bool((inside.sum(-1) > 0).all()):
        raise StructureError(
            f"mean field: start has shape {tuple(start.shape)}; it must broadcast to {wanted}, be non-negative and "
            "give every variable some positive weight."
        )
    return inside.to(factors.dtype).log()
