"""SPNPolicy: a network that turns a state, or one observation per agent, into a joint action distribution."""

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from circuits import Circuit, CircuitDistribution
from circuits.shapes import MOST_NUMBERS
from factor_q import FactorGraph, FactorQ
from factor_q.layers import mlp
from spnpolicy.base.errors import ConfigError, NonFiniteError

OUTPUT_GAIN = 0.01
"""Scale of the last layer's first weights, so that a new policy is close to uniform over each sum's children."""


class SPNPolicy(nn.Module):
    """A policy pi(u | state) over joint actions, given by a circuit whose logits come from a network.

    The head does not grow as one linear layer from the hidden units to all logits. From a state vector, every region of
    the circuit (the nodes over one set of agents) gets a short code, and a logit is the product of its region's code
    with an embedding of its own. With `per_agent`, networks shared by all agents and pairs turn the observations into
    potentials of actions and pairs of actions, and a logit is the sum of the potentials that its edge decides.

    Args:
        circuit: the structure; deterministic if entropy or mode are to be asked.
        observation_size: numbers per state, or per agent with `per_agent`; not used with an `encoder`.
        encoder: what the hidden layers see of an observation, as in `FactorQ`; None shows it as it is.
        hidden: widths of the hidden layers (ReLU).
        rank: length of a region's code (state vectors only).
        per_agent: expect one observation per agent, shape (*batch, n, observation_size).
        pairs: with `per_agent`, the pairs of agents with a potential; all pairs when None.
        agent_id: with `per_agent`, tell agents apart by their number, and give every logit a bias of its own; False
            leaves only weights that do not know how many agents there are.

    Raises:
        ConfigError: a size is not positive or would not fit into memory, or an option does not fit the mode.

    Source: weights from a small network and embeddings per region: HyperSPNs (Shih, Sadigh and Ermon 2021).

    Example:
        >>> import torch, circuits
        >>> policy = SPNPolicy(circuits.structures.markov_chain([3, 3]), observation_size=4)
        >>> policy(torch.zeros(5, 4)).batch_shape
        torch.Size([5])
    """

    def __init__(
        self,
        circuit: Circuit,
        observation_size: int = 64,
        *,
        encoder: nn.Module | None = None,
        hidden: Sequence[int] = (128, 128),
        rank: int = 32,
        per_agent: bool = False,
        pairs: Sequence[tuple[int, int]] | None = None,
        agent_id: bool = True,
    ) -> None:
        super().__init__()
        if not isinstance(circuit, Circuit):
            raise ConfigError(f"SPNPolicy takes a Circuit, not a {type(circuit).__name__}.")
        _check_sizes(observation_size, hidden, rank)
        if pairs is not None and not per_agent:
            raise ConfigError("SPNPolicy: pairs need per_agent=True.")
        for pair in pairs or ():
            if not isinstance(pair, Sequence) or len(pair) != 2 or not set(pair) <= set(range(circuit.num_variables)):
                raise ConfigError(
                    f"SPNPolicy: pairs holds {pair!r}; give two agents each, of 0 to {circuit.num_variables - 1}."
                )
        self.circuit = circuit
        agents = (circuit.num_variables,) if per_agent else ()
        self.input_shape = (*agents, observation_size)
        self._checks_size = encoder is None
        if per_agent:
            self.network: nn.Module = _Potentials(
                circuit, observation_size, pairs, encoder=encoder, hidden=hidden, agent_id=agent_id
            )
        else:
            seen = observation_size if encoder is None else cast(int, encoder.out_features)
            trunk = mlp((seen, *hidden), output_gain=math.sqrt(2), ends_in_relu=True)
            first = [] if encoder is None else [encoder]
            self.network = nn.Sequential(*first, trunk, _RegionCodes(circuit, hidden[-1], rank))

    def forward(self, observation: Float[Tensor, "*batch features"], *context: Tensor) -> CircuitDistribution:
        """Return the policy in each state.

        Args:
            observation: shape (*batch, observation_size); with `per_agent` (*batch, n, observation_size).
            context: further inputs of the encoder with `per_agent`, such as the state, (*batch, size).

        Returns:
            A distribution over joint actions with batch shape (*batch,).

        Raises:
            ConfigError: the observation has another shape or type.
        NonFiniteError: nan or an infinity in the observation, or out of the network; the message says which.
        """
        if not isinstance(observation, Tensor):
            raise ConfigError(
                f"SPNPolicy: the observation is a {type(observation).__name__}; pass a tensor (torch.as_tensor)."
            )
        depth = len(self.input_shape)
        shape = self.input_shape if self._checks_size else (*self.input_shape[:-1], observation.shape[-1])
        if tuple(observation.shape[-depth:]) != shape:
            raise ConfigError(
                f"SPNPolicy: the observation has shape {tuple(observation.shape)}, but it must end in {shape}."
            )
        dtype = next(self.parameters()).dtype
        if observation.dtype != dtype:
            raise ConfigError(f"SPNPolicy: the observation is {observation.dtype}, but the network {dtype}; use .to().")
        batch = observation.shape[:-depth]
        beside = (each.reshape(-1, *each.shape[len(batch) :]) for each in context)
        logits = self.network(observation.reshape(-1, *shape), *beside)
        # A finite sum has finite terms only: one pass, far cheaper than the last layer, and nan would act as action 0.
        if not torch.compiler.is_compiling() and not bool(logits.detach().sum().isfinite()):
            _check_finite(observation.reshape(-1, *shape), logits)
        # Stored parameters first, as the passes want it; what was checked here needs no second check.
        logits = logits.t().reshape(*batch, self.circuit.num_parameters)
        return CircuitDistribution(self.circuit, logits, validate_args=False)


