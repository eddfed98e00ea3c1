"""How an agent's flat observation divides into itself and sets of other things: what networks over entities read."""

import itertools
from dataclasses import dataclass

from spnpolicy.base.decoding import require
from spnpolicy.base.errors import ConfigError


@dataclass(frozen=True)
class EntitySet:
    """Entities of one kind, one after the other in an observation."""

    name: str
    """What they are, in the plural."""
    start: int
    """Column where the first one begins."""
    count: int
    """How many there are."""
    size: int
    """Numbers per entity."""
    positions: tuple[int, ...] = ()
    """Which of its numbers say where an entity is, axis by axis; none where it has no place."""
    presence: int | None = None
    """Which of its numbers says whether there is such an entity at all; none where there always is."""
    absent: float = 0.0
    """What that number is where there is none; above it there is one."""
    is_shared: bool = False
    """They are the same things, in the same order, in the observation of every agent: a promise that networks of kind
    "exchangeable" build on, and that nothing checks."""
    identity: int | None = None
    """Which of its numbers tells one entity from all others, a whole number from 0 on: agents who are shown the same
    number see the same thing. For sets of which every agent sees some members. Networks over entities do not read it
    as a number."""

    def __post_init__(self) -> None:
        for field, least in (("start", 0), ("count", 0), ("size", 0)):
            require(getattr(self, field) >= least, f"entities.{self.name}.{field}", getattr(self, field), "0 or more")
        columns = (*self.positions, *(each for each in (self.presence, self.identity) if each is not None))
        require(
            self.identity is None or not (self.is_shared or self.identity in (*self.positions, self.presence)),
            f"entities.{self.name}.identity", self.identity,
            "a column of its own, of entities that are not the same for all agents (is_shared)",
        )  # fmt: skip
        require(
            all(0 <= column < self.size for column in columns) and len(set(self.positions)) == len(self.positions),
            f"entities.{self.name}", columns, f"different columns of an entity, from 0 to {self.size - 1}",
        )  # fmt: skip

    @property
    def stop(self) -> int:
        """Column behind the last entity."""
        return self.start + self.count * self.size

    @property
    def others(self) -> tuple[int, ...]:
        """The numbers of an entity that say neither where nor which it is."""
        return tuple(column for column in range(self.size) if column not in (*self.positions, self.identity))

    @property
    def is_known(self) -> bool:
        """Whether it can be told which of the things that two agents see are the same."""
        return self.is_shared or self.identity is not None


@dataclass(frozen=True)
class Entities:
    """The parts of an agent's observation.

    Distances are told in cells, so that a network means the same on boards of every size: what lies between two things
    is the difference of their positions times `cells`.
    """

    own: EntitySet
    """The agent itself: a set of one, perhaps without any number."""
    sets: tuple[EntitySet, ...]
    """What else there is, each kind apart."""
    cells: float = 1.0
    """Cells per unit of a position."""
    is_relative: bool = False
    """Positions in `sets` count from the agent's own; false means that both count from the same origin."""
    state_is_observations: bool = False
    """The state is all observations side by side, agent 0 first."""
    actions: str | None = None
    """Name of the set that agents choose among: action j is to choose its entity j, and actions behind the last entity
    choose none. Networks over entities then value an action by what it chooses, whatever the number of entities."""

    def __post_init__(self) -> None:
        require(self.own.count == 1, f"entities.{self.own.name}.count", self.own.count, "1: it is the agent itself")
        require(self.cells > 0.0, "entities.cells", self.cells, "above 0")
        names = [part.name for part in self.parts]
        require(len(set(names)) == len(names), "entities", names, "sets of different names")
        require(
            self.actions is None or self.actions in [part.name for part in self.sets],
            "entities.actions", self.actions, f"the name of a set, one of {[part.name for part in self.sets]}",
        )  # fmt: skip
        placed = [part for part in self.sets if part.positions]
        axes = {len(part.positions) for part in ([*placed] if self.is_relative else [self.own, *placed])}
        if placed and len(axes) > 1:
            raise ConfigError(
                f"entities: positions have {sorted(axes)} axes, but must have as many in every part. Where the "
                "agent's own position is not shown, those of the sets must count from it: is_relative."
            )
        edges = sorted((part.start, part.stop) for part in self.parts if part.stop > part.start)
        gaps = [(a, b) for (_, a), (b, _) in itertools.pairwise([(0, 0), *edges]) if a != b]
        if gaps:
            raise ConfigError(f"entities: one part ends at column {gaps[0][0]}, the next begins at {gaps[0][1]}.")

    @property
    def parts(self) -> tuple[EntitySet, ...]:
        """The agent itself and all sets."""
        return (self.own, *self.sets)

    @property
    def shared(self) -> tuple[EntitySet, ...]:
        """The sets of things of which it is known which ones several agents see."""
        return tuple(part for part in self.sets if part.is_known)

    @property
    def observation_size(self) -> int:
        """Length of the observation that is divided."""
        return max(part.stop for part in self.parts)
