"""Product distributions over blocks of variables: layout, expectations and the exact update of one colour of blocks.

A block is a set of variables with a distribution of its own, log-linear in the tables of a small graph over the
block: one table per part, a part being what a factor has in common with the block, and one per variable. All tables
of all blocks lie end to end in one vector `natural` (parameters) or `means` (marginals of the same tables). Single
variables as blocks give mean field.
"""

from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import networkx
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.errors import StructureError
from circuits.numerics import logsumexp, posterior, weighted
from factor_q.approximate.bundles import Bundle, BundledTables, View, make_bundles, split_forbidden, take
from factor_q.factors import Factors
from factor_q.graph import FactorGraph, Scope
from factor_q.queries.log_partition import log_partition

Blocks = tuple[tuple[int, ...], ...]


class BlockClass(NamedTuple):
    """Blocks of one colour and one shape; their tables fill natural[start : stop], block after block."""

    graph: FactorGraph
    """Parts of one block, variables numbered by their place in the block."""
    blocks: tuple[int, ...]
    start: int
    stop: int


class Family(NamedTuple):
    """Layout of all product distributions over given blocks."""

    size: int
    """Numbers per distribution."""
    colors: tuple[tuple[BlockClass, ...], ...]
    """Classes of each colour; blocks of one colour share no factor."""
    updates: tuple[tuple[Bundle, ...], ...]
    """For each colour, the factors seen from its blocks."""
    energy: tuple[Bundle, ...]
    """Every factor once; None of them constant."""
    constants: tuple[int, ...]
    """Where the entries of factors of empty scope lie in `flat`."""
    singles: Int[Tensor, "variables values"]
    """Where the marginal of each variable lies; entries beyond its values point to 0."""
    is_value: Bool[Tensor, "variables values"]
    """False beyond the values of a variable."""


class State(NamedTuple):
    """One product distribution per batch row."""

    means: Float[Tensor, "*batch numbers"]
    entropies: Float[Tensor, "*batch blocks"]
    """Entropy of each block in nats, blocks in the order of the classes."""


class Energy(NamedTuple):
    """The factors with their numbers, bundled for the updates and for the bound."""

    updates: tuple[tuple[BundledTables, ...], ...]
    total: tuple[BundledTables, ...]
    constant: Float[Tensor, "*batch"]


@lru_cache(maxsize=128)
def product_family(graph: FactorGraph, blocks: Blocks, device: torch.device) -> Family:
    """Lay out the distributions that are products over blocks.

    Raises:
        StructureError: a variable is in no block or in several.
    """
    if sorted(v for block in blocks for v in block) != list(range(graph.num_variables)):
        raise StructureError(
            f"blocks {blocks} must hold each of the {graph.num_variables} variables exactly once; "
            "give a variable without partners a block of its own."
        )
    layout = _Layout(graph, blocks)
    colors = tuple(layout.classes)
    # A factor is seen once from each block it touches: that block's side receives, the other sides are averaged over.
    # Blocks of one colour share no factor, so none of them reads what another of them is about to change.
    views = [layout.views(factor) for factor in range(graph.num_factors) if graph.scopes[factor]]
    updates = tuple(
        make_bundles(graph, (view for own in views for view, at in own if at == color), device)
        for color in range(len(colors))
    )
    energy = make_bundles(graph, (own[0][0] for own in views), device)
    constants = tuple(offset for offset, scope in zip(graph.offsets, graph.scopes, strict=True) if not scope)
    with torch.inference_mode(False):
        values = torch.arange(max(graph.cardinalities, default=0))
        is_value = values < torch.tensor(graph.cardinalities, dtype=torch.long).unsqueeze(-1)
        starts = torch.tensor([layout.single(v) for v in range(graph.num_variables)], dtype=torch.long)
        # Rows of unequal length cannot be one tensor: beyond a variable's values they point to entry 0, and whoever
        # reads them multiplies by `is_value`.
        singles = (starts.unsqueeze(-1) + values) * is_value
        return Family(layout.size, colors, updates, energy, constants, singles.to(device), is_value.to(device))


