"""Mean field by gradient: the bound of `mean_field`, climbed by Adam."""

from typing import Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.errors import StructureError
from circuits.numerics import entropy_of, logsumexp, posterior
from factor_q.approximate.bundles import tempered_entries
from factor_q.approximate.mean_field.coordinate_ascent import Ascent, MeanField, best_restart, bound, initial_state
from factor_q.approximate.mean_field.mean_field import single_blocks
from factor_q.approximate.mean_field.product_family import (
    Energy,
    Family,
    State,
    bundle_energy,
    expected_energy,
    single_marginals,
    update_color,
)
from factor_q.factors import Factors
from factor_q.limits import Limits, Rounds

_SUPPORT_SWEEPS = 3


def mean_field_gradient(
    factors: Factors,
    temperature: float | Float[Tensor, "..."] = 1.0,
    *,
    restarts: int = 1,
    learning_rate: float = 0.1,
    generator: torch.Generator | None = None,
    **limits: Unpack[Limits],
) -> MeanField:
    """Maximise the same bound as `mean_field` by Adam on the logits of all variables together.

    For comparison: coordinate ascent is usually faster and needs no step size. The bound may fall between steps; the
    best seen is returned. In rows with forbidden entries the support is what three sweeps of coordinate ascent from
    an allowed assignment reach, because every logit outside a feasible support would make the bound -inf.

    Args:
        factors: tables of any arity; -inf entries are forbidden.
        temperature: positive and finite; one number, or a tensor that broadcasts to one per batch row.
        restarts: number of random starts; the best is kept for each row.
        learning_rate: step size of Adam.
        generator: source of randomness; torch's global generator when None.
        **limits: `steps` (500), `seconds`, `tolerance` in nats per step (1e-9), `on_step`.

    Returns:
        A lower bound of log Z with the marginals that reach it; converged where the last step changed the bound by
        no more than the tolerance.

    Raises:
        StructureError: an argument is out of range.
    Cost: per step about three expectations, O(entries) per row and restart each.
    """
    if not learning_rate > 0:
        raise StructureError(f"mean_field_gradient: learning_rate is {learning_rate}, but it must be positive.")
    rounds = Rounds(limits, steps=500)
    family = single_blocks(factors)
    with torch.no_grad():
        flat = tempered_entries("mean_field_gradient", factors, temperature).detach()
        target = Factors.from_flat(factors.graph, flat)
        state = initial_state(family, target, restarts, start=None, generator=generator)
        energy = bundle_energy(family, flat)
        restricted = (flat == -torch.inf).any(-1)
        spread = state
        for _ in range(_SUPPORT_SWEEPS if bool(restricted.any()) else 0):
            for color in range(len(family.colors)):
                spread = update_color(family, energy, color, spread)
        means = torch.where(restricted.unsqueeze(-1), spread.means, state.means)
        entropies = torch.where(restricted.unsqueeze(-1), spread.entropies, state.entropies)
    found = _climb(family, energy, State(means, entropies), learning_rate, rounds)
    return MeanField(found.value, single_marginals(family, found.means), found.steps, found.converged)


def _climb(family: Family, energy: Energy, state: State, learning_rate: float, rounds: Rounds) -> Ascent:
    """Run Adam from a state, on the logits of its support; every row is on its own, as Adam works entry by entry."""
    support = state.means > 0
    logits = torch.where(support, state.means, 1.0).log().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=learning_rate)
    best = value = bound(energy, state)
    means, steps, converged = state.means, 0, torch.zeros_like(value, dtype=torch.bool)
    for steps in rounds:
        with torch.enable_grad():
            current = _softmax(family, logits, support)
            before, value = value, expected_energy(energy, current) + entropy_of(current).sum(-1)
            optimizer.zero_grad()
            torch.where(value > -torch.inf, value, 0.0).sum().neg().backward()
        optimizer.step()
        value = value.detach()
        means = torch.where((value > best).unsqueeze(-1), current.detach(), means)
        best = torch.maximum(best, value)
        # The first value repeats the start.
        converged = (value == before) | ((value - before).abs() <= rounds.tolerance) if steps > 1 else converged
        rounds.report(steps, best.amax(0))
        if bool(converged.all()):
            break
    return best_restart(best, means, steps, converged)


def _softmax(
    family: Family, logits: Float[Tensor, "*batch numbers"], support: Bool[Tensor, "*batch numbers"]
) -> Float[Tensor, "*batch numbers"]:
    """Return the probabilities of all variables."""
    masked = logits.masked_fill(~support, -torch.inf)
    pieces = [masked[..., :0]]
    for kind in (kind for classes in family.colors for kind in classes):
        own = masked[..., kind.start : kind.stop].unflatten(-1, (len(kind.blocks), -1))
        pieces.append(posterior(own, logsumexp(own, -1).unsqueeze(-1)).flatten(-2))
    return torch.cat(pieces, -1)
