"""Encoders: what the networks of an algorithm see of an observation or a state, by the settings in `Network`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from factor_q.choices import Choices, Codes
from factor_q.layers import mlp
from spnpolicy.base.decoding import Checked, require
from spnpolicy.base.errors import ConfigError
from spnpolicy.base.ranges import Range, Width
from spnpolicy.data.entities import Entities
from spnpolicy.data.env import EnvSpec
from spnpolicy.networks.entities import EntityEncoder
from spnpolicy.networks.exchangeable import ExchangeableEncoder, relations
from spnpolicy.networks.features import FourierFeatures

AgentsEncoder = EntityEncoder | ExchangeableEncoder
FIRST_SCALE = 0.25
"""Size of the numbers that first come out of a pooled state."""

Kind = Literal["mlp", "entities", "exchangeable", "recurrent"]
OVER_ENTITIES = ("entities", "exchangeable")
"""Kinds that see sets of things, and tell agents apart only if asked to."""


@dataclass(frozen=True)
class Network(Checked):
    """What the networks of an algorithm are made of; an algorithm lists the kinds it takes in `network_kinds`."""

    kind: Kind = "mlp"
    """"mlp" sees an observation as one row of numbers; "recurrent" does too, and its agents remember what they saw in a
    GRU as wide as the first hidden layer; "entities" sees sets of things, in any number and any order, every
    agent by itself; "exchangeable" does so for all agents together, and they hear of each other: for tasks in which
    every agent sees everything."""
    hidden: tuple[Width, ...] = (128, 128)
    """Widths of the hidden layers; the first one is also the number of units per entity."""
    features: FourierFeatures = field(default_factory=FourierFeatures)
    """What the networks see of a number; offsets between entities have features of their own."""
    rounds: Annotated[int, Range(0, 256)] = 1
    """Kinds over entities: how often every entity hears what all of them are."""
    agent_id: bool = False
    """Kinds over entities: tell agents apart by their number, as the other kinds always do. Networks then belong to one
    number of agents, and agents that see the same may do different things."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.hidden) > 0, "network.hidden", self.hidden, "one positive width or more")
        for name, default in (("rounds", Network.rounds), ("agent_id", Network.agent_id)):
            unused = self.kind not in OVER_ENTITIES and getattr(self, name) != default
            rule = "left alone: it is for kinds 'entities' and 'exchangeable' only"
            require(not unused, f"network.{name}", getattr(self, name), rule)

    @property
    def tells_agents_apart(self) -> bool:
        """Whether shared weights are told the number of an agent."""
        return self.kind not in OVER_ENTITIES or self.agent_id


def require_known_kind(config: Any) -> None:
    """Refuse settings whose kind of network the algorithm has no use for, by name.

    Raises:
        ConfigError: the kind is not among the `network_kinds` of the settings' class.
    """
    if config.network.kind not in config.network_kinds:
        algorithm = type(config).__module__.rpartition(".")[2]
        kinds = " or ".join(map(repr, config.network_kinds))
        raise ConfigError(f"network.kind is {config.network.kind!r}, but {algorithm} takes {kinds} only.")


def encoder_for(network: Network, spec: EnvSpec, *, sees_state: bool = False) -> nn.Module:
    """Return what a network sees of the agents' observations, by kind.

    It maps (*batch, agents, observation_size) to (*batch, agents, out_features), every agent by itself but with kind
    "exchangeable", and with `sees_state` takes the state, (*batch, state_size), as a second argument. Hidden layers
    come behind it.

    Raises:
        ConfigError: a kind over entities, and the environment does not say what its observations consist of, or kind
            "exchangeable", and they have no shared set.
    """
    if network.kind in OVER_ENTITIES:
        encoder = _over_entities(network, spec)
        return Beside(encoder, state_encoder_for(network, spec)) if sees_state else encoder
    return Flat(network.features, spec.observation_size + (spec.state_size if sees_state else 0))


def state_encoder_for(network: Network, spec: EnvSpec) -> nn.Module:
    """Return what a network sees of the state: from (*batch, state_size) to (*batch, out_features).

    Kinds over entities encode the observations that the state is made of and pool them over the agents.

    Raises:
        ConfigError: a kind over entities, and the environment does not say that its state is all observations.
    """
    if network.kind not in OVER_ENTITIES:
        return Flat(network.features, spec.state_size)
    entities = _declared(spec, network.kind)
    if not entities.state_is_observations:
        raise ConfigError(
            f"network.kind is {network.kind!r}, but the state of this environment is not declared to be all "
            "observations side by side (entities.state_is_observations). Take kind 'mlp', or an algorithm that does "
            "not read the state."
        )
    return Pooled(_over_entities(network, spec))


def state_network(
    network: Network, spec: EnvSpec, outputs: int, *, hidden: Sequence[int] | None = None, output_gain: float = 1.0
) -> nn.Sequential:
    """Return a network from the state to some numbers.

    Args:
        network: kind, and widths of the hidden layers.
        spec: sizes of the environment.
        outputs: how many numbers.
        hidden: other widths of the hidden layers.
        output_gain: scale of the last layer's first weights.
    """
    encoder = state_encoder_for(network, spec)
    sizes = (cast(int, encoder.out_features), *(hidden or network.hidden), outputs)
    return nn.Sequential(encoder, mlp(sizes, output_gain=output_gain))


def retarget(network: nn.Module, spec: EnvSpec) -> None:
    """Let all entity encoders inside a network read the observations of another task of the same kind.

    Boards may be larger and entities more; weights stay.

    Raises:
        ConfigError: the other task declares no entities, or other ones.
    """
    for module in network.modules():
        if isinstance(module, EntityEncoder | ExchangeableEncoder | Borrowed):
            module.read(_declared(spec, "entities"))