class _Layout:
    """Where the table of each part of each block begins."""

    def __init__(self, graph: FactorGraph, blocks: Blocks) -> None:
        self._graph = graph
        self._home = {v: (b, place) for b, block in enumerate(blocks) for place, v in enumerate(block)}
        parts: list[dict[Scope, None]] = [{(place,): None for place in range(len(block))} for block in blocks]
        meetings = networkx.empty_graph(len(blocks))
        for scope in graph.scopes:
            met = {self._home[v][0] for v in scope}
            meetings.add_edges_from(combinations(met, 2))
            for b in met:
                parts[b][tuple(sorted(self._home[v][1] for v in scope if self._home[v][0] == b))] = None
        self._color = networkx.greedy_color(meetings)
        self._starts: dict[tuple[int, Scope], int] = {}
        self.classes: list[tuple[BlockClass, ...]] = []
        self.size = 0
        for color in range(max(self._color.values(), default=-1) + 1):
            members = [b for b in range(len(blocks)) if self._color[b] == color]
            self.classes.append(self._classes(blocks, members, parts))

    def _classes(self, blocks: Blocks, members: list[int], parts: list[dict[Scope, None]]) -> tuple[BlockClass, ...]:
        """Group blocks of one colour by their graph, and give each of them its place."""
        groups: dict[tuple[tuple[int, ...], tuple[Scope, ...]], list[int]] = {}
        for b in members:
            cards = tuple(self._graph.cardinalities[v] for v in blocks[b])
            # Blocks with the same graph lie side by side, so that one elimination serves them all as batch rows.
            groups.setdefault((cards, tuple(sorted(parts[b]))), []).append(b)
        classes: list[BlockClass] = []
        for (cards, scopes), group in groups.items():
            graph, start = FactorGraph(cards, scopes), self.size
            for b in group:
                for scope, offset in zip(graph.scopes, graph.offsets, strict=True):
                    self._starts[b, scope] = self.size + offset
                self.size += graph.num_entries
            classes.append(BlockClass(graph, tuple(group), start, self.size))
        return tuple(classes)

    def single(self, variable: int) -> int:
        """Return where the table of one variable begins."""
        block, place = self._home[variable]
        return self._starts[block, (place,)]

    def views(self, factor: int) -> list[tuple[View, int]]:
        """Return the factor seen from each of its blocks, and the colour of that block."""
        sides: dict[int, list[int]] = {}
        for axis, v in enumerate(self._graph.scopes[factor]):
            sides.setdefault(self._home[v][0], []).append(axis)
        found: list[tuple[tuple[int, ...], int, int]] = []
        for b, axes in sides.items():
            places = {axis: self._home[self._graph.scopes[factor][axis]][1] for axis in axes}
            # The part's table has its axes in the order of the block, the factor's table in that of its scope.
            ordered = tuple(sorted(axes, key=places.__getitem__))
            found.append((ordered, self._starts[b, tuple(places[axis] for axis in ordered)], self._color[b]))
        views: list[tuple[View, int]] = []
        for first in range(len(found)):
            order = [found[first], *found[:first], *found[first + 1 :]]
            view = View(factor, tuple(axes for axes, _, _ in order), tuple(start for _, start, _ in order))
            views.append((view, found[first][2]))
        return views


def bundle_energy(family: Family, flat: Float[Tensor, "*batch entries"]) -> Energy:
    """Gather the tables once for all updates."""
    any_forbidden = bool((flat == -torch.inf).any())
    updates = tuple(tuple(split_forbidden(b, flat, any_forbidden) for b in color) for color in family.updates)
    total = tuple(split_forbidden(b, flat, any_forbidden) for b in family.energy)
    return Energy(updates, total, flat[..., list(family.constants)].sum(-1))


def expected_energy(energy: Energy, means: Float[Tensor, "*batch numbers"]) -> Float[Tensor, "*batch"]:
    """Return E[f / T], -inf where an assignment of positive probability is forbidden."""
    result = energy.constant.expand(means.shape[:-1])
    for tables in energy.total:
        own = take(means, tables.bundle.sides[0])
        result = result + (own * _averaged(tables.finite, tables.bundle, means)).sum((-1, -2))
        if tables.forbidden is not None:
            # The mean of an entry of -inf is nan where its probability is 0. So the finite part is averaged, and
            # whether any forbidden entry is reached is asked of the supports, which small numbers cannot round away.
            support = (means > 0).to(means.dtype)
            hit = take(support, tables.bundle.sides[0]) * _averaged(tables.forbidden, tables.bundle, support)
            result = result.masked_fill((hit > 0).flatten(-2).any(-1), -torch.inf)
    return result


