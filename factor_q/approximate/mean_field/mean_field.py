"""Mean field: the best product of distributions over variables or blocks of them, and the lower bound it proves."""

from collections.abc import Iterator, Sequence
from math import prod
from typing import NamedTuple, Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.errors import StructureError
from factor_q.approximate.conditionals import conditional_plan, feasible_assignment, gibbs_sweep
from factor_q.approximate.mean_field.blocks import BlockRule, choose_blocks
from factor_q.approximate.mean_field.product_family import (
    Blocks,
    Energy,
    Family,
    State,
    bundle_energy,
    expected_energy,
    product_family,
    product_state,
    single_marginals,
    update_color,
)
from factor_q.factors import Factors
from factor_q.graph import Scope
from factor_q.limits import Limits, Rounds
from factor_q.temperature import Temperature, tempered

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


def mean_field(
    factors: Factors,
    temperature: Temperature = 1.0,
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
        target = tempered(factors, temperature, "mean_field")
        singles = tuple((v,) for v in range(factors.graph.num_variables))
        family = product_family(factors.graph, singles, factors.device)
        state = initial_state(family, target, restarts, start=start, generator=generator)
        return ascend(family, target.flat, state, rounds)


def structured_mean_field(
    factors: Factors,
    temperature: Temperature = 1.0,
    *,
    blocks: BlockRule | Sequence[Sequence[int]] = "auto",
    restarts: int = 1,
    generator: torch.Generator | None = None,
    **limits: Unpack[Limits],
) -> MeanField:
    """Maximise E_q[f / T] + H(q) over q(u) = prod_B q_B(u_B), every q_B any distribution over its block.

    The update of a block is exact inference by elimination: the factors inside the block, and the others averaged
    over the rest. So the bound never falls, and one block of all variables gives log Z. Blocks that share no factor
    are updated at once. The end point is a local optimum.

    Args:
        factors: tables of any arity; -inf entries are forbidden.
        temperature: positive and finite; one number, or a tensor that broadcasts to one per batch row.
        blocks: "rows" (one chain per row of a grid), "pairs" (2j with 2j + 1), "chains" or "trees" (greedily over
            the strongest couplings), "auto" ("rows" on a grid, else "trees"), or lists of variables.
        restarts: number of random starts; the best is kept for each row.
        generator: source of randomness; torch's global generator when None.
        **limits: `steps` sweeps (300), `seconds`, `tolerance` in nats (1e-9), `on_step`.

    Returns:
        A lower bound of log Z with the marginals that reach it.

    Raises:
        NotTractableError: elimination inside a block is too wide.
        StructureError: an argument is out of range, or blocks are not a partition of the variables.
    Cost: per sweep the elimination of every block, forward and backward; blocks of equal shape run as one batch.
    Source: Saul & Jordan 1996; row chains as in Shih & Ermon 2020.

    Example:
        >>> from factor_q import FactorGraph
        >>> f = Factors(FactorGraph([2, 2], [(0, 1)]), [torch.eye(2)])
        >>> bool((structured_mean_field(f, blocks="pairs").lower_bound - f.log_partition()).abs() < 1e-6)
        True
    """
    rounds = Rounds(limits, steps=300)
    with torch.no_grad():
        target = tempered(factors, temperature, "structured_mean_field")
        chosen = choose_blocks(target, blocks)
        family = product_family(factors.graph, chosen, factors.device)
        state = initial_state(family, target, restarts, start=None, generator=generator)
        return ascend(family, target.flat, state, rounds, blocks=chosen)


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


def ascend(
    family: Family, flat: Float[Tensor, "*batch entries"], state: State, rounds: Rounds, *, blocks: Blocks = ()
) -> MeanField:
    """Update colour after colour until no row gains more than the tolerance; keep the best restart of each row.

    Begins at a state of shape (restarts, *batch, ...); the blocks of the family are there for `MeanField.parts`.
    """
    energy = bundle_energy(family, flat)
    value, steps = bound(energy, state), 0
    converged = torch.zeros_like(value, dtype=torch.bool)
    for steps in rounds:
        for color in range(len(family.colors)):
            state = update_color(family, energy, color, state)
        before, value = value, bound(energy, state)
        # Two bounds of -inf are equal, but their difference is nan.
        converged = (value == before) | (value - before <= rounds.tolerance)
        rounds.report(steps, value.amax(0))
        if bool(converged.all()):
            break
    best, which = value.max(0)
    means = state.means.take_along_dim(which[None, ..., None], 0).squeeze(0)
    settled = converged.take_along_dim(which.unsqueeze(0), 0).squeeze(0)
    return MeanField(best, single_marginals(family, means), steps, settled, tuple(_parts(family, blocks, means)))


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


def _parts(family: Family, blocks: Blocks, means: Float[Tensor, "*batch numbers"]) -> Iterator[tuple[Scope, Tensor]]:
    """Yield each part with its marginal table, variables numbered as in the factors; nothing without blocks."""
    for group in (group for color in family.colors for group in color if blocks):
        graph = group.graph
        for place, block in enumerate(group.blocks):
            start = group.start + place * graph.num_entries
            for scope, shape, offset in zip(graph.scopes, graph.table_shapes, graph.offsets, strict=True):
                table = means[..., start + offset : start + offset + prod(shape)]
                yield tuple(blocks[block][v] for v in scope), table.reshape(*means.shape[:-1], *shape)