def _check_sizes(observation_size: object, hidden: object, rank: object) -> None:
    """Raise unless all are positive whole numbers, hidden at least one of them, and their weights fit into memory."""
    widths = tuple(hidden) if isinstance(hidden, Sequence) else ()
    sizes = [size for size in (observation_size, *widths, rank) if type(size) is int and size > 0]
    if not widths or len(sizes) < len(widths) + 2:
        raise ConfigError(
            f"SPNPolicy: observation_size {observation_size!r}, rank {rank!r} and hidden {hidden!r} must be positive "
            "whole numbers, hidden a list with at least one of them, such as (128, 128)."
        )
    if (weights := sum(first * second for first, second in pairwise(sizes))) > MOST_NUMBERS:
        raise ConfigError(
            f"SPNPolicy: observation_size {observation_size}, hidden {hidden} and rank {rank} make layers of "
            f"{weights:,} weights, more than {MOST_NUMBERS:,}; take smaller ones."
        )


def _check_finite(observations: Tensor, logits: Tensor) -> None:
    """Raise where logits (parameters, rows) are not finite, and say whether the observations (rows, ...) were."""
    if bool(logits.isfinite().all()):
        return  # only their sum was too large
    row = int((~logits.isfinite()).any(0).nonzero()[0])
    if bool(observations[row].isfinite().all()):
        raise NonFiniteError(f"SPNPolicy: logits of row {row} of the batch are not finite; its weights have diverged.")
    raise NonFiniteError(f"SPNPolicy: the observation of row {row} of the batch holds nan or an infinity.")


