"""Structured mean field: the best product over blocks of variables, exact inside every block."""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from factor_q.approximate.bundles import tempered_entries
from factor_q.approximate.mean_field.blocks import BlockRule, choose_blocks
from factor_q.approximate.mean_field.coordinate_ascent import MeanField, ascend, initial_state
from factor_q.approximate.mean_field.product_family import Blocks, Family, product_family, single_marginals
from factor_q.factors import Factors
from factor_q.graph import Scope
from factor_q.limits import Limits, Rounds


def structured_mean_field(
    factors: Factors,
    temperature: float | Float[Tensor, "..."] = 1.0,
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
        flat = tempered_entries("structured_mean_field", factors, temperature).detach()
        target = Factors.from_flat(factors.graph, flat)
        chosen = choose_blocks(target, blocks)
        family = product_family(factors.graph, chosen, factors.device)
        state = initial_state(family, target, restarts, start=None, generator=generator)
        found = ascend(family, flat, state, rounds)
        marginals, parts = single_marginals(family, found.means), tuple(_parts(family, chosen, found.means))
        return MeanField(found.value, marginals, found.steps, found.converged, parts)


def _parts(family: Family, blocks: Blocks, means: Float[Tensor, "*batch numbers"]) -> Iterator[tuple[Scope, Tensor]]:
    """Yield each part with its marginal table, variables numbered as in the factors."""
    for group in (group for color in family.colors for group in color):
        graph = group.graph
        for place, block in enumerate(group.blocks):
            start = group.start + place * graph.num_entries
            for scope, shape, offset in zip(graph.scopes, graph.table_shapes, graph.offsets, strict=True):
                table = means[..., start + offset : start + offset + prod(shape)]
                yield tuple(blocks[block][v] for v in scope), table.reshape(*means.shape[:-1], *shape)
