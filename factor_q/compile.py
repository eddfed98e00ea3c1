"""Compile: the Boltzmann distribution of Factors as a deterministic circuit, exactly and in closed form."""

from functools import lru_cache

import torch
from torch import Tensor

from circuits import Circuit, CircuitDistribution
from circuits.errors import NotTractableError
from circuits.numerics import NEGATIVE_INFINITY
from circuits.structures.clique_tree import build_clique_tree
from factor_q.elimination.ordering import Order, checked_order
from factor_q.elimination.passes import SUM_PRODUCT, aligned, upward
from factor_q.elimination.plan import make_plan, sizes
from factor_q.factors import Factors
from factor_q.graph import FactorGraph
from factor_q.temperature import Temperature, check_possible, tempered

DEFAULT_MAX_PARAMETERS = 2**20


def compile(
    factors: Factors,
    temperature: Temperature = 1.0,
    *,
    order: Order = None,
    max_parameters: int = DEFAULT_MAX_PARAMETERS,
) -> CircuitDistribution:
    """Return the distribution proportional to exp(f / temperature): the optimal maximum-entropy joint policy.

    No optimisation: one elimination pass gives every conditional p(u_i | context of i), and these are the weights of a
    clique-tree circuit. Every circuit query then works on it, in one or two passes: conditions, marginals, samples,
    entropy, the mode. Rows that differ in numbers only share one circuit, built once per graph and order.

    Args:
        factors: tables of any arity; -inf entries are forbidden.
        temperature: positive and finite; one number, or a tensor that broadcasts to one per batch row.
        order: elimination order, a permutation of the variables or the name of a heuristic; None for the best found.
        max_parameters: most parameters of the circuit.

    Returns:
        A distribution of batch shape (*batch) on a deterministic circuit; differentiable in tables and temperature.

    Raises:
        NotTractableError: the circuit would have more than `max_parameters`; raised before anything is built.
        ImpossibleEvidenceError: a batch row forbids every assignment.
        StructureError: the temperature is not positive, or order is not a permutation of the variables.
    Cost: building O(n k^(width + 1)), once per graph; numbers O(n k^(width + 1)) per batch row.
    Source: soft Bellman backup over a junction tree; Lauritzen and Spiegelhalter 1988, Darwiche 2003.

    Example:
        >>> f = Factors(FactorGraph([2, 2], [(0, 1)]), [torch.tensor([[0.0, 1.0], [2.0, 0.0]])])
        >>> pi = compile(f)
        >>> pi.mode.tolist(), bool(torch.isclose(pi.expectation(f) + pi.entropy(), f.log_partition()))
        ([1, 0], True)
    """
    cooled = tempered(factors, temperature, "compile")
    order = checked_order(factors.graph, order)
    _check_size(factors.graph, order, max_parameters)
    circuit, sources = _structure(factors.graph, order)
    plan = make_plan(factors.graph, order)
    up = upward(plan, cooled.flat, SUM_PRODUCT.up, keep=True)
    check_possible(up.root.reshape(cooled.batch_shape), "compile")
    conditionals: list[Tensor] = []
    for i, step in enumerate(plan.steps, start=len(plan.factor_shapes)):
        views = aligned(step.terms, up.tables, up.root.shape[-1], keep=True)
        joint = sum(views, start=cooled.flat.new_zeros(*step.shape, up.root.shape[-1]))
        # A context of probability zero is never reached; any weights do there, except those that sum to zero.
        reachable = joint.masked_fill(up.tables[i] == NEGATIVE_INFINITY, 0.0)
        conditionals.append(reachable.movedim(0, -2).flatten(0, -2))
    laid_out = torch.cat(conditionals) if conditionals else cooled.flat.new_zeros(0, cooled.batch_shape.numel())
    logits = laid_out.index_select(0, sources.to(cooled.device)).t().reshape(*cooled.batch_shape, len(sources))
    return CircuitDistribution(circuit, logits, validate_args=False)


@lru_cache(maxsize=4)
def _structure(graph: FactorGraph, order: tuple[int, ...]) -> tuple[Circuit, Tensor]:
    """Return the circuit, and for each logit its row among the conditional tables laid end to end."""
    steps = make_plan(graph, order).steps
    contexts: dict[int, tuple[int, ...]] = {variable: () for variable in order}
    contexts.update((step.variable, step.message) for step in steps)
    circuit, sums = build_clique_tree(graph.cardinalities, contexts, name="compiled")
    starts = [circuit.parameters_of(node).start for step in steps for node in sums[step.variable]]
    counts = [graph.cardinalities[step.variable] for step in steps for _ in sums[step.variable]]
    # Tables come in elimination order, context by context; the circuit numbers its parameters from the leaves up.
    first, size = torch.tensor(starts, dtype=torch.long), torch.tensor(counts, dtype=torch.long)
    before = size.cumsum(0) - size
    place = torch.arange(int(size.sum())) + (first - before).repeat_interleave(size)
    sources = torch.empty_like(place)
    sources[place] = torch.arange(len(place))
    return circuit, sources


def _check_size(graph: FactorGraph, order: tuple[int, ...], max_parameters: int) -> None:
    """Raise before anything is built when the circuit would be too large."""
    size = sizes(graph, order)
    if size.total > max_parameters:
        raise NotTractableError(
            f"compile: the circuit of {graph} would have {size.total:,} parameters, its order having induced width "
            f"{size.width}; max_parameters is {max_parameters:,}.\n"
            "    Give a better order=... or a larger max_parameters=..., use fewer or smaller factors, fix some "
            "variables by Factors.condition, or fit a smaller circuit with factor_q.maximize_elbo."
        )
