"""Heads of critics: tables of factors from the codes of their agents, with weights that all agents share."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from circuits.errors import StructureError
from factor_q.choices import ChoiceHead, Choices, Codes
from factor_q.graph import FactorGraph

RIVALRY_SCALE = 0.3
"""Factor by which last weights are shrunk whose outputs are multiplied with each other, such as what two rivals take
from each other: from 0 the product would never move."""
PAIR_RANK = 8
"""Rank of the tables of two agents who choose among things."""
Relate = Callable[[Tensor, Tensor], Tensor]
"""From the first agents of pairs, and the second ones, to their relations, shape (*batch, pairs, features)."""


class HeadOptions(NamedTuple):
    """What the heads of all factors have in common."""

    width: int
    """Numbers per code of an agent, and hidden units."""
    share: bool
    """One network for all factors of a shape."""
    symmetric: bool
    """Tables of pairs do not depend on the order of their agents."""
    output_scale: float
    """Factor by which the last weights are shrunk at the start."""
    relations: int
    """Numbers per relation of two agents."""
    choices: Choices | None
    """What agents choose among."""


class AgentHeads(nn.Module):
    """Tables from the embeddings of their agents: one batched network call per shape of table."""

    entry_order: Tensor | None

    def __init__(self, graph: FactorGraph, options: HeadOptions) -> None:
        super().__init__()
        members = _by_shape(graph, options.choices)
        self.shapes = tuple(members)
        self.groups = nn.ModuleList(
            (_ChoiceGroup if options.choices is not None and shape else _FactorGroup)(
                [graph.scopes[i] for i in factors], shape, options
            )
            for shape, factors in members.items()
        )
        self.register_buffer("entry_order", _entry_order(graph, members), persistent=False)

    def retarget(self, graph: FactorGraph, choices: Choices | None) -> None:
        """Give the tables of another graph, with the same weights."""
        members = _by_shape(graph, choices)
        for shape in members:
            if shape not in self.shapes:
                raise StructureError(f"FactorQ: no weights for tables of shape {shape}; it has {list(self.shapes)}.")
        members = {shape: members.get(shape, []) for shape in self.shapes}
        for group, factors in zip(self.groups, members.values(), strict=True):
            assert isinstance(group, _FactorGroup | _ChoiceGroup)
            group.retarget([graph.scopes[i] for i in factors])
        order, device = _entry_order(graph, members), next(self.parameters()).device
        self.entry_order = None if order is None else order.to(device)

    def forward(self, codes: Codes, relate: Relate | None) -> Tensor:
        """Map the codes of (*batch, n) agents to (*batch, num_entries)."""
        batch = codes.agents.shape[:-2]
        if not self.groups:
            return codes.agents.new_zeros(*batch, 0)
        # Agents first: what a factor takes of an agent is then one long stretch of memory.
        flat = codes.flat()
        rows = flat.agents.transpose(0, 1).contiguous()
        entries = torch.cat(
            [
                group(flat) if isinstance(group, _ChoiceGroup) else group(rows, relate)
                for group in self.groups
                if group.count
            ],
            dim=-1,
        )
        entries = entries if self.entry_order is None else entries.index_select(-1, self.entry_order)
        return entries.reshape(*batch, entries.shape[-1])


def _by_shape(graph: FactorGraph, choices: Choices | None) -> dict[tuple[int, ...], list[int]]:
    """Return which factors share a network: where agents choose among things, whatever the number of these.

    Raises:
        StructureError: an agent has fewer actions than things, or there are tables of more than two who choose.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for factor, shape in enumerate(graph.table_shapes):
        if choices is not None and shape:
            if len(shape) > 2 or min(shape) < choices.count:
                raise StructureError(
                    f"FactorQ: no table of shape {shape} for agents who choose among {choices.count} things; it has "
                    "those of one agent and of two, with an action for every thing."
                )
            shape = tuple(size - choices.count for size in shape)
        groups.setdefault(shape, []).append(factor)
    return groups


