"""Coordination graphs: which agents share a payoff table, and how a good joint action of their sum is found."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

import factor_q
from circuits import StructureError
from factor_q import FactorGraph, Factors, NotTractableError
from factor_q.approximate.conditionals import ascend_coordinates, conditional_plan
from factor_q.elimination.memory import DEFAULT_MAX_ENTRIES, check_memory
from factor_q.elimination.plan import peak, sizes
from factor_q.queries.condition import add_log_weights
from spnpolicy.base.decoding import Checked
from spnpolicy.base.errors import ConfigError
from spnpolicy.base.ranges import Amount, Count
from spnpolicy.maths.masks import usable
from spnpolicy.parts.exploration import epsilon_greedy


@dataclass(frozen=True)
class GraphSettings(Checked):
    """Which agents share a payoff table; besides, every agent has a table of its own."""

    graph: Literal["complete", "ring", "chain", "grid", "random", "scopes"] = "ring"
    """Pairs with a table: all, neighbours by number (ring, chain, squarest grid), random ones, or those of `scopes`."""
    num_pairs: Count = 20
    """Pairs of the random graph: all pairs of agents if they are no more than this."""
    scopes: tuple[tuple[Amount, ...], ...] = ()
    """Numbers of the agents of every table, for the graph "scopes"."""


def coordination_graph(settings: GraphSettings, cardinalities: tuple[int, ...], seed: int) -> FactorGraph:
    """Return the graph that the settings ask for, with the tables of single agents first.

    Args:
        settings: which agents share a table.
        cardinalities: number of actions of each agent.
        seed: of the random graph.

    Raises:
        ConfigError: scopes were given beside another graph, a scope names an agent twice or one that is not there, or a
            random graph has too few pairs.
    """
    if settings.scopes and settings.graph != "scopes":
        raise ConfigError(f'scopes are given, but graph is {settings.graph!r}; it must be "scopes" for them to count.')
    try:
        return _graph(settings, cardinalities, seed)
    except StructureError as problem:
        name = "scopes" if settings.graph == "scopes" else "num_pairs"
        raise ConfigError(f"{name} is {getattr(settings, name)!r:.60}: {problem}") from problem


def _graph(settings: GraphSettings, cardinalities: tuple[int, ...], seed: int) -> FactorGraph:
    if settings.graph == "complete":
        return factor_q.complete(cardinalities)
    if settings.graph == "ring":
        return factor_q.ring(cardinalities)
    if settings.graph == "chain":
        return factor_q.nearest_neighbors(cardinalities)
    if settings.graph == "grid":
        agents = len(cardinalities)
        rows = max(row for row in range(1, math.isqrt(agents) + 1) if agents % row == 0)
        return factor_q.grid(cardinalities, rows, agents // rows)
    if settings.graph == "random":
        return factor_q.random_pairs(cardinalities, settings.num_pairs, seed=seed)
    singles = [(agent,) for agent in range(len(cardinalities))]
    return FactorGraph(cardinalities, [*singles, *(scope for scope in settings.scopes if len(scope) != 1)])


def allow(factors: Factors, available: Bool[Tensor, "*batch agents actions"]) -> Factors:
    """Forbid every joint action with an action that is not available.

    An agent without any available action is left free, so that a maximum is finite; see `masks.zero_where_stuck`.
    """
    weights = torch.zeros(available.shape, dtype=factors.dtype, device=factors.device)
    return add_log_weights(factors, weights.masked_fill(~usable(available, factors.cardinalities), -math.inf))


def require_tractable(graph: FactorGraph, max_entries: int) -> None:
    """Raise unless elimination for one state holds at most so many table entries.

    Raises:
        ConfigError: the graph is too wide; the message says by how much.
    """
    try:
        check_memory(Factors.from_flat(graph, torch.zeros(graph.num_entries)), None, _held(graph), max_entries)
    except NotTractableError as problem:
        raise ConfigError(
            f"{str(problem).splitlines()[0]} Take another graph (such as 'ring', or 'random' with few num_pairs), a "
            "larger max_entries, or dcg, which maximises approximately."
        ) from problem


@torch.no_grad()
def eliminate(factors: Factors) -> Int[Tensor, "*batch agents"]:
    """Return an exactly best joint action of each row, by variable elimination.

    Among equal values each agent takes its lowest action, given the agents read back before it. Many rows of wide
    graphs are maximised in parts, so that memory does not depend on their number.

    Source: Guestrin, Lagoudakis and Parr 2002.
    """
    held = _held(factors.graph)
    parts = factors.flat.flatten(0, -2).split(max(1, DEFAULT_MAX_ENTRIES // held))
    limit = max(held, DEFAULT_MAX_ENTRIES)
    best = torch.cat([Factors.from_flat(factors.graph, part).max(max_entries=limit)[1] for part in parts])
    return best.reshape(*factors.batch_shape, factors.graph.num_variables)


def _held(graph: FactorGraph) -> int:
    """Return at least as many entries as the maximum of one row holds, the choices in its messages included."""
    return peak(graph, None) + sizes(graph, None).messages


@torch.no_grad()
def max_plus(
    factors: Factors, iterations: int = 8, *, improve: bool = True
) -> tuple[Float[Tensor, "*batch"], Int[Tensor, "*batch agents"]]:
    """Search a good joint action of pair tables by messages along the graph, and return its value and itself.

    Agent i tells each neighbour j what it can add to the payoff for every action of j,
    m_ij(a_j) = max_{a_i} [f_i(a_i) + f_ij(a_i, a_j) + sum_{l != j} m_li(a_i)], minus the mean over a_j. After every
    iteration each agent takes its best action by what it heard, and the best joint action seen is kept. On trees it is
    a best one after as many iterations as the diameter, unless several are; with loops the value is a lower bound.

    `factor_q.max_plus` takes any tables and decodes with more care, at the cost of many more tensor operations.

    Args:
        factors: on the graph of `coordination_graph`: one table per agent, then only pairs, all agents with the same
            number of actions. Tables of single agents may hold -inf, but not for all actions of an agent.
        iterations: exchanges of messages; with 0 each agent takes its best action by its own table.
        improve: in the end let one agent after the other change its action while that helps.

    Raises:
        ValueError: the graph is of another kind.
    Cost: O(iterations * pairs * actions^2) per row, a fixed number of tensor operations per iteration.
    Source: Kok and Vlassis 2006; Boehmer, Kurin and Whiteson 2020.
    """
    edges = _edges(factors.graph, factors.device)
    agents, actions = edges.agents, edges.actions
    utilities = factors.flat[..., : agents * actions].unflatten(-1, (agents, actions))
    pairs = factors.flat[..., agents * actions :].unflatten(-1, (-1 if edges.count else 0, actions, actions))
    payoffs = torch.cat([pairs, pairs.transpose(-1, -2)], -3)
    messages = factors.flat.new_zeros(*factors.batch_shape, 2 * edges.count, actions)
    beliefs = utilities
    best = beliefs.argmax(-1)
    value = factors(best)
    for _ in range(iterations if edges.count else 0):
        told = beliefs.index_select(-2, edges.sources) - messages.roll(edges.count, -2)
        messages = (payoffs + told.unsqueeze(-1)).amax(-2)
        messages = messages - messages.mean(-1, keepdim=True)
        beliefs = utilities.index_add(-2, edges.targets, messages)
        found = beliefs.argmax(-1)
        better = (found_value := factors(found)) > value
        value, best = found_value.where(better, value), found.where(better.unsqueeze(-1), best)
    if improve and edges.count:
        best = ascend_coordinates(conditional_plan(factors.graph, factors.device), factors.flat, best)
        value = factors(best)
    return value, best


class _Edges(NamedTuple):
    """The pairs in both directions: pair e from its first agent to its second, pair count + e back."""

    agents: int
    actions: int
    count: int
    sources: Int[Tensor, "directed"]
    targets: Int[Tensor, "directed"]


@lru_cache(maxsize=64)
def _edges(graph: FactorGraph, device: torch.device) -> _Edges:
    agents = graph.num_variables
    singles, pairs = graph.scopes[:agents], graph.scopes[agents:]
    is_expected = singles == tuple((agent,) for agent in range(agents)) and all(len(pair) == 2 for pair in pairs)
    if not is_expected or len(set(graph.cardinalities)) != 1:
        raise ValueError(f"max_plus needs a table of each agent, then pairs, and equal cardinalities, not {graph}.")
    # Without this a first call under inference mode would cache tensors that training cannot use.
    with torch.inference_mode(False):
        ends = torch.tensor(pairs, dtype=torch.long, device=device).reshape(-1, 2)
        sources, targets = torch.cat([ends, ends.flip(-1)]).unbind(-1)
    return _Edges(agents, graph.cardinalities[0], len(pairs), sources, targets)


def explore_around(
    greedy: Int[np.ndarray, "envs agents"],
    available: Bool[np.ndarray, "envs agents actions"],
    *,
    epsilon: float,
    generator: np.random.Generator,
    together: bool,
) -> Int[np.ndarray, "envs agents"]:
    """Replace greedy actions by random available ones with probability `epsilon`; with 0 nothing is drawn.

    Args:
        greedy: the best joint action of every environment.
        available: what may be drawn.
        epsilon: probability of a random action.
        generator: source of the randomness.
        together: all agents of an environment explore at once; otherwise each decides on its own.
    """
    if epsilon <= 0.0:
        return greedy
    random = epsilon_greedy(np.zeros(available.shape), available, epsilon=1.0, generator=generator)
    deciders = (len(greedy), 1) if together else greedy.shape
    return np.where(generator.random(deciders) < epsilon, random, greedy)
