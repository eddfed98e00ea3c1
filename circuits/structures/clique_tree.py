"""Clique tree: each variable depends on those that separate it, and what hangs below it, from the rest."""

from collections.abc import Iterable, Sequence
from itertools import product as assignments
from math import prod
from typing import NamedTuple

from circuits.circuit import Circuit, CircuitBuilder
from circuits.errors import StructureError
from circuits.structures.size import check_size
from circuits.variables import check_cardinalities

Context = tuple[int, ...]
"""The variables that a variable depends on; all of them come later in the elimination order."""


class CliqueTree(NamedTuple):
    """A circuit, and where the conditional distributions of its variables stand."""

    circuit: Circuit
    sums: dict[int, list[int]]
    """For each variable with several values: one sum node per joint value of its context, the last one fastest; the
    children of a sum follow the variable's values."""


def clique_tree(
    cardinalities: Sequence[int],
    scopes: Iterable[Sequence[int]] | None = None,
    *,
    order: Sequence[int] | None = None,
) -> Circuit:
    """Return the product over variables of p(u_i | context of i), with contexts from eliminating the variables.

    The context of a variable holds the variables that share a scope with it, or with one eliminated before it that
    leads to it, at the time of its elimination. The circuit holds exp(Q) exactly for every Q with these scopes: it is
    the junction tree of the order, written as a circuit.

    Args:
        cardinalities: number of values of each variable.
        scopes: sets of variables that interact (the scopes of a factor graph); all pairs when None.
        order: in which order variables are eliminated, a permutation; 0, 1, 2, ... when None. The sizes depend on it:
            `factor_q.elimination_order` finds good ones.

    Returns:
        A deterministic circuit with sum over i of k_i * (joint values of the context of i) parameters (variables with
        one value have none).

    Raises:
        StructureError: an order that is no permutation, a scope that names an unknown variable, or a circuit of more
            than 2^22 parameters; raised before it is built.
    Cost: linear in parameters.
    Source: Lauritzen and Spiegelhalter 1988; as a circuit, Darwiche 2003.

    Example:
        >>> ring = clique_tree([2, 2, 2, 2], [(0, 1), (1, 2), (2, 3), (0, 3)])
        >>> ring.num_parameters, ring.is_deterministic
        (22, True)
    """
    cards = check_cardinalities(cardinalities)
    pairs = [(i, j) for i in range(len(cards)) for j in range(i)] if scopes is None else list(map(tuple, scopes))
    order = tuple(range(len(cards)) if order is None else order)
    if sorted(order) != list(range(len(cards))):
        raise StructureError(f"clique_tree: the order {order} must name each of {len(cards)} variables once.")
    for scope in pairs:
        if any(not 0 <= variable < len(cards) for variable in scope):
            raise StructureError(f"clique_tree: scope {scope} names a variable that is not one of {len(cards)}.")
    contexts = eliminate(pairs, order)
    widest = max(contexts, key=lambda variable: prod(cards[v] for v in contexts[variable]) * cards[variable])
    size = sum(k * prod(cards[v] for v in contexts[variable]) for variable, k in enumerate(cards))
    check_size(
        "clique_tree",
        size,
        f"variable {widest} depends on {len(contexts[widest])} others. Give scopes and an order that separate them "
        "better, or use keep_set, whose size you choose",
    )
    return build_clique_tree(cards, contexts, name="clique_tree").circuit


def eliminate(scopes: Iterable[Sequence[int]], order: Sequence[int]) -> dict[int, Context]:
    """Return the context of each variable, in elimination order; contexts are sorted by elimination."""
    position = {variable: i for i, variable in enumerate(order)}
    # Bucket elimination without numbers: eliminating a variable couples all that it shares a scope with, so what is
    # left of its bucket moves on as one scope to whichever of them goes next.
    buckets: dict[int, set[int]] = {variable: set() for variable in order}
    for scope in scopes:
        if scope:
            buckets[min(scope, key=position.__getitem__)].update(scope)
    contexts: dict[int, Context] = {}
    for variable, bucket in buckets.items():
        context = tuple(sorted(bucket - {variable}, key=position.__getitem__))
        if context:
            buckets[context[0]].update(context)
        contexts[variable] = context
    return contexts


def build_clique_tree(cardinalities: Sequence[int], contexts: dict[int, Context], *, name: str) -> CliqueTree:
    """Build the circuit of given contexts.

    Args:
        cardinalities: number of values of each variable.
        contexts: for each variable, in elimination order, variables that come later. Each context must lie within
            one of its members and the context of that one, as those of `eliminate` do.
        name: of the circuit.
    """
    builder = CircuitBuilder(cardinalities, name=name)
    cards = builder.cardinalities
    position = {variable: i for i, variable in enumerate(contexts)}
    below: dict[int, list[int]] = {variable: [] for variable in contexts}
    roots: list[int] = []
    for variable, context in contexts.items():
        # The node below which a variable can hang must know the whole context; the one eliminated first is the
        # smallest.
        parents = [other for other in context if set(context) <= {other, *contexts[other]}]
        (below[min(parents, key=position.__getitem__)] if parents else roots).append(variable)
    found: dict[int, dict[tuple[int, ...], int]] = {}
    sums: dict[int, list[int]] = {}
    for variable, context in contexts.items():
        indicators = [builder.input(variable, [value]) for value in range(cards[variable])]
        # Where the values of a child's context stand in (context, variable): contexts are in elimination order, not
        # sorted.
        places = [
            (found.pop(child), tuple([*context, variable].index(v) for v in contexts[child]))
            for child in below[variable]
        ]
        elements: dict[tuple[int, ...], int] = {}
        nodes: dict[tuple[int, ...], int] = {}
        for values in assignments(*(range(cards[v]) for v in context)):
            members = []
            for value, indicator in enumerate(indicators):
                joint = (*values, value)
                children = tuple(nodes_of[tuple(joint[p] for p in where)] for nodes_of, where in places)
                # Contexts that agree on what lies below share it.
                if (value, *children) not in elements:
                    elements[value, *children] = builder.product(indicator, *children) if children else indicator
                members.append(elements[value, *children])
            nodes[values] = builder.sum(*members) if len(members) > 1 else members[0]
        found[variable] = nodes
        if cards[variable] > 1:
            sums[variable] = list(nodes.values())
    tops = [found[root][()] for root in roots]
    circuit = builder.build(tops[0] if len(tops) == 1 else builder.product(*tops))
    return CliqueTree(circuit, sums)
