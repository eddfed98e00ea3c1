"""Cutset network: condition on a few variables, then a tree for each of their joint values."""

from collections.abc import Sequence
from itertools import product as assignments
from math import prod

from circuits.circuit import Circuit, CircuitBuilder
from circuits.errors import StructureError
from circuits.structures.size import check_size
from circuits.structures.tree import add_forest, check_parents
from circuits.variables import check_cardinalities


def cutset(
    cardinalities: Sequence[int],
    order: Sequence[int] | None = None,
    depth: int = 1,
    *,
    parents: Sequence[int] | None = None,
) -> Circuit:
    """Return p(cut variables) times a tree Bayesian network over the others, one for each joint value of the cut.

    Args:
        cardinalities: number of values of each variable.
        order: the variables in some order, those to cut first; 0, 1, ... when None.
        depth: how many variables to cut, 0 or more; 0 is the tree alone, all of them is the table of joint values.
        parents: for each variable the index of its parent in the trees, or -1; entries of cut variables are not used,
            and variables below a cut one become roots. None: a chain along the order.

    Returns:
        A deterministic circuit with sum over cut variables t of (product of the cardinalities up to t, in order)
        + (product of all cut cardinalities) * (sum over the others i of k_i * k_parent(i), k_i for roots) parameters;
        variables with one value have none.

    Raises:
        StructureError: an order that is not a permutation, depth outside 0 to the number of variables, or parents of
            wrong length, out of range or with a cycle; or a circuit of more than 2^22 parameters.
    Cost: exponential in depth, linear in the other variables.
    Source: Rahman, Kothalkar and Gogate 2014, Cutset Networks; the cut is the same on every branch.
    """
    cards = check_cardinalities(cardinalities)
    order = list(range(len(cards))) if order is None else list(order)
    if sorted(order) != list(range(len(cards))):
        raise StructureError(f"cutset: order {order} must name each of the variables 0 to {len(cards) - 1} once.")
    if not 0 <= depth <= len(cards):
        raise StructureError(f"cutset depth is {depth}; it must be within 0 to {len(cards)}, the number of variables.")
    if parents is None:
        parents = [-1] * len(cards)
        for previous, variable in zip(order, order[1:], strict=False):
            parents[variable] = previous
    check_parents(cards, parents, "cutset")
    cut, others = order[:depth], order[depth:]
    forest = {variable: parents[variable] if parents[variable] not in set(cut) else -1 for variable in others}
    each = sum(cards[v] * (cards[parent] if parent >= 0 else 1) for v, parent in forest.items())
    check_size("cutset", prod(cards[v] for v in cut) * max(1, each), "take a smaller depth")
    builder = CircuitBuilder(cards, name=f"cutset(depth={depth})")
    indicators = [[builder.input(variable, [value]) for value in range(k)] for variable, k in enumerate(cards)]
    parts = [add_forest(builder, forest, indicators) for _ in assignments(*(range(cards[v]) for v in cut))]
    for variable in reversed(cut):
        parts = _decide(builder, indicators[variable], parts)
    (roots,) = parts
    return builder.build(roots[0] if len(roots) == 1 else builder.product(*roots))


def _decide(builder: CircuitBuilder, indicators: list[int], parts: list[list[int]]) -> list[list[int]]:
    """Let one variable choose among the parts: runs of one part per value become one part each."""
    chosen: list[list[int]] = []
    for first in range(0, len(parts), len(indicators)):
        run = zip(indicators, parts[first : first + len(indicators)], strict=True)
        children = [builder.product(indicator, *part) if part else indicator for indicator, part in run]
        chosen.append([children[0] if len(children) == 1 else builder.sum(*children)])
    return chosen