def _entry_order(graph: FactorGraph, members: Mapping[tuple[int, ...], Sequence[int]]) -> Tensor | None:
    """Return where the graph's entries are among those that groups give one after the other; None for "in order"."""
    starts = [(graph.offsets[i], graph.table_sizes[i]) for factors in members.values() for i in factors]
    produced = [entry for start, size in starts for entry in range(start, start + size)]
    return None if produced == sorted(produced) else torch.tensor(produced, dtype=torch.long).argsort()


class _ChoiceGroup(nn.Module):
    """The tables of all agents, or of all pairs of them, who choose among things.

    The table of a pair is a product of what two actions show, at rank `PAIR_RANK`, and another one that counts where
    both are the same: it has the size of the things squared, its weights do not.
    """

    def __init__(self, scopes: Sequence[tuple[int, ...]], shape: tuple[int, ...], options: HeadOptions) -> None:
        super().__init__()
        assert options.choices is not None, "made for choices only"
        width, features, extra = options.width, options.choices.features, shape[0]
        self.of_pairs = len(shape) == 2
        if self.of_pairs:
            self.head = ChoiceHead(width, features, width, extra, RIVALRY_SCALE, 2 * PAIR_RANK)
            # Products that begin small by what they are multiplied with: two small factors would hardly ever grow.
            self.weight = nn.Parameter(options.output_scale * torch.randn(2, PAIR_RANK))
        else:
            self.head = ChoiceHead(width, features, width, extra, options.output_scale)
        self.retarget(scopes)

    def retarget(self, scopes: Sequence[tuple[int, ...]]) -> None:
        """Give the tables of other agents."""
        self.count, self.scopes = len(scopes), [list(agents) for agents in zip(*scopes, strict=True)]

    def forward(self, codes: Codes) -> Float[Tensor, "rows entries"]:
        """Return the entries of the group, factor after factor."""
        agents = codes.agents.shape[-2]
        # The common reward is a mean over the agents, of which one has an n-th to give.
        shown = self.head(codes) / agents
        if not self.of_pairs:
            return shown.index_select(1, torch.tensor(self.scopes[0], device=shown.device)).flatten(1)
        first, second = (shown[:, agents] for agents in self.scopes)
        apart, same = (self.weight * agents).unbind()
        tables = (first[..., :PAIR_RANK] * apart) @ second[..., :PAIR_RANK].mT
        if codes.things is None:
            meeting = ((first[..., PAIR_RANK:] * second[..., PAIR_RANK:]) @ same).diag_embed()
        else:
            here, there = (codes.things[:, agents] for agents in self.scopes)
            # Actions behind the things choose none of them, and meet where both are the same.
            more = torch.arange(-1, here.shape[-1] - shown.shape[-2] - 1, -1, device=here.device)
            here, there = (torch.cat([x, more.expand(*x.shape[:-1], -1)], -1) for x in (here, there))
            meeting = (first[..., PAIR_RANK:] * same) @ second[..., PAIR_RANK:].mT
            meeting = meeting * (here.unsqueeze(-1) == there.unsqueeze(-2))
        return (tables + meeting).flatten(1)


