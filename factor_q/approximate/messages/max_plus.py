"""Max-plus: an anytime search for a good joint assignment by messages; exact on trees, a lower bound of the maximum."""

from functools import lru_cache
from typing import NamedTuple, Unpack

import networkx
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.errors import StructureError
from factor_q.approximate.conditionals import ascend_coordinates, conditional_plan
from factor_q.approximate.messages.factor_messages import (
    message_graph,
    pass_messages,
    rows_of,
    to_variables,
    total_and_rest,
)
from factor_q.factors import Factors
from factor_q.graph import FactorGraph
from factor_q.limits import Limits, Rounds
from factor_q.temperature import tempered

_NOISE = 0.1


class MaxPlus(NamedTuple):
    """The best assignment seen. Its value is a lower bound of the maximum, nothing more unless the graph is a tree."""

    value: Float[Tensor, "*batch"]
    """f at the assignment; -inf where only forbidden assignments were seen."""
    assignment: Int[Tensor, "*batch variables"]
    converged: Bool[Tensor, "*batch"]
    """Whether the last iteration changed no message by more than the tolerance."""
    steps: int
    """Iterations made."""


def max_plus(
    factors: Factors,
    *,
    damping: float = 0.5,
    improve: bool = True,
    start: Int[Tensor, "*rows variables"] | None = None,
    generator: torch.Generator | None = None,
    **limits: Unpack[Limits],
) -> MaxPlus:
    """Pass max-product messages, decode an assignment in every iteration, and keep the best one seen.

    Decoding fixes the variables in breadth-first order, each to its best value given those fixed before and the
    messages of the rest, so ties cannot tear a tree apart. On a tree the converged result is an exact maximum. On
    graphs with loops messages may oscillate; the result never gets worse and is never worse than `start`.

    Args:
        factors: tables of any arity; -inf entries are forbidden.
        damping: share of the old message kept, in [0, 1); 0 converges on a tree in as many iterations as its diameter.
        improve: after each decoding change single variables while that helps (one sweep).
        start: assignments to begin with, broadcast to (*batch, n); None decodes without any message.
        generator: source of the small random numbers that messages start with; torch's global generator when None.
            Where f has symmetries, messages of zero would never choose a side.
        **limits: `steps` (100), `seconds`, `tolerance` (1e-9), `on_step`; the value reported is the best so far.

    Returns:
        The best value and assignment. For an upper bound of the maximum see `mini_bucket_maximum`.

    Raises:
        StructureError: damping is out of range.
        EvidenceError: start has the wrong shape or a value out of range.
    Cost: O(entries * arity) per iteration and row, one tensor step per breadth-first level.
    Source: Kok & Vlassis 2006.

    Example:
        >>> from factor_q import FactorGraph
        >>> f = Factors(FactorGraph([2, 2], [(0,), (0, 1)]), [torch.tensor([0.0, 1.0]), torch.eye(2)])
        >>> max_plus(f).assignment.tolist()
        [1, 1]
    """
    if not 0 <= damping < 1:
        raise StructureError(f"max_plus: damping is {damping}, but it must lie in [0, 1).")
    rounds = Rounds(limits, steps=100)
    with torch.no_grad():
        flat = tempered(factors, 1.0, "max_plus").flat
        search = _Search(factors.detach(), improve)
        shape = (*flat.shape[:-1], search.layout.size)
        messages = _NOISE * torch.randn(shape, dtype=flat.dtype, device=flat.device, generator=generator)
        _, rest = total_and_rest(search.layout, messages)
        search.offer(search.decode(rest) if start is None else start.expand(*flat.shape[:-1], -1))

        def note(rest: Tensor, _: Tensor) -> Tensor:
            search.offer(search.decode(rest))
            return search.value

        _, converged, steps = pass_messages(search.layout, flat, messages, torch.amax, damping, rounds, note)
        return MaxPlus(search.value, search.assignment, converged, steps)


@lru_cache(maxsize=256)
def breadth_first_levels(graph: FactorGraph) -> tuple[tuple[int, ...], ...]:
    """Return the variables in steps: two that share a factor are in different steps, in breadth-first order.

    On a tree the steps are the distances from a centre. A variable joins the first step after those of its
    neighbours that come earlier in the breadth-first order.
    """
    interactions = graph.to_networkx()
    step: dict[int, int] = {}
    for component in networkx.connected_components(interactions):
        root = max(component, key=lambda variable: (interactions.degree[variable], -variable))
        for variable in [root, *(child for _, child in networkx.bfs_edges(interactions, root))]:
            earlier = [step[other] for other in interactions.neighbors(variable) if other in step]
            step[variable] = 1 + max(earlier, default=-1)
    levels = networkx.utils.groups(step)
    return tuple(tuple(sorted(levels[level])) for level in sorted(levels))


class _Search:
    """The best assignment offered so far, and how to read one off the messages."""

    def __init__(self, factors: Factors, improve: bool) -> None:
        self._factors, self._improve = factors, improve
        graph, device = factors.graph, factors.device
        self.layout = message_graph(graph, device, breadth_first_levels(graph))
        self._tables = [[b.tables(factors.flat) for b in bundles] for _, bundles in self.layout.by_variable]
        self._plans = conditional_plan(graph, device)
        self.assignment = torch.zeros(*factors.batch_shape, graph.num_variables, dtype=torch.long, device=device)
        self.value = factors(self.assignment)

    def offer(self, values: Int[Tensor, "*batch variables"]) -> None:
        """Keep an assignment, and what single changes make of it, where it is better."""
        for improve in (False, True) if self._improve else (False,):
            candidate = ascend_coordinates(self._plans, self._factors.flat, values) if improve else values
            value = self._factors(candidate)
            better = value > self.value
            self.value = torch.where(better, value, self.value)
            self.assignment = torch.where(better.unsqueeze(-1), candidate, self.assignment)

    def decode(self, to_factors: Float[Tensor, "*batch numbers"]) -> Int[Tensor, "*batch variables"]:
        """Fix the variables level by level; a fixed one tells its factors its value instead of its message."""
        layout = self.layout
        values = torch.zeros_like(self.assignment)
        for (members, bundles), tables in zip(layout.by_variable, self._tables, strict=True):
            heard = to_variables(bundles, tables, to_factors, torch.amax)
            beliefs, _ = total_and_rest(layout, heard)
            choice = rows_of(beliefs, layout.values[members]).max(-1).indices
            values[..., members] = choice
            chosen = layout.values[members].expand(*choice.shape, -1).gather(-1, choice.unsqueeze(-1)).squeeze(-1)
            # To its factors a fixed variable says 0 for its value and -inf for all others, whatever came before.
            told = torch.full_like(beliefs, -torch.inf).scatter(-1, chosen, 0.0).index_select(-1, layout.belongs)
            mine = torch.isin(layout.belongs, layout.values[members])
            to_factors = torch.where(mine, told, to_factors)
        return values
