"""Rescope: carry the tables of one factor graph over to another, and measure what each interaction is worth."""

import copy
from collections.abc import Callable, Iterator
from itertools import combinations, permutations

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import StructureError
from factor_q.critic import FactorQ
from factor_q.factors import Factors
from factor_q.graph import FactorGraph, Scope


def rescope(factors: Factors, graph: FactorGraph) -> Factors:
    """Return the factors on another graph, keeping all that it can say: the warm start after a structure search.

    A table whose variables have a table in the new graph, or are part of a larger one there, is carried over as it is.
    Of any other, the parts over fewer variables (its means over the others) go to the tables of the new graph that
    hold them, and what no table holds is lost. New tables start at zero. The result is the function on the new graph
    that is closest to the old one in mean square under uniform actions; the same one where nothing is lost.

    Args:
        factors: tables of any batch shape; -inf entries only in tables that are carried over as they are.
        graph: the new scopes, over the same variables.

    Returns:
        Factors on `graph`, of the same batch shape, differentiable.

    Raises:
        StructureError: other cardinalities, or a table that is taken apart holds -inf.

    Example:
        >>> old = Factors(FactorGraph([2, 2], [(0, 1)]), [torch.tensor([[1.0, 2.0], [3.0, 4.0]])])
        >>> new = rescope(old, FactorGraph([2, 2], [(0,), (1,), ()]))
        >>> new(torch.tensor([[0, 0], [1, 1]])).tolist()
        [1.0, 4.0]
    """
    if graph.cardinalities != factors.cardinalities:
        raise StructureError(
            f"rescope: the graph has cardinalities {graph.cardinalities}, but the factors have {factors.cardinalities}."
        )
    find = _finder(graph)
    batch = factors.batch_shape
    tables = [factors.flat.new_zeros((*batch, *shape)) for shape in graph.table_shapes]
    for scope, table in factors:
        home = find(scope)
        if home is not None:
            tables[home] = tables[home] + _placed(table, scope, graph.scopes[home])
            continue
        if not bool(table.isfinite().all()):
            raise StructureError(
                f"rescope: the table of scope {scope} holds entries that are not finite, and the new graph has no "
                "table to keep it; add its scope."
            )
        for part, component in _components(table, scope):
            home = find(part)
            if home is not None:
                tables[home] = tables[home] + _placed(component, part, graph.scopes[home])
    return Factors(graph, tables) if tables else Factors.from_flat(graph, factors.flat[..., :0])


def rescope_critic(critic: FactorQ, graph: FactorGraph) -> FactorQ:
    """Return a critic on another graph that starts where this one stands.

    Entries of tables are linear in the last layer, so `rescope` of its weights rescopes every state's factors at once:
    `rescope_critic(critic, graph)(state)` equals `rescope(critic(state), graph)`. New tables start at zero, and their
    weights learn from the first step on. Give an optimizer the new parameters.

    Args:
        critic: a critic that reads the state (per_agent=False); left as it is.
        graph: the new scopes, over the same variables.

    Raises:
        StructureError: the critic reads one observation per agent, or the cardinalities differ.
    """
    if critic.per_agent:
        raise StructureError(
            "rescope_critic: the critic reads one observation per agent; its networks belong to shapes of tables, not "
            "to scopes. Build FactorQ on the new graph; where the shapes of tables agree it takes the old state_dict."
        )
    hidden = [layer.out_features for layer in critic.trunk if isinstance(layer, torch.nn.Linear)]
    like = next(critic.parameters())
    encoder = copy.deepcopy(critic.encoder)
    result = FactorQ(graph, critic.observation_size, encoder=encoder, hidden=hidden).to(like.device, like.dtype)
    state = {
        name: rescope(Factors.from_flat(critic.graph, value), graph).flat if name.startswith("heads.") else value
        for name, value in critic.state_dict().items()
    }
    result.load_state_dict(state)
    return result.train(critic.training)


def coupling(factors: Factors) -> Float[Tensor, "*batch variables variables"]:
    """Return how strongly each pair of variables interacts: the variance of its interactions under uniform actions.

    Every table is split into parts of mean zero over each of their variables (analysis of variance); the mean squares
    of equal parts from different tables are those of their sum. A part over three or more variables counts for each
    pair in it.

    Args:
        factors: finite tables.

    Returns:
        Symmetric with zero diagonal, in the unit of the values squared; for `agent_order` and `chow_liu_parents` take
        its mean over the batch.

    Raises:
        StructureError: a table holds entries that are not finite.
    Cost: O(2^arity * entries).
    """
    parts: dict[frozenset[int], Tensor] = {}
    for scope, table in factors:
        if not bool(table.isfinite().all()):
            raise StructureError(f"coupling: the table of scope {scope} holds entries that are not finite.")
        for part, component in _components(table, scope):
            if len(part) > 1:
                key, ordered = frozenset(part), tuple(sorted(part))
                parts[key] = _placed(component, part, ordered) + parts.get(key, 0.0)
    n = len(factors.cardinalities)
    result = factors.flat.new_zeros((*factors.batch_shape, n, n))
    for key, component in parts.items():
        strength = component.square().flatten(-len(key)).mean(-1)
        for first, second in permutations(key, 2):
            result[..., first, second] += strength
    return result


def _finder(graph: FactorGraph) -> Callable[[Scope], int | None]:
    """Return what finds the table that holds a set of variables: its own, or else the smallest that contains it."""
    own = {frozenset(scope): i for i, scope in enumerate(graph.scopes)}
    holding: list[set[int]] = [set() for _ in graph.cardinalities]
    for i, scope in enumerate(graph.scopes):
        for variable in scope:
            holding[variable].add(i)

    def find(scope: Scope) -> int | None:
        if (home := own.get(frozenset(scope))) is not None:
            return home
        holders = set(own.values()).intersection(*(holding[variable] for variable in scope))
        return min(holders, key=lambda i: (graph.table_sizes[i], i), default=None)

    return find


def _placed(table: Tensor, scope: Scope, target: Scope) -> Tensor:
    """Bring a table's last axes into the order of a larger scope, with length one for the variables it lacks."""
    batch = table.dim() - len(scope)
    order = [batch + scope.index(variable) for variable in target if variable in scope]
    result = table.permute((*range(batch), *order))
    for axis, variable in enumerate(target):
        if variable not in scope:
            result = result.unsqueeze(batch + axis)
    return result


def _components(table: Tensor, scope: Scope) -> Iterator[tuple[Scope, Tensor]]:
    """Split a table into parts over each subset of its variables, each of mean zero along all of its axes."""
    batch = table.dim() - len(scope)
    for size in range(len(scope) + 1):
        for part in combinations(range(len(scope)), size):
            component = table
            # Backwards: an axis that is averaged away would renumber those behind it.
            for axis in reversed(range(len(scope))):
                mean = component.mean(batch + axis, keepdim=True)
                component = component - mean if axis in part else mean.squeeze(batch + axis)
            yield tuple(scope[axis] for axis in part), component