class Flat(nn.Module):
    """One row of numbers, with Fourier features; nothing in it learns."""

    def __init__(self, features: FourierFeatures, size: int):
        super().__init__()
        self.features = features
        self.out_features = features.size(size)

    def forward(
        self, observation: Float[Tensor, "*batch features"], state: Float[Tensor, "*rows state"] | None = None
    ) -> Float[Tensor, "*batch more"]:
        """Return the features of each row, seen beside the state if one is given."""
        if state is not None:
            state = state.unsqueeze(-2).expand(*observation.shape[:-1], state.shape[-1])
            observation = torch.cat([observation, state], -1)
        return self.features(observation)


class Beside(nn.Module):
    """The codes of the agents, each beside the code of the state."""

    def __init__(self, agents: AgentsEncoder, state: nn.Module):
        super().__init__()
        self.agents, self.state = agents, state
        self.out_features = agents.out_features + cast(int, state.out_features)
        self.relation_features = agents.relation_features if isinstance(agents, ExchangeableEncoder) else 0

    @property
    def choices(self) -> Choices | None:
        """What agents choose among, if that is a set that they see."""
        return self.agents.choices

    def forward(
        self, observation: Float[Tensor, "*batch agents features"], state: Float[Tensor, "*batch state"]
    ) -> Float[Tensor, "*batch agents more"]:
        """Return the codes of all agents."""
        return self.encode(observation, state).agents

    def encode(
        self, observation: Float[Tensor, "*batch agents features"], state: Float[Tensor, "*batch state"]
    ) -> Codes:
        """Return the codes of all agents, and of what they choose among."""
        own, whole = self.agents.encode(observation), self.state(state)
        whole = whole.unsqueeze(-2).expand(*own.agents.shape[:-1], -1)
        return own._replace(agents=torch.cat([own.agents, whole], -1))

    def relations(
        self,
        observation: Float[Tensor, "*batch agents features"],
        first: Int[Tensor, " pairs"],
        second: Int[Tensor, " pairs"],
    ) -> Float[Tensor, "*batch pairs relation_features"]:
        """Return the relations of pairs, of an encoder that has them."""
        return cast(ExchangeableEncoder, self.agents).relations(observation, first, second)


class Borrowed(nn.Module):
    """The codes that another network has made of the same observations; nothing in it learns.

    Args:
        lender: encoder of the other network, whose relations between agents are shown as well.
        size: numbers per code.
    """

    def __init__(self, lender: nn.Module, size: int):
        super().__init__()
        agents = lender.agents if isinstance(lender, Beside) else lender
        self.entities = agents.entities if isinstance(agents, ExchangeableEncoder) else None
        self.relation_features = cast(int, getattr(lender, "relation_features", 0))
        self.out_features = size
        self.choices: Choices | None = getattr(lender, "choices", None)
        """What agents choose among, where the lender shows it."""

    def read(self, entities: Entities) -> None:
        """Read the observations of another task, which the lender can read as well."""
        self.entities = None if self.entities is None else entities
        if self.choices is not None:
            part = next(part for part in entities.sets if part.name == entities.actions)
            self.choices = self.choices._replace(count=part.count)

    def forward(self, observation: Tensor, codes: Codes) -> Float[Tensor, "*batch code"]:
        """Return the codes of agents."""
        return codes.agents

    def encode(self, observation: Tensor, codes: Codes) -> Codes:
        """Return the codes."""
        return codes

    def relations(
        self,
        observation: Float[Tensor, "*batch agents features"],
        first: Int[Tensor, " pairs"],
        second: Int[Tensor, " pairs"],
    ) -> Float[Tensor, "*batch pairs relation_features"]:
        """Return the relations of pairs, where the lender has them."""
        assert self.entities is not None, "they are asked for where relation_features is above 0"
        return relations(self.entities, observation, first, second)


class Pooled(nn.Module):
    """A state that is all observations: their codes, pooled over the agents."""

    def __init__(self, agents: AgentsEncoder):
        super().__init__()
        self.agents = agents
        self.out_features = 2 * agents.out_features
        self.norm = nn.LayerNorm(self.out_features)
        # A mixer multiplies what it makes of the state with the utilities: from codes as large as they come, Q started
        # at 0.7 where 0.2 is true, and learning did not recover in 1,800 updates.
        nn.init.constant_(self.norm.weight, FIRST_SCALE)

    def forward(self, state: Float[Tensor, "*batch state"]) -> Float[Tensor, "*batch more"]:
        """Return mean and maximum over the agents."""
        codes = self.agents(state.unflatten(-1, (-1, self.agents.entities.observation_size)))
        return self.norm(torch.cat([codes.mean(-2), codes.amax(-2)], -1))


def _over_entities(network: Network, spec: EnvSpec) -> AgentsEncoder:
    make = ExchangeableEncoder if network.kind == "exchangeable" else EntityEncoder
    return make(_declared(spec, network.kind), network.hidden[0], network.rounds, network.features)


def _declared(spec: EnvSpec, kind: Kind) -> Entities:
    if spec.entities is None:
        raise ConfigError(
            f"network.kind is {kind!r}, but the environment does not declare what its observations consist of "
            "(EnvSpec.entities). Take kind 'mlp'; a PettingZoo environment takes the declaration as the option "
            "entities."
        )
    size = spec.entities.observation_size
    if size != spec.observation_size:
        raise ConfigError(
            f"entities: the parts end at column {size}, but an observation has {spec.observation_size} numbers."
        )
    return spec.entities
