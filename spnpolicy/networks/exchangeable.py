"""A network over edges between agents and entities: exchangeable in both, and all agents are encoded together."""

from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from factor_q.choices import Choices, Codes
from spnpolicy.base.errors import ConfigError
from spnpolicy.data.entities import Entities, EntitySet
from spnpolicy.networks.entities import (
    capped_offset,
    chosen_of,
    linear,
    of_same_kind,
    offset_features,
    offset_size,
    require_size,
    things_of,
)
from spnpolicy.networks.features import FourierFeatures


class ExchangeableEncoder(nn.Module):
    """The codes of all agents, from what each of them sees of the things that all of them see.

    Every pair of an agent and an entity is an edge; at first it knows what lies between the two, the other numbers of
    the entity and those of the agent. In each round it hears mean and maximum over the agents of what they have to do
    with the same entity, and over the entities of what its agent has to do with them: whether somebody else is nearer.
    An agent's code is made of mean and maximum of its edges. Neither order nor number of agents or entities matter,
    and no weight depends on them.

    Agents hear of each other, so what they do is decided together: for tasks in which every agent sees everything.
    Sets of which that is not known are not read, such as the other agents as an agent sees them: each shows itself.

    Args:
        entities: how an observation divides; of at least one set it `is_known` which things are the same.
        width: units per edge.
        rounds: how often edges hear of each other.
        features: of all numbers but positions.

    Raises:
        ConfigError: of no set it is known.

    Cost: O(width^2) per agent, entity and round.
    Source: Hartford et al. 2018 (exchangeable layers).
    """

    def __init__(self, entities: Entities, width: int, rounds: int, features: FourierFeatures):
        super().__init__()
        if not entities.shared:
            names = [part.name for part in entities.sets]
            raise ConfigError(
                f"network.kind is 'exchangeable', but of none of the sets {names} it is declared which things are the "
                "same for several agents (EntitySet.is_shared or identity). Take kind 'entities'."
            )
        self.entities, self.features = entities, features
        sets, own = entities.shared, features.size(len(entities.own.others))
        self.first = nn.ModuleList(
            linear(offset_size(len(part.positions)) + features.size(len(part.others)) + own, width) for part in sets
        )
        self.rounds = nn.ModuleList(nn.ModuleList(_Round(width, len(sets)) for _ in sets) for _ in range(rounds))
        self.out_features = 2 * width
        self.out = linear(2 * width * len(sets) + own, self.out_features)
        self.relation_features = 2 * len(entities.own.positions)
        """Numbers per relation between two agents; none where agents do not show where they are."""

    def read(self, entities: Entities) -> None:
        """Read the observations of another task of the same kind, with more entities or agents or on a larger board.

        Raises:
            ConfigError: the sets have other names, numbers or positions.
        """
        self.entities = of_same_kind(self.entities, entities)

    @property
    def choices(self) -> Choices | None:
        """What agents choose among, if that is a set that all of them see."""
        part = chosen_of(self.entities.actions, self.entities.shared)
        return None if part is None else Choices(self.entities.shared[part].count, self.out_features // 2)

    def forward(self, observation: Float[Tensor, "*batch agents features"]) -> Float[Tensor, "*batch agents code"]:
        """Return the codes of all agents, each with what it heard of the others."""
        return self.encode(observation).agents

    def encode(self, observation: Float[Tensor, "*batch agents features"]) -> Codes:
        """Return the codes of all agents, and those of what they choose among: the units of its edges."""
        own, edges = self._edges(observation.reshape(-1, *observation.shape[-2:]))
        pooled = [_pooled(each, (1,))[0] for each in edges]
        codes = self.out(torch.cat([*pooled, own], -1)).relu()
        agents = codes.transpose(0, 1).reshape(*observation.shape[:-1], -1)
        part = chosen_of(self.entities.actions, self.entities.shared)
        if part is None:
            return Codes(agents)
        units = edges[part].units.permute(2, 0, 1, 3)
        things = things_of(self.entities.shared[part], observation)
        return Codes(agents, units.reshape(*observation.shape[:-1], *units.shape[2:]), things)

    def units(self, observation: Float[Tensor, "*batch agents features"]) -> list[Float[Tensor, "..."]]:
        """Return the units of all edges, set by set: (*batch, agents, count, width), 0 where there is no entity."""
        _, edges = self._edges(observation.reshape(-1, *observation.shape[-2:]))
        units = [each.units.permute(2, 0, 1, 3) for each in edges]
        return [unit.reshape(*observation.shape[:-1], *unit.shape[2:]) for unit in units]

    def relations(
        self,
        observation: Float[Tensor, "*batch agents features"],
        first: Int[Tensor, " pairs"],
        second: Int[Tensor, " pairs"],
    ) -> Float[Tensor, "*batch pairs relation_features"]:
        """Return where the second agent of each pair is, seen from the first."""
        return relations(self.entities, observation, first, second)

    def _edges(self, rows: Float[Tensor, "rows agents features"]) -> tuple[Tensor, list["_Edges"]]:
        """Return what agents show of themselves, (agents, rows, features), and all edges after the last round."""
        entities = self.entities
        require_size(entities, rows)
        itself = rows[..., entities.own.start : entities.own.stop].transpose(0, 1)
        own = self.features(itself[..., list(entities.own.others)])
        origin = None if entities.is_relative else itself[..., list(entities.own.positions)]
        edges = []
        for layer, part in zip(self.first, entities.shared, strict=True):
            shown, is_there = _shown(part, rows, origin, entities.cells, self.features)
            # Features come first: each is then one long row, until the layer mixes them.
            if own.shape[-1]:
                shown.append(own.movedim(-1, 0).unsqueeze(2).expand(-1, -1, part.count, -1))
            units = layer(torch.cat(shown).flatten(1).t()).relu_()
            units = units.view(len(own), part.count, len(rows), units.shape[-1])
            edges.append(_Edges(_only_there(units, is_there), is_there, _by_thing(part, rows)))
        for round_of_sets in self.rounds:
            pools = [_both_pooled(each) for each in edges]
            heard = torch.cat([over_entities for _, over_entities in pools], -1)
            layers = zip(round_of_sets, edges, pools, strict=True)  # pyright: ignore[reportArgumentType]
            edges = [each._replace(units=layer(each, over_agents, heard)) for layer, each, (over_agents, _) in layers]
        return own, edges


def relations(
    entities: Entities,
    observation: Float[Tensor, "*batch agents features"],
    first: Int[Tensor, " pairs"],
    second: Int[Tensor, " pairs"],
) -> Float[Tensor, "*batch pairs relation_features"]:
    """Return where the second agent of each pair is, seen from the first: offsets in cells, and their lengths."""
    own = entities.own
    require_size(entities, observation)
    place = observation[..., own.start : own.stop][..., list(own.positions)] * entities.cells
    offset = capped_offset(place.index_select(-2, second) - place.index_select(-2, first))
    return torch.cat([offset, offset.abs()], -1)


class _Edges(NamedTuple):
    """What all agents have to do with the entities of one set. Rows come late: pooling then adds long rows."""

    units: Float[Tensor, "agents count rows width"]
    """0 or more, and 0 where there is no entity."""
    is_there: Bool[Tensor, "agents count rows"] | None
    """Which entities are there; None for all."""
    thing: Int[Tensor, "agents count rows"] | None = None
    """Which thing of all rows each one is, where agents see different ones; None where all see all, in one order."""


class _Round(nn.Module):
    """A layer of the edges of one set."""

    def __init__(self, width: int, sets: int):
        super().__init__()
        self.itself, self.norm = linear(width, width), nn.LayerNorm(width)
        self.entity, self.agent = linear(2 * width, width), linear(2 * width * sets, width)

    def forward(self, edges: _Edges, over_agents: Tensor, heard: Tensor) -> Float[Tensor, "agents count rows width"]:
        """Return the units after the round: never below what they were, so never below 0.

        Args:
            edges: before it.
            over_agents: pools of every thing's edges, (count, rows, 2 width), or (things, 2 width) where edges say
                which thing they lead to.
            heard: pools of every agent's edges of all sets, (agents, rows, 2 width sets).
        """
        # The bias is added where there are fewest rows.
        agent = self.agent(heard) + self.itself.bias
        norm = self.norm.weight, self.norm.bias, self.norm.eps
        entity = self.entity(over_agents)
        if edges.thing is not None:
            entity = entity.index_select(0, edges.thing.flatten()).view_as(edges.units)
        units = _Layer.apply(edges.units, self.itself.weight, entity, agent, *norm)
        return _only_there(cast(Tensor, units), edges.is_there)


class _Layer(torch.autograd.Function):
    """units + relu(norm(units @ weight.t() + what every entity and every agent hears)), in the least memory.

    Here most of the time of learning goes; step by step, torch would pass over all edges half as often again.
    """

    @staticmethod
    def forward(
        ctx: Any, units: Tensor, weight: Tensor, entity: Tensor, agent: Tensor, scale: Tensor, shift: Tensor, eps: float
    ) -> Tensor:
        """Return the units after the layer; what entities hear is the same for all agents, or edge by edge."""
        total, ctx.is_same = entity + agent.unsqueeze(1), entity.dim() == 3
        total.flatten(0, -2).addmm_(units.flatten(0, -2), weight.t())
        change, mean, spread = torch.native_layer_norm(total, scale.shape, scale, shift, eps)
        ctx.save_for_backward(units, weight, scale, shift, total, mean, spread, change.relu_())
        return units + change

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of all but eps."""
        units, weight, scale, shift, total, mean, spread, change = ctx.saved_tensors
        grad = grad.contiguous()
        inner = torch.ops.aten.threshold_backward(grad, change, 0.0)
        inner, of_scale, of_shift = torch.ops.aten.native_layer_norm_backward(
            inner, total, scale.shape, mean, spread, scale, shift, [True, True, True]
        )
        rows = inner.flatten(0, -2)
        of_units = torch.addmm(grad.flatten(0, -2), rows, weight).view_as(units)
        of_weight = rows.t() @ units.flatten(0, -2)
        return of_units, of_weight, inner.sum(0) if ctx.is_same else inner, inner.sum(1), of_scale, of_shift, None


class _Pools(torch.autograd.Function):
    """Means and maxima of edges over agents (axis 0) or entities (axis 1), side by side.

    Torch's own gradients of maxima take several times as long as all else here.
    """

    @staticmethod
    def forward(ctx: Any, units: Tensor, axes: tuple[int, ...], *counts: Tensor | int) -> tuple[Tensor, ...]:
        """Return (count, rows, 2 width) or (agents, rows, 2 width) per axis."""
        largest = [units.amax(axis) for axis in axes]
        ctx.save_for_backward(units, *largest)
        ctx.axes, ctx.counts = axes, counts
        pairs = zip(axes, counts, largest, strict=True)
        return tuple(torch.cat([units.sum(axis) / count, most], -1) for axis, count, most in pairs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Share gradients of means equally among all edges, those of maxima among the largest."""
        units, *largest = ctx.saved_tensors
        halves = [grad.chunk(2, -1) for grad in grads]
        means = [
            (mean / count).unsqueeze(axis) for axis, count, (mean, _) in zip(ctx.axes, ctx.counts, halves, strict=True)
        ]
        result = means[0].expand_as(units).clone() if len(means) == 1 else means[0] + means[1]
        is_largest = torch.empty_like(units)
        for axis, most, (_, grad) in zip(ctx.axes, largest, halves, strict=True):
            torch.eq(units, most.unsqueeze(axis), out=is_largest)
            share = grad / is_largest.sum(axis)
            result.addcmul_(is_largest, share.unsqueeze(axis))
        return result, None, *(None for _ in ctx.counts)


class _PoolsByThing(torch.autograd.Function):
    """Mean and maximum of the edges that lead to each thing, side by side."""

    @staticmethod
    def forward(ctx: Any, units: Tensor, thing: Tensor, count: Tensor) -> Tensor:
        """Return (things, 2 width) from (edges, width), the thing of each edge, and how many of each are there."""
        where = thing.unsqueeze(-1).expand_as(units)
        none = units.new_zeros(len(count), units.shape[-1])
        most = none.scatter_reduce(0, where, units, "amax")
        ctx.save_for_backward(units, thing, count, most)
        return torch.cat([none.scatter_add_(0, where, units) / count, most], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Share gradients of means equally among all edges, those of maxima among the largest."""
        units, thing, count, most = ctx.saved_tensors
        of_mean, of_most = grad.chunk(2, -1)
        is_largest = (units == most.index_select(0, thing)).to(units.dtype)
        ties = torch.zeros_like(most).scatter_add_(0, thing.unsqueeze(-1).expand_as(units), is_largest)
        # A thing that nobody sees has no largest edge, and nothing flows from it.
        share = (of_most / ties.clamp_min_(1.0)).index_select(0, thing)
        return (of_mean / count).index_select(0, thing).addcmul_(is_largest, share), None, None


def _both_pooled(edges: _Edges) -> tuple[Tensor, Tensor]:
    """Return the pools of every thing's edges, as `_Round` takes them, and of every agent's."""
    units, is_there, thing = edges
    if thing is None or not units.numel():
        return cast(tuple[Tensor, Tensor], _pooled(edges._replace(thing=None), (0, 1)))
    flat, things = thing.flatten(), int(thing.max()) + 1
    seen = None if is_there is None else is_there.flatten().to(units.dtype)
    count = torch.bincount(flat, seen, things).to(units.dtype).clamp_min_(1.0).unsqueeze(-1)
    over_agents = cast(Tensor, _PoolsByThing.apply(units.flatten(0, -2), flat, count))
    return over_agents, _pooled(edges, (1,))[0]


def _by_thing(part: EntitySet, rows: Float[Tensor, "rows agents features"]) -> Int[Tensor, "agents count rows"] | None:
    """Return which thing each entity is, with different numbers in every row."""
    things = things_of(part, rows)
    if things is None:
        return None
    return things.permute(1, 2, 0) * len(rows) + torch.arange(len(rows), device=rows.device)


def _pooled(edges: _Edges, axes: tuple[int, ...]) -> tuple[Float[Tensor, "kept rows pooled"], ...]:
    """Return mean and maximum over these axes of the edges whose entity is there, 0 where there is none.

    Units are 0 or more: so the maximum needs no -inf, which would become nan where none is there.
    """
    units, is_there, _ = edges
    if not units.numel():
        kept = [units.shape[1 - axis] for axis in axes]
        return tuple(units.new_zeros(count, units.shape[2], 2 * units.shape[3]) for count in kept)
    if is_there is None:
        counts = [units.shape[axis] for axis in axes]
    else:
        counts = [is_there.sum(axis).clamp_min(1).unsqueeze(-1) for axis in axes]
    return cast(tuple[Tensor, ...], _Pools.apply(units, axes, *counts))


def _shown(
    part: EntitySet, rows: Tensor, origin: Tensor | None, cells: float, features: FourierFeatures
) -> tuple[list[Float[Tensor, "features agents count rows"]], Bool[Tensor, "agents count rows"] | None]:
    """Return what agents see of a set, and which of its entities are there."""
    block = rows[..., part.start : part.stop].unflatten(-1, (part.count, part.size)).permute(3, 1, 2, 0)
    place = block[list(part.positions)]
    if part.positions and origin is not None:
        place = place - origin.movedim(-1, 0).unsqueeze(2)
    shown = [offset_features(place * cells, 0), features(block[list(part.others)].movedim(0, -1)).movedim(-1, 0)]
    is_there = None if part.presence is None else block[part.presence] > part.absent
    return [each for each in shown if each.shape[0]], is_there


def _only_there(units: Tensor, is_there: Tensor | None) -> Float[Tensor, "agents count rows width"]:
    return units if is_there is None else units * is_there.unsqueeze(-1)
