"""Exact answers about factors, or None where memory or time forbids them."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from circuits.errors import NotTractableError
from factor_q.elimination.plan import sizes
from factor_q.factors import Factors
from factor_q.graph import FactorGraph

MOST_WORK = 2**34
"""Most entries of joined tables that one answer may make in all, a few minutes of one core."""
MOST_ASSIGNMENTS = 2**10
"""Most assignments of a cutset to loop over: with small tables the loop itself takes the time."""
_GRADIENT_WORK = 4
"""A pass up with gradients and the pass back, in passes up without."""


Result = TypeVar("Result")


def exact_log_partition(factors: Factors, max_entries: int) -> float | None:
    """Return log Z in nats, None where that is too much."""
    return _unless_refused(
        factors,
        lambda loops: float(factors.log_partition(max_entries=max_entries, cutset="auto", max_assignments=loops)),
    )


def exact_maximum(factors: Factors, max_entries: int) -> tuple[float, list[int]] | None:
    """Return the largest value and an assignment that has it, None where that is too much."""
    found = _unless_refused(
        factors, lambda loops: factors.max(max_entries=max_entries, cutset="auto", max_assignments=loops)
    )
    return found and (float(found.value), found.assignment.tolist())


def exact_marginals(factors: Factors, max_entries: int) -> list[list[float]] | None:
    """Return the probability of each value of each variable, None where that is too much.

    Where the messages of both passes exceed the memory, they are the gradient of log Z: that can be worked out for one
    assignment of a cutset after the other.

    Requires: log Z > -inf.
    """
    found = _unless_refused(
        factors, lambda _: own_values(factors.marginals(max_entries=max_entries), factors.cardinalities)
    )
    if found is not None:
        return found
    return _unless_refused(factors, lambda loops: _gradient(factors, max_entries, loops), passes=_GRADIENT_WORK)


def own_values(probabilities: Tensor, cardinalities: tuple[int, ...]) -> list[list[float]]:
    """Return the rows of a table (variables, values) without what is beyond a variable's own values."""
    return [row[:cardinality].tolist() for row, cardinality in zip(probabilities, cardinalities, strict=True)]


def _gradient(factors: Factors, max_entries: int, loops: int) -> list[list[float]]:
    """Return the marginals as the gradient of log Z with respect to a table of zeros for each variable."""
    cardinalities = factors.cardinalities
    graph = FactorGraph(cardinalities, [(variable,) for variable in range(len(cardinalities))])
    # log Z moves with the table of one variable as fast as its values are likely. Looped over a cutset, the gradient
    # adds up part by part, where two passes would have to hold all messages at once.
    zeros = torch.zeros(graph.num_entries, dtype=factors.dtype, requires_grad=True)
    with torch.enable_grad():
        total = (factors + Factors.from_flat(graph, zeros)).log_partition(
            max_entries=max_entries, cutset="auto", max_assignments=loops
        )
    (found,) = torch.autograd.grad(total, zeros)
    return [(part / part.sum()).tolist() for part in found.split(list(graph.table_sizes))]


def _unless_refused(factors: Factors, ask: Callable[[int], Result], *, passes: int = 1) -> Result | None:
    """Return what a query says that may loop over so many assignments of a cutset, None where that is too much.

    It makes all joined tables so many `passes` times for each.
    """
    # Memory alone is no limit of time: a cutset always makes tables that fit, and then loops for years. Fixing
    # variables makes no table larger.
    loops = min(MOST_ASSIGNMENTS, MOST_WORK // max(1, sizes(factors.graph, None).total)) // passes
    try:
        return ask(loops) if loops else None
    except NotTractableError:
        return None