def update_color(family: Family, energy: Energy, color: int, state: State) -> State:
    """Give every block of one colour its best distribution, the others fixed.

    The optimum is q(x) proportional to exp E[f(x, others) / T], so the bound cannot fall. A block without any
    allowed assignment keeps its distribution.
    """
    natural = state.means.new_zeros(state.means.shape)
    blocked: Tensor | None = None
    for tables in energy.updates[color]:
        target = tables.bundle.sides[0].flatten()
        mean = _averaged(tables.finite, tables.bundle, state.means).flatten(-2)
        natural = natural.index_add(-1, target, mean.expand(*natural.shape[:-1], -1))
        if tables.forbidden is not None:
            support = (state.means > 0).to(state.means.dtype)
            hit = _averaged(tables.forbidden, tables.bundle, support).flatten(-2).expand(*natural.shape[:-1], -1)
            blocked = (torch.zeros_like(natural) if blocked is None else blocked).index_add(-1, target, hit)
    if blocked is not None:
        natural = natural.masked_fill(blocked > 0, -torch.inf)
    return infer_color(family, color, natural, state)


def infer_color(family: Family, color: int, natural: Float[Tensor, "*batch numbers"], state: State) -> State:
    """Replace the distributions of one colour by those of the given parameters, where these allow anything."""
    first = sum(len(c.blocks) for classes in family.colors[:color] for c in classes)
    means = [state.means[..., : family.colors[color][0].start]]
    entropies = [state.entropies[..., :first]]
    for kind in family.colors[color]:
        theta = natural[..., kind.start : kind.stop].unflatten(-1, (len(kind.blocks), -1))
        held = state.means[..., kind.start : kind.stop].unflatten(-1, (len(kind.blocks), -1))
        log_z, found = _infer_block(kind.graph, theta)
        # A block whose every value meets something forbidden has no best distribution: it stays as it is.
        possible = log_z > -torch.inf
        spent = weighted(found, theta).sum(-1)
        kept = state.entropies[..., first : first + len(kind.blocks)]
        entropies.append(torch.where(possible, torch.where(possible, log_z, 0.0) - spent, kept))
        means.append(torch.where(possible.unsqueeze(-1), found, held).flatten(-2))
        first += len(kind.blocks)
    means.append(state.means[..., family.colors[color][-1].stop :])
    entropies.append(state.entropies[..., first:])
    return State(torch.cat(means, -1), torch.cat(entropies, -1))


def product_state(family: Family, natural: Float[Tensor, "*batch numbers"]) -> State:
    """Return the distribution with given parameters; every block must allow some assignment."""
    num_blocks = sum(len(c.blocks) for classes in family.colors for c in classes)
    state = State(torch.zeros_like(natural), natural.new_zeros(*natural.shape[:-1], num_blocks))
    for color in range(len(family.colors)):
        state = infer_color(family, color, natural, state)
    return state


def single_marginals(family: Family, means: Float[Tensor, "*batch numbers"]) -> Float[Tensor, "..."]:
    """Return the marginal of each variable, shape (*batch, n, k_max), 0 beyond its values."""
    if not family.singles.numel():
        return means.new_zeros(*means.shape[:-1], *family.singles.shape)
    return take(means, family.singles) * family.is_value


def _averaged(tables: Tensor, bundle: Bundle, means: Tensor) -> Float[Tensor, "..."]:
    """Return the mean of the tables over every side but the first, shape (*batch, views, values)."""
    for side in range(len(bundle.shape) - 1, 0, -1):
        own = take(means, bundle.sides[side])
        tables = (tables * own.unflatten(-1, (*(1,) * side, -1))).sum(-1)
    return tables


def _infer_block(graph: FactorGraph, theta: Float[Tensor, "*batch numbers"]) -> tuple[Tensor, Tensor]:
    """Return log Z and the marginal of every part for blocks of one graph."""
    if graph.num_factors == 1:
        log_z = logsumexp(theta, -1)
        return log_z, posterior(theta, log_z.unsqueeze(-1))
    # The gradient of log Z is the marginal of every part at once, whatever its size: no pass down to write.
    with torch.enable_grad():
        leaf = theta.detach().requires_grad_()
        log_z = log_partition(Factors.from_flat(graph, leaf))
        (means,) = torch.autograd.grad(log_z.sum(), leaf)
    return log_z.detach(), means
