"""Critics: networks that turn a state, or one observation per agent, into Factors or into a CircuitQ."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from circuits import Circuit
from circuits.errors import StructureError
from factor_q.choices import ChoiceHead, Choices, Codes
from factor_q.circuit_q import CircuitQ
from factor_q.congestion import Congestion
from factor_q.factors import Factors
from factor_q.graph import FactorGraph
from factor_q.heads import RIVALRY_SCALE, AgentHeads, HeadOptions, StackedLinear, small
from factor_q.layers import mlp

OUTPUT_SCALE = 0.01
"""Factor by which the weights of the last layer are shrunk at the start, so that Q starts near 0."""


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
        relations, choices = cast(int, getattr(encoder, "relation_features", 0)), self._choices
        self.heads = (
            AgentHeads(graph, HeadOptions(hidden[-1], share_factors, symmetric, output_scale, relations, choices))
            if per_agent
            else small(StackedLinear(1, hidden[-1], graph.num_entries), output_scale)
        )
        self.rivals = None
        if rivalry:
            if choices is None:
                raise StructureError("FactorQ: rivalry is for agents that choose among things; the encoder shows none.")
            self.rivals = ChoiceHead(hidden[-1], choices.features, hidden[-1], 0, RIVALRY_SCALE, rivalry)

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

    def codes(self, observation: Float[Tensor, "*batch features"], *context: Any) -> Codes:
        """Return what the hidden layers make of each state, or of each agent.

        Args and errors as in `forward`.
        """
        # An encoder says itself what it can read.
        size = observation.shape[-1] if self.encoder is not None else self.observation_size
        _check_observation(self, observation, (self.graph.num_variables, size), self.per_agent)
        choices = things = None
        if self._choices is not None:
            seen, choices, things = cast(Any, self.encoder).encode(observation, *context)
        else:
            seen = observation if self.encoder is None else self.encoder(observation, *context)
        if self.agent_id:
            identity = torch.eye(self.graph.num_variables, dtype=seen.dtype, device=seen.device)
            seen = torch.cat([seen, identity.expand(*seen.shape[:-1], -1)], dim=-1)
        return Codes(self.trunk(seen), choices, things)

    def from_codes(self, observation: Float[Tensor, "*batch features"], codes: Codes) -> Factors | Congestion:
        """Return the factors from what `codes` made of the same observations."""
        if not isinstance(self.heads, AgentHeads):
            return Factors.from_flat(self.graph, self.heads(codes.agents))
        relate = getattr(self.encoder, "relations", None)
        own = Factors.from_flat(self.graph, self.heads(codes, relate and partial(relate, observation)))
        if self.rivals is None:
            return own
        return Congestion(own, self.rivals(codes) / math.sqrt(self.graph.num_variables), codes.things)

    def retarget(self, graph: FactorGraph) -> None:
        """Give the factors of another graph from now on, with the same weights: of other agents, or other pairs.

        Args:
            graph: any number of agents and factors, with tables of the shapes that the first graph had.

        Raises:
            StructureError: a shape is new, or the weights belong to single agents or factors.
        """
        if not isinstance(self.heads, AgentHeads) or self.agent_id or not self.shares_factors:
            raise StructureError(
                "FactorQ: only weights that all agents and factors share fit another graph: "
                "per_agent=True, agent_id=False, share_factors=True."
            )
        self.heads.retarget(graph, self._choices)
        self.graph = graph

    @property
    def _choices(self) -> Choices | None:
        return cast(Choices | None, getattr(self.encoder, "choices", None)) if self.per_agent else None

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
