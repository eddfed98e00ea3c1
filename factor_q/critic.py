"""Critics: networks that turn a state, or one observation per agent, into Factors or into a CircuitQ."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from circuits import Circuit
from circuits.errors import StructureError
from factor_q.choices import ChoiceHead, Choices, Codes
from factor_q.circuit_q import CircuitQ
from factor_q.congestion import Congestion
from factor_q.factors import Factors
from factor_q.graph import FactorGraph
from factor_q.layers import mlp

OUTPUT_SCALE = 0.01
"""Factor by which the weights of the last layer are shrunk at the start, so that Q starts near 0."""
RIVALRY_SCALE = 0.3
"""The same for what rivals take from each other: a product of two such numbers, which from 0 would never move."""
PAIR_RANK = 8
"""Rank of the tables of two agents who choose among things."""


class FactorQ(nn.Module):
    """A critic Q(state, u) = sum of tables over the joint action u, with tables computed by a network.

    By default one network reads the state and gives all tables. With `per_agent` an encoder shared by all
    agents turns each observation into an embedding, and the table of a factor is computed from the embeddings
    of its agents, in the order of the scope, by a network shared by all factors with tables of one shape: the
    number of parameters then does not depend on the number of agents. A factor of empty scope () is a state
    value; with `per_agent` it is computed from mean and maximum of the embeddings.

    An encoder that knows how agents stand to each other says so with a number `relation_features` and a method
    `relations(observation, first, second)`, which returns as many numbers for each pair of agents, shape
    (*batch, pairs, relation_features); with `per_agent` the tables of pairs then depend on them too.

    An encoder of agents whose actions are things that they see says so with `choices` (`factor_q.choices`) and a
    method `encode`, which returns the codes of agents and things together. With `per_agent` the entries of an agent's
    own table then come from the codes of the things, whatever their number, and tables of pairs are of low rank; with
    `rivalry`, all pairs of agents count who choose the same thing.

    Args:
        graph: the scopes.
        observation_size: numbers per state, or per agent with `per_agent`; not used with an `encoder`.
        encoder: what the hidden layers see of an observation: a module from (*batch, observation_size), with
            `per_agent` (*batch, n, observation_size), to as many rows of `encoder.out_features` numbers; None shows
            them the observation as it is.
        hidden: widths of the hidden layers (ReLU), shared by all agents with `per_agent`; at least one.
        per_agent: expect one observation per agent, shape (*batch, n, observation_size).
        share_factors: with `per_agent`, False gives every factor its own network.
        agent_id: with `per_agent`, append the one-hot index of the agent to what is seen, for agents
            that cannot be told apart otherwise; the first layer then grows with the number of agents.
        output_scale: factor by which the weights of the last layer are shrunk at the start; 0 makes all tables 0.
        symmetric: with `per_agent`, the table of a pair with equal cardinalities is the mean of what its network says
            in both orders of the pair, so that nothing depends on how agents are numbered.
        rivalry: where agents choose among things, numbers for each of these that say what two agents who choose the
            same one take from each other; the critic then gives `Congestion`. 0 leaves it out.

    Raises:
        StructureError: an option does not fit the mode, or a size is not positive.

    Example:
        >>> critic = FactorQ(FactorGraph([2, 3], [(0,), (0, 1)]), observation_size=4)
        >>> critic(torch.zeros(5, 4)).batch_shape
        torch.Size([5])
    """

    def __init__(
        self,
        graph: FactorGraph,
        observation_size: int = 64,
        *,
        encoder: nn.Module | None = None,
        hidden: Sequence[int] = (128, 128),
        per_agent: bool = False,
        share_factors: bool = True,
        agent_id: bool = False,
        output_scale: float = OUTPUT_SCALE,
        symmetric: bool = False,
        rivalry: int = 0,
    ) -> None:
        super().__init__()
        _check_sizes("FactorQ", observation_size, hidden)
        if not per_agent and (agent_id or symmetric or not share_factors):
            raise StructureError("FactorQ: agent_id, symmetric and share_factors=False need per_agent=True.")
        self.graph = graph
        self.observation_size = observation_size
        self.per_agent = per_agent
        self.agent_id = agent_id
        self.shares_factors = share_factors
        self.encoder = encoder
        seen = observation_size if encoder is None else cast(int, encoder.out_features)
        # Torch's own first weights: the heads behind are scaled for them.
        sizes = [seen + (graph.num_variables if agent_id else 0), *hidden]
        self.trunk = mlp(sizes, output_gain=None, ends_in_relu=True)
        relations = cast(int, getattr(encoder, "relation_features", 0))
        self.heads = (
            _AgentHeads(graph, _Heads(hidden[-1], share_factors, symmetric, output_scale, relations, self._choices))
            if per_agent
            else _small(_StackedLinear(1, hidden[-1], graph.num_entries), output_scale)
        )
        if rivalry and self._choices is None:
            raise StructureError("FactorQ: rivalry is for agents that choose among things; the encoder shows none.")
        width = hidden[-1]
        self.rivals = (
            ChoiceHead(width, self._choices.features, width, 0, RIVALRY_SCALE, rivalry)
            if rivalry and self._choices is not None
            else None
        )

    def forward(self, observation: Float[Tensor, "*batch features"], *context: Any) -> Factors | Congestion:
        """Return the factors of each state.

        Args:
            observation: shape (*batch, observation_size); with `per_agent` (*batch, n, observation_size).
            context: further inputs of the encoder, such as the state beside the agents' observations.

        Returns:
            Factors on `graph` with batch shape (*batch,).

        Raises:
            StructureError: the observation has another shape.
        """
        return self.from_codes(observation, self.codes(observation, *context))

    @property
    def _choices(self) -> Choices | None:
        return cast(Choices | None, getattr(self.encoder, "choices", None)) if self.per_agent else None

    def codes(self, observation: Float[Tensor, "*batch features"], *context: Any) -> Codes:
        """Return what the hidden layers make of each state, or of each agent.

        Args and errors as in `forward`.
        """
        # An encoder says itself what it can read.
        size = observation.shape[-1] if self.encoder is not None else self.observation_size
        _check_observation(self, observation, (self.graph.num_variables, size), self.per_agent)
        choices = None
        if self._choices is not None:
            seen, choices = cast(Any, self.encoder).encode(observation, *context)
        else:
            seen = observation if self.encoder is None else self.encoder(observation, *context)
        if self.agent_id:
            identity = torch.eye(self.graph.num_variables, dtype=seen.dtype, device=seen.device)
            seen = torch.cat([seen, identity.expand(*seen.shape[:-1], -1)], dim=-1)
        return Codes(self.trunk(seen), choices)

    def from_codes(self, observation: Float[Tensor, "*batch features"], codes: Codes) -> Factors | Congestion:
        """Return the factors from what `codes` made of the same observations."""
        if not isinstance(self.heads, _AgentHeads):
            return Factors.from_flat(self.graph, self.heads(codes.agents))
        relate = getattr(self.encoder, "relations", None)
        own = Factors.from_flat(self.graph, self.heads(codes, relate and partial(relate, observation)))
        if self.rivals is None:
            return own
        return Congestion(own, self.rivals(codes) / math.sqrt(self.graph.num_variables))

    def retarget(self, graph: FactorGraph) -> None:
        """Give the factors of another graph from now on, with the same weights: of other agents, or other pairs.

        Args:
            graph: any number of agents and factors, with tables of the shapes that the first graph had.

        Raises:
            StructureError: a shape is new, or the weights belong to single agents or factors.
        """
        if not isinstance(self.heads, _AgentHeads) or self.agent_id or not self.shares_factors:
            raise StructureError(
                "FactorQ: only weights that all agents and factors share fit another graph: "
                "per_agent=True, agent_id=False, share_factors=True."
            )
        self.heads.retarget(graph, self._choices)
        self.graph = graph

    def extra_repr(self) -> str:
        """Return what print(critic) shows beside the layers."""
        return f"{self.graph}, observation_size={self.observation_size}, per_agent={self.per_agent}"


class CircuitQCritic(nn.Module):
    """A critic Q(state, u) shaped like a circuit: a network computes the score of every choice.

    Unlike `FactorQ` it has an exact maximum, soft value and Boltzmann policy at every size, because it uses only the
    interactions that the circuit can express; the policy lives on the same circuit, so the ELBO has no gap.

    Args:
        circuit: a deterministic circuit over the agents' actions.
        observation_size: numbers per state, or per agent with `per_agent`.
        hidden: widths of the hidden layers (ReLU), shared by all agents with `per_agent`; at least one.
        per_agent: expect one observation per agent, shape (*batch, n, observation_size); the embeddings, agent after
            agent, go to the last layer.

    Raises:
        NotTractableError: some sum of the circuit is not deterministic.
        StructureError: a size is not positive.

    Example:
        >>> from circuits import structures
        >>> critic = CircuitQCritic(structures.markov_chain([2, 3]), observation_size=4)
        >>> critic(torch.zeros(5, 4)).batch_shape
        torch.Size([5])
    """

    def __init__(
        self,
        circuit: Circuit,
        observation_size: int = 64,
        *,
        hidden: Sequence[int] = (128, 128),
        per_agent: bool = False,
    ) -> None:
        super().__init__()
        _check_sizes("CircuitQCritic", observation_size, hidden)
        CircuitQ(circuit, torch.zeros(circuit.num_parameters))
        self.circuit = circuit
        self.observation_size = observation_size
        self.per_agent = per_agent
        self.trunk = mlp((observation_size, *hidden), output_gain=None, ends_in_relu=True)
        width = hidden[-1] * (circuit.num_variables if per_agent else 1)
        bound = OUTPUT_SCALE / math.sqrt(width)
        self.weight = nn.Parameter(torch.empty(width, circuit.num_parameters).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(circuit.num_parameters))

    def forward(self, observation: Float[Tensor, "*batch features"]) -> CircuitQ:
        """Return the Q-function of each state, of batch shape (*batch,); shapes and errors as in `FactorQ`."""
        expected = (self.circuit.num_variables, self.observation_size)
        _check_observation(self, observation, expected, self.per_agent)
        embedding = self.trunk(observation)
        joined = embedding.flatten(-2) if self.per_agent else embedding
        return CircuitQ(self.circuit, joined @ self.weight + self.bias)

    def extra_repr(self) -> str:
        """Return what print(critic) shows beside the layers."""
        return f"{self.circuit!r}, observation_size={self.observation_size}, per_agent={self.per_agent}"


def _check_sizes(critic: str, observation_size: int, hidden: Sequence[int]) -> None:
    if observation_size < 1 or not hidden or min(hidden) < 1:
        raise StructureError(
            f"{critic}: observation_size {observation_size} and hidden {tuple(hidden)} must be positive, "
            "with at least one hidden layer."
        )


def _check_observation(critic: nn.Module, observation: Tensor, shape: tuple[int, int], per_agent: bool) -> None:
    """Raise unless an observation ends in (agents, observation_size), or without `per_agent` in the size alone."""
    name, expected = type(critic).__name__, shape if per_agent else shape[1:]
    if tuple(observation.shape[-len(expected) :]) != expected:
        axes = "(*batch, agents, observation_size)" if per_agent else "(*batch, observation_size)"
        raise StructureError(
            f"{name}: the observation has shape {tuple(observation.shape)}, but it must end in {expected}: {axes}."
        )
    dtype = next(critic.parameters()).dtype
    if observation.dtype != dtype:
        raise StructureError(f"{name}: the observation is {observation.dtype}, but the network {dtype}; use .to().")


Relate = Callable[[Tensor, Tensor], Tensor]
"""From the first agents of pairs, and the second ones, to their relations, shape (*batch, pairs, features)."""


class _Heads(NamedTuple):
    """What the heads of all factors have in common."""

    width: int
    share: bool
    symmetric: bool
    output_scale: float
    relations: int
    choices: Choices | None


class _AgentHeads(nn.Module):
    """Tables from the embeddings of their agents: one batched network call per shape of table."""

    entry_order: Tensor | None

    def __init__(self, graph: FactorGraph, options: _Heads) -> None:
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
        rows = codes.agents.reshape(-1, *codes.agents.shape[-2:]).transpose(0, 1).contiguous()
        things = None if codes.choices is None else codes.choices.reshape(-1, *codes.choices.shape[-3:])
        entries = torch.cat(
            [
                group(rows, things) if isinstance(group, _ChoiceGroup) else group(rows, relate)
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

    def __init__(self, scopes: Sequence[tuple[int, ...]], shape: tuple[int, ...], options: _Heads) -> None:
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

    def forward(self, rows: Float[Tensor, "agents rows width"], choices: Tensor) -> Float[Tensor, "rows entries"]:
        """Return the entries of the group, factor after factor."""
        # The common reward is a mean over the agents, of which one has an n-th to give.
        shown = self.head(Codes(rows.transpose(0, 1), choices)) / len(rows)
        if not self.of_pairs:
            return shown.index_select(1, torch.tensor(self.scopes[0], device=rows.device)).flatten(1)
        first, second = (shown[:, agents] for agents in self.scopes)
        apart, same = (self.weight * len(rows)).unbind()
        tables = (first[..., :PAIR_RANK] * apart) @ second[..., :PAIR_RANK].mT
        meeting = (first[..., PAIR_RANK:] * second[..., PAIR_RANK:]) @ same
        return (tables + meeting.diag_embed()).flatten(1)


class _FactorGroup(nn.Module):
    """The tables of all factors of one shape, from one network or from one network each."""

    agents: Tensor
    transposed: Tensor | None

    def __init__(self, scopes: Sequence[tuple[int, ...]], shape: tuple[int, ...], options: _Heads) -> None:
        super().__init__()
        self.count, self.arity, self.relations = len(scopes), len(shape), options.relations if len(shape) == 2 else 0
        size = math.prod(shape)
        both_orders = options.symmetric and self.arity == 2 and shape[0] == shape[1]
        transposed = torch.arange(size).reshape(shape).t().flatten() if both_orders else None
        self.register_buffer("transposed", transposed, persistent=False)
        self.register_buffer("agents", self._agents_of(scopes), persistent=False)
        copies = 1 if options.share else self.count
        # State values see mean and maximum.
        inputs, last = (self.arity or 2) * options.width + self.relations, _StackedLinear(copies, options.width, size)
        self.network = nn.ModuleList(
            [_StackedLinear(copies, inputs, options.width), nn.ReLU(), _small(last, options.output_scale)]
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
        assert isinstance(first, _StackedLinear)
        assert isinstance(last, _StackedLinear)
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

    def _hidden(self, first: "_StackedLinear", rows: Tensor, relate: Relate | None) -> Tensor:
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


class _StackedLinear(nn.Module):
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


def _small(layer: _StackedLinear, scale: float) -> _StackedLinear:
    """Shrink a last layer so that its outputs start near 0."""
    with torch.no_grad():
        layer.weight.mul_(scale)
        layer.bias.zero_()
    return layer