class _FactorGroup(nn.Module):
    """The tables of all factors of one shape, from one network or from one network each."""

    agents: Tensor
    transposed: Tensor | None

    def __init__(self, scopes: Sequence[tuple[int, ...]], shape: tuple[int, ...], options: HeadOptions) -> None:
        super().__init__()
        self.count, self.arity, self.relations = len(scopes), len(shape), options.relations if len(shape) == 2 else 0
        size = math.prod(shape)
        both_orders = options.symmetric and self.arity == 2 and shape[0] == shape[1]
        transposed = torch.arange(size).reshape(shape).t().flatten() if both_orders else None
        self.register_buffer("transposed", transposed, persistent=False)
        self.register_buffer("agents", self._agents_of(scopes), persistent=False)
        copies = 1 if options.share else self.count
        # State values see mean and maximum.
        inputs, last = (self.arity or 2) * options.width + self.relations, StackedLinear(copies, options.width, size)
        self.network = nn.ModuleList(
            [StackedLinear(copies, inputs, options.width), nn.ReLU(), small(last, options.output_scale)]
        )

    def _agents_of(self, scopes: Sequence[tuple[int, ...]]) -> Int[Tensor, "arity factors"]:
        """Return the agents of every factor, and then in the other order where both orders count."""
        agents = torch.tensor(scopes, dtype=torch.long).reshape(len(scopes), self.arity).t()
        return (agents if self.transposed is None else torch.cat([agents, agents.flip(0)], 1)).contiguous()

    def retarget(self, scopes: Sequence[tuple[int, ...]]) -> None:
        """Give the tables of other factors of this shape."""
        self.count, self.agents = len(scopes), self._agents_of(scopes).to(self.agents.device)

    def forward(self, rows: Float[Tensor, "agents rows width"], relate: Relate | None) -> Float[Tensor, "rows entries"]:
        """Return the entries of the group, factor after factor."""
        first, _, last = self.network
        assert isinstance(first, StackedLinear)
        assert isinstance(last, StackedLinear)
        hidden = self._hidden(first, rows, relate).relu_()
        if self.transposed is None:
            tables = last(hidden)
        else:
            # The mean over both orders, with the transposition in the weights: there and back in one sum.
            weight, bias = last.weight / 2, last.bias / 2
            there, back = hidden.chunk(2)
            bias = bias + bias.index_select(-1, self.transposed)
            tables = _apply(back, weight.index_select(-1, self.transposed), _apply(there, weight, bias))
        return tables.transpose(0, 1).flatten(1)

    def _hidden(self, first: "StackedLinear", rows: Tensor, relate: Relate | None) -> Tensor:
        """Return the inputs of the hidden units, (factors, rows, width): first there, then back."""
        if not self.arity:
            return first(torch.cat([rows.mean(0), rows.amax(0)], -1).unsqueeze(0))
        seen = []
        if self.relations:
            assert relate is not None, "an encoder with relation_features has relations"
            found = relate(self.agents[0], self.agents[1])
            seen = [found.reshape(-1, *found.shape[-2:]).transpose(0, 1)]
        if len(first.weight) > 1:
            joined = torch.cat([*(rows.index_select(0, agents) for agents in self.agents), *seen], -1)
            return first(joined)
        # The layer is linear: once per agent and place in a scope instead of once per factor.
        *places, more = first.weight[0].split([rows.shape[-1]] * self.arity + [self.relations])
        total = (rows @ places[0] + first.bias).index_select(0, self.agents[0])
        for weight, agents in zip(places[1:], self.agents[1:], strict=True):
            total += (rows @ weight).index_select(0, agents)
        return _apply(seen[0], more.unsqueeze(0), total) if seen else total


class StackedLinear(nn.Module):
    """Linear layers side by side, one per row of the first axis; a single one takes rows of any shape."""

    def __init__(self, copies: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(copies, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(copies, outputs).uniform_(-bound, bound))

    def forward(self, rows: Tensor) -> Tensor:
        """Map (copies, rows, inputs) to (copies, rows, outputs), or one copy any shape."""
        return _apply(rows, self.weight, self.bias)


def _apply(rows: Tensor, weight: Tensor, offset: Tensor) -> Tensor:
    """Return rows times weights plus an offset: a bias, (copies, outputs), or what is there of the outputs already."""
    if len(weight) == 1:
        # As one matrix product that adds: torch would do so only without a leading axis.
        offset = offset[0] if offset.dim() == 2 else offset.reshape(-1, offset.shape[-1])
        product = torch.addmm(offset, rows.reshape(-1, rows.shape[-1]), weight[0])
        return product.view(*rows.shape[:-1], product.shape[-1])
    return torch.baddbmm(offset.unsqueeze(1) if offset.dim() == 2 else offset, rows, weight)


def small(layer: StackedLinear, scale: float) -> StackedLinear:
    """Shrink a last layer so that its outputs start near 0."""
    with torch.no_grad():
        layer.weight.mul_(scale)
        layer.bias.zero_()
    return layer
