"""A network over entities: exchangeable, so that order and number do not matter, with distances in cells."""

import math
from collections.abc import Sequence
from itertools import permutations
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from factor_q.choices import Choices, Codes
from factor_q.layers import initialize_orthogonal
from spnpolicy.base.errors import ConfigError
from spnpolicy.data.entities import Entities, EntitySet
from spnpolicy.networks.features import FourierFeatures

UNIT = 10.0
"""Cells that count as 1."""
FAR = 2.0
"""Distances are shown as if they were no longer than this, in units, and beside that as logarithms: on a larger board
they then leave the range that was learned more slowly."""
DECAY = 0.95
"""What a cell of distance leaves of a number that begins at 1; a usual discount, so that it resembles a value."""


class EntityEncoder(nn.Module):
    """The code of each agent's observation, from the sets of entities that it sees.

    An entity sees its own numbers, what lies between it and the agent, the agent's numbers, and the entities of the
    other sets around it: whether somebody else is nearer to a goal. In each round it then hears mean and maximum of
    all sets. The code is the agent's own numbers beside mean and maximum of each set. Order and number of entities do
    not matter, and no weight depends on them. Agents do not hear of each other, so a code serves an agent that acts
    alone as well as a critic or a policy of all.

    Args:
        entities: how an observation divides.
        width: units per entity.
        rounds: how often entities hear of each other.
        features: of all numbers but offsets.

    Cost: O(width) per pair of entities of different sets, O(width^2) per entity and round.
    Source: Hartford et al. 2018 (exchangeable layers); Zaheer et al. 2017.
    """

    def __init__(self, entities: Entities, width: int, rounds: int, features: FourierFeatures):
        super().__init__()
        self.entities = entities
        self.features = features
        self.width = width
        sets = entities.sets
        own = features.size(entities.own.size)
        sizes = [features.size(len(part.others)) for part in sets]
        axes = [len(part.positions) for part in sets]
        self.own = nn.ModuleList(linear(own, width) for _ in sets if own)
        self.first = nn.ModuleList(
            linear(size + offset_size(count), width) for size, count in zip(sizes, axes, strict=True)
        )
        self.around = nn.ModuleDict(
            {f"{i}-{j}": _Around(offset_size(axes[i]), sizes[j], width) for i, j in _placed_pairs(entities)}
        )
        self.rounds = nn.ModuleList(
            nn.ModuleList(_Round(width, 2 * width * len(sets)) for _ in sets) for _ in range(rounds)
        )
        self.norm = nn.LayerNorm(2 * width * len(sets))
        self.out_features = own + 2 * width * len(sets)

    def read(self, entities: Entities) -> None:
        """Read the observations of another task of the same kind, with more entities or on a larger board.

        Raises:
            ConfigError: the sets have other names, numbers or positions.
        """
        self.entities = of_same_kind(self.entities, entities)

    @property
    def choices(self) -> Choices | None:
        """What agents choose among, if that is a set that they see."""
        part = chosen_of(self.entities.actions, self.entities.sets)
        return None if part is None else Choices(self.entities.sets[part].count, self.width)

    def forward(self, observation: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch code"]:
        """Return the codes of observations."""
        return self.encode(observation).agents

    def encode(self, observation: Float[Tensor, "*batch features"]) -> Codes:
        """Return the codes of observations, and the units of what their agents choose among."""
        own, seen = self._see(observation)
        units = self._units(own, seen)
        code = torch.cat([own, self.norm(self._pooled(seen, units))], -1).reshape(*observation.shape[:-1], -1)
        part = chosen_of(self.entities.actions, self.entities.sets)
        if part is None:
            return Codes(code)
        chosen, things = units[part], things_of(self.entities.sets[part], observation)
        return Codes(code, chosen.reshape(*observation.shape[:-1], *chosen.shape[1:]), things)

    def units(self, observation: Float[Tensor, "*batch features"]) -> list[Float[Tensor, "*batch count width"]]:
        """Return the units of every entity, set by set; 0 where there is none. They go where the entities go."""
        units = self._units(*self._see(observation))
        return [unit.reshape(*observation.shape[:-1], *unit.shape[1:]) for unit in units]

    def _see(self, observation: Tensor) -> tuple[Tensor, list["_Seen"]]:
        """Divide observations into what the agent is, and what it sees of each set."""
        entities = self.entities
        require_size(entities, observation)
        rows = observation.reshape(-1, observation.shape[-1])
        own = rows[:, entities.own.start : entities.own.stop]
        seen = []
        for part in entities.sets:
            block = rows[:, part.start : part.stop].unflatten(-1, (part.count, part.size))
            place = block[..., list(part.positions)]
            if part.positions and not entities.is_relative:
                place = place - own[:, None, list(entities.own.positions)]
            is_there = None if part.presence is None else block[..., part.presence] > part.absent
            seen.append(_Seen(place * entities.cells, self.features(block[..., list(part.others)]), is_there))
        return self.features(own), seen

    def _units(self, own: Tensor, seen: list["_Seen"]) -> list[Tensor]:
        units = []
        for i, part in enumerate(seen):
            total = self.first[i](torch.cat([offset_features(part.place), part.plain], -1))
            if self.own:
                total = total + self.own[i](own).unsqueeze(-2)
            for j, other in enumerate(seen):
                if f"{i}-{j}" in self.around:
                    total = total + self.around[f"{i}-{j}"](part, other)
            units.append(_only_there(total.relu(), part))
        for round_of_sets in self.rounds:
            heard = self._pooled(seen, units)
            layers = zip(round_of_sets, units, seen, strict=True)  # pyright: ignore[reportArgumentType]
            units = [_only_there(layer(unit, heard), part) for layer, unit, part in layers]
        return units

    def _pooled(self, seen: list["_Seen"], units: list[Tensor]) -> Tensor:
        return torch.cat([_pool(unit, part.is_there) for unit, part in zip(units, seen, strict=True)], -1)


def chosen_of(actions: str | None, sets: Sequence[EntitySet]) -> int | None:
    """Return which of these sets agents choose among, if they do among one of them."""
    names = [part.name for part in sets]
    return names.index(actions) if actions in names else None


def things_of(part: EntitySet, observation: Float[Tensor, "*batch features"]) -> Int[Tensor, "*batch count"] | None:
    """Return the number of every entity of a set that tells them apart; None where the set does not."""
    if part.identity is None:
        return None
    block = observation[..., part.start : part.stop].unflatten(-1, (part.count, part.size))
    return block[..., part.identity].round().long()


def of_same_kind(known: Entities, entities: Entities) -> Entities:
    """Return the entities of another task, if a network that knows these can read them.

    Raises:
        ConfigError: the sets have other names, numbers or positions, or actions choose from another one.
    """
    here, there = (
        [(part.name, part.size, part.positions, part.presence, part.is_shared, part.identity) for part in kind.parts]
        for kind in (known, entities)
    )
    if here != there or (entities.is_relative, entities.actions) != (known.is_relative, known.actions):
        raise ConfigError(f"entities: the network reads {here}, but the other task shows {there}.")
    return entities


def require_size(entities: Entities, observation: Float[Tensor, "*batch features"]) -> None:
    """Refuse observations that do not divide as they should.

    Raises:
        ConfigError: they are longer or shorter.
    """
    if observation.shape[-1] != entities.observation_size:
        raise ConfigError(
            f"entities: an observation has {observation.shape[-1]} numbers, but the parts of one end at column "
            f"{entities.observation_size}; spnpolicy.networks.encoders.retarget lets a network read another task."
        )


class _Seen(NamedTuple):
    """What agents see of one set."""

    place: Float[Tensor, "rows count axes"]
    """Where its entities are from the agent, in cells."""
    plain: Float[Tensor, "rows count features"]
    """Features of all other numbers."""
    is_there: Tensor | None
    """Which of them are there; None for all."""


class _Around(nn.Module):
    """What an entity hears from those of another set, by what lies between them."""

    def __init__(self, offsets: int, plain: int, width: int):
        super().__init__()
        self.offset, self.out = linear(offsets, width), linear(width, width)
        self.plain = linear(plain, width) if plain else None

    def forward(self, part: _Seen, other: _Seen) -> Float[Tensor, "rows count width"]:
        """Return it for every entity of `part`."""
        between = offset_features(other.place.unsqueeze(-3) - part.place.unsqueeze(-2))
        heard = self.offset(between)
        if self.plain is not None:
            heard = heard + self.plain(other.plain).unsqueeze(-3)
        is_there = None if other.is_there is None else other.is_there.unsqueeze(-2).expand(heard.shape[:-1])
        heard = _only_there(heard.relu(), other._replace(is_there=is_there))
        return self.out(_largest(heard))


class _Round(nn.Module):
    """A layer of all entities of a set: each sees itself and what is heard of all sets."""

    def __init__(self, width: int, heard: int):
        super().__init__()
        self.itself, self.heard, self.norm = linear(width, width), linear(heard, width), nn.LayerNorm(width)

    def forward(self, unit: Float[Tensor, "rows count width"], heard: Tensor) -> Float[Tensor, "rows count width"]:
        """Return the units after the round: never below what they were, so never below 0."""
        return unit + self.norm(self.itself(unit) + self.heard(heard).unsqueeze(-2)).relu()


def _placed_pairs(entities: Entities) -> list[tuple[int, int]]:
    return list(permutations([i for i, part in enumerate(entities.sets) if part.positions], 2))


def linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a layer that a ReLU or a norm follows."""
    return initialize_orthogonal(nn.Linear(inputs, outputs), 2**0.5)


def offset_size(axes: int) -> int:
    """Return how many features an offset of so many axes has."""
    return 3 * axes + 4 if axes else 0


def offset_features(offset: Float[Tensor, "..."], axis: int = -1) -> Float[Tensor, "..."]:
    """Return what is shown of offsets in cells: direction and distance, near ones sharply and far ones roughly.

    Args:
        offset: any shape, with rows, columns, ... along `axis`.
        axis: where the features go, in place of rows and columns.
    """
    if not offset.shape[axis]:
        return offset
    length = offset.abs()
    total = length.sum(axis, keepdim=True)
    # Not sign() and `<= 1`: an offset of 0 or 1 cells is a difference of rounded numbers.
    direction, is_near = (2.0 * offset).clamp(-1.0, 1.0), (total < 1.5).to(offset.dtype)
    capped = [capped_offset(x) for x in (offset, length, total)]
    return torch.cat([*capped, direction, total.log1p(), is_near, (total * math.log(DECAY)).exp()], axis)


def capped_offset(offset: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
    """Return offsets in units, none longer than what was learned."""
    return (offset / UNIT).clamp(-FAR, FAR)


def _only_there(units: Tensor, part: _Seen) -> Tensor:
    return units if part.is_there is None else units * part.is_there.unsqueeze(-1)


def _pool(units: Float[Tensor, "*rows count width"], is_there: Tensor | None) -> Float[Tensor, "*rows more"]:
    """Return mean and maximum over the entities that are there, 0 where there are none.

    Units are 0 or more, and 0 where an entity is absent: so the maximum needs no -inf, which would become nan where
    none is there.
    """
    count = units.shape[-2] if is_there is None else is_there.sum(-1, keepdim=True)
    total = units.sum(-2)
    mean = total / (max(count, 1) if isinstance(count, int) else count.clamp_min(1))
    return torch.cat([mean, _largest(units)], -1)


def _largest(units: Float[Tensor, "*rows count width"]) -> Float[Tensor, "*rows width"]:
    """Return the maximum over entities, 0 where there are none."""
    if not units.shape[-2]:
        return units.new_zeros(*units.shape[:-2], units.shape[-1])
    # Not amax: its gradient compares all entries with the largest, which takes longer than all the rest.
    return units.max(-2).values