class _RegionCodes(nn.Module):
    """Logits as products of region codes, which depend on the state, and embeddings of edges, which do not."""

    edge_order: Tensor

    def __init__(self, circuit: Circuit, width: int, rank: int) -> None:
        super().__init__()
        compiled = circuit.compiled
        edges_of_region: dict[int, list[int]] = defaultdict(list)
        for edge, row in enumerate(compiled.edge_sum.positions.tolist()):
            edges_of_region[compiled.row_scopes[row]].append(edge)
        by_size: dict[int, list[list[int]]] = defaultdict(list)
        for edges in edges_of_region.values():
            by_size[len(edges)].append(edges)
        self.rank = rank
        self.counts = [len(regions) for regions in by_size.values()]
        self.codes = nn.Linear(width, rank * sum(self.counts))
        nn.init.orthogonal_(self.codes.weight)
        nn.init.zeros_(self.codes.bias)
        self.embeddings = nn.ParameterList(
            nn.Parameter(torch.randn(count, size, rank) * (OUTPUT_GAIN / math.sqrt(rank)))
            for size, count in zip(by_size, self.counts, strict=True)
        )
        self.bias = nn.Parameter(torch.zeros(circuit.num_parameters, 1))
        produced = [edge for regions in by_size.values() for edges in regions for edge in edges]
        self.register_buffer("edge_order", torch.tensor(produced, dtype=torch.long).argsort(), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map (batch, width) to logits (parameters, batch)."""
        codes = self.codes(features).unflatten(-1, (-1, self.rank)).permute(1, 2, 0)
        parts = [
            (embedding @ code).flatten(0, 1)
            for embedding, code in zip(self.embeddings, codes.split(self.counts), strict=True)
        ]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).index_select(0, self.edge_order) + self.bias


class _Potentials(nn.Module):
    """Logits as sums of potentials: of each agent's action, and of pairs of actions, from shared networks."""

    entries: Tensor
    edges: Tensor

    def __init__(
        self,
        circuit: Circuit,
        observation_size: int,
        pairs: Sequence[tuple[int, int]] | None,
        *,
        encoder: nn.Module | None,
        hidden: Sequence[int],
        agent_id: bool,
    ) -> None:
        super().__init__()
        agents = range(circuit.num_variables)
        wanted = [(agent,) for agent in agents] + list(combinations(agents, 2) if pairs is None else pairs)
        decided = _decided_entries(circuit, wanted)
        scopes = [scope for scope in wanted if scope in decided]
        graph = FactorGraph(circuit.cardinalities, scopes)
        self.tables = FactorQ(
            graph, observation_size, encoder=encoder, hidden=hidden, per_agent=True, agent_id=agent_id
        )
        starts = np.cumsum([0, *graph.table_sizes])
        edges = np.concatenate([decided[scope][0] for scope in scopes])
        entries = np.concatenate([start + decided[scope][1] for start, scope in zip(starts, scopes, strict=False)])
        self.register_buffer("edges", torch.from_numpy(edges), persistent=False)
        self.register_buffer("entries", torch.from_numpy(entries), persistent=False)
        # A bias per logit would belong to one circuit, and so to one number of agents.
        first = torch.zeros(circuit.num_parameters, 1)
        self.bias = nn.Parameter(first) if agent_id else nn.Buffer(first, persistent=False)

    def forward(self, observation: Tensor, *context: Tensor) -> Tensor:
        """Map (batch, agents, features) to logits (parameters, batch)."""
        tables = self.tables(observation, *context).flat.t().contiguous()
        logits = self.bias.expand(-1, tables.shape[1])
        return logits.index_add(0, self.edges, tables.index_select(0, self.entries))


def _decided_entries(
    circuit: Circuit, scopes: Sequence[tuple[int, ...]]
) -> dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]]:
    """Return, per scope, which edges decide it and for which entry of its table.

    An edge decides a scope if its child fixes the values of all of the scope's agents and its sum does not yet.
    Scopes that no edge decides are left out.
    """
    compiled = circuit.compiled
    fixed: list[dict[int, int]] = [
        {variable: value} for variable, k in enumerate(compiled.cardinalities) for value in range(k)
    ]
    for row in range(compiled.num_values, compiled.num_rows):
        children = compiled.children[row]
        if compiled.is_sum[row]:
            first, *others = (fixed[child] for child in children)
            fixed.append({v: a for v, a in first.items() if all(other.get(v) == a for other in others)})
        else:
            fixed.append({v: a for child in children for v, a in fixed[child].items()})
    found: dict[tuple[int, ...], tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    pairs = zip(compiled.edge_sum.positions.tolist(), compiled.edge_child.positions.tolist(), strict=True)
    members: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for scope in scopes:
        members[scope[0]].append(scope)
    for edge, (parent, child) in enumerate(pairs):
        for first in fixed[child]:
            for scope in members[first]:
                if all(v in fixed[child] for v in scope) and not all(v in fixed[parent] for v in scope):
                    entry = 0
                    for variable in scope:
                        entry = entry * compiled.cardinalities[variable] + fixed[child][variable]
                    found[scope][0].append(edge)
                    found[scope][1].append(entry)
    return {scope: (np.array(edges), np.array(entries)) for scope, (edges, entries) in found.items()}
