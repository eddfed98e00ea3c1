"""Structures for given factors: which circuit to fit, under a budget of labels and parameters."""

import time
from collections.abc import Callable, Iterator
from itertools import combinations
from math import prod
from typing import Unpack

import networkx as nx
import torch
from torch import Tensor

from circuits import Circuit, structures
from circuits.errors import NotTractableError, StructureError
from circuits.numerics import entropy_of, exponentials
from factor_q.compile import DEFAULT_MAX_PARAMETERS
from factor_q.factors import Factors
from factor_q.limits import Limits
from factor_q.ordering import elimination_cliques, elimination_order
from factor_q.plan import sizes
from factor_q.queries.temperature import Temperature, tempered
from factor_q.variational.maximize import VariationalFit, maximize_elbo
from factor_q.variational.starts import closed_form
from factor_q.variational.terms import bound, terms_of

_FORBIDDEN_STRENGTH = 20.0
"""Forbidden entries count as so many nats below the lowest allowed one."""


def fit_structure(
    factors: Factors,
    structure: str | Circuit = "keep_set",
    *,
    labels: int = 32,
    max_parameters: int | None = None,
    temperature: Temperature = 1.0,
    generator: torch.Generator | None = None,
    **limits: Unpack[Limits],
) -> VariationalFit:
    """Choose a circuit for the factors under a budget, and maximise the exact evidence lower bound on it.

    Of several circuits of the family the one with the best closed-form start is fitted.

    Args:
        factors: batch shape (*batch).
        structure: a name of `factor_q.variational.FITTED_STRUCTURES`, or a deterministic circuit of your own.
        labels: most labels per region (keep_set), joint values of a context (clique_tree, markov_chain), copies
            (selective), states (decision_diagram) or assignments of the cutset (cutset).
        max_parameters: circuits with more are not considered; None: no limit.
        temperature: positive and finite; one number, or a tensor that broadcasts to one per batch row.
        generator: source of the random starts; torch's global generator when None.
        **limits: `steps`, `seconds` (choosing included), `tolerance`, `on_step` of `maximize_elbo`.

    Returns:
        The fit, as `maximize_elbo` returns it; exact where the labels separate the factors.

    Raises:
        StructureError: an unknown structure.
        NotTractableError: no circuit of the family fits the budget; or your circuit is not deterministic.

    Example:
        >>> import factor_q
        >>> f = Factors(factor_q.ring([3] * 5), torch.randn(5, 3).unbind() + torch.randn(5, 3, 3).unbind())
        >>> fit = fit_structure(f, labels=9)
        >>> bool(torch.isclose(fit.lower_bound, f.log_partition().double()))
        True
    """
    if isinstance(structure, Circuit):
        return maximize_elbo(factors, structure, temperature=temperature, generator=generator, **limits)
    begin = time.monotonic()
    target = tempered(factors.detach().to(dtype=torch.float64), temperature, "fit_structure")
    found = candidates(target, structure, labels=labels, max_parameters=max_parameters)
    small = [circuit for circuit in found if max_parameters is None or circuit.num_parameters <= max_parameters]
    if not small:
        least = min((circuit.num_parameters for circuit in found), default=None)
        raise NotTractableError(
            f"fit_structure: no {structure} circuit of at most {labels} labels fits "
            + (f"max_parameters={max_parameters:,}; the smallest has {least:,}." if least else "the factors.")
            + " Use keep_set, which forgets what does not fit, with fewer labels, or allow more."
        )
    best = small[0] if len(small) == 1 else max(small, key=lambda circuit: _start_value(circuit, target))
    if (seconds := limits.get("seconds")) is not None:
        limits["seconds"] = max(0.0, seconds - (time.monotonic() - begin))
    return maximize_elbo(target, best, generator=generator, **limits)


def candidates(factors: Factors, structure: str, *, labels: int, max_parameters: int | None = None) -> list[Circuit]:
    """Return the circuits of a family that are worth a try for these factors.

    Raises:
        StructureError: an unknown structure, or labels below 1.
    """
    if structure not in FITTED_STRUCTURES:
        raise StructureError(f"fit_structure: {structure!r} is not one of {', '.join(FITTED_STRUCTURES)}.")
    if labels < 1:
        raise StructureError(f"fit_structure: labels is {labels}; it must be at least 1.")
    return FITTED_STRUCTURES[structure](factors, labels, max_parameters)


def factor_strengths(factors: Factors) -> list[float]:
    """Return how much each factor couples its variables: the root mean square of its pure interaction, in its unit.

    The pure interaction is what is left of a table after the best sum of functions of single variables is taken away
    (the means along all axes but one). Averaged over batch rows.
    """
    return [_interaction(table, axes) for table, axes in _tables(factors)]


def factor_informations(factors: Factors) -> list[float]:
    """Return how much each factor alone makes its variables tell about each other: their total correlation, in nats.

    Under the distribution proportional to exp of the factor's table. Unlike `factor_strengths` it saturates: a
    coupling that fixes its variables cannot do more. Averaged over batch rows.
    """
    return [_information(table, axes) for table, axes in _tables(factors)]


def _tables(factors: Factors) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
    """Yield the tables with finite numbers for forbidden entries, and the axes of their variables."""
    for scope, table in factors:
        table = table.detach()
        blocked = table == -torch.inf
        lowest = float(table.masked_fill(blocked, 0.0).amin()) if table.numel() else 0.0
        axes = tuple(range(table.dim() - len(scope), table.dim()))
        yield table.masked_fill(blocked, lowest - _FORBIDDEN_STRENGTH), axes


def _information(table: Tensor, axes: tuple[int, ...]) -> float:
    if len(axes) < 2:
        return 0.0
    flat = table.flatten(axes[0]).clone()
    totals = exponentials(flat, -1)
    joint = (flat / totals.unsqueeze(-1)).reshape(table.shape)
    alone = sum(entropy_of(joint.sum(tuple(other for other in axes if other != axis))).sum(-1) for axis in axes)
    return max(0.0, float((alone - entropy_of(joint).sum(axes)).mean()))


def _interaction(table: Tensor, axes: tuple[int, ...]) -> float:
    if len(axes) < 2:
        return 0.0
    rest = table - table.mean(axes, keepdim=True)
    for axis in axes:
        rest = rest - rest.mean(tuple(other for other in axes if other != axis), keepdim=True)
    return float(rest.square().mean(axes).sqrt().mean())


def _start_value(circuit: Circuit, target: Factors) -> float:
    """Return the bound of the closed-form start, averaged over batch rows."""
    logits = closed_form(circuit.compiled, target)
    with torch.no_grad():
        return float(bound(circuit.compiled, terms_of(target), logits)[0].mean())


def _keep_sets(factors: Factors, labels: int, most: int | None) -> list[Circuit]:
    """The exact circuit where the separators fit; otherwise balanced trees and chains, with couplings in two units."""
    exact = _clique_trees(factors, labels, most)
    if exact and (most is None or exact[0].num_parameters <= most):
        return exact
    cards, scopes = factors.cardinalities, factors.scopes
    found = [
        structures.keep_set(cards, scopes, labels=labels, shape=shape, strengths=strengths, max_parameters=most)
        for shape in ("balanced", "chain")
        for strengths in (factor_strengths(factors), factor_informations(factors))
    ]
    return list({circuit.nodes: circuit for circuit in found}.values())


def _clique_trees(factors: Factors, labels: int, most: int | None) -> list[Circuit]:
    """The junction tree of the best order, where no separator has more joint values than labels."""
    graph = factors.graph
    order = elimination_order(graph)
    widest = max(prod(graph.cardinalities[v] for v in clique[1:]) for clique in elimination_cliques(graph, order))
    if widest > labels or sizes(graph, order).total > DEFAULT_MAX_PARAMETERS:
        return []
    return [structures.clique_tree(graph.cardinalities, graph.scopes, order=order)]


def _chains(factors: Factors, labels: int, most: int | None) -> list[Circuit]:
    """The highest order whose contexts all fit."""
    cards = factors.cardinalities
    fits = [
        order
        for order in range(len(cards))
        if max(prod(cards[t : t + order]) for t in range(len(cards) - order + 1)) <= labels
    ]
    return [structures.markov_chain(cards, order=max(fits, default=0))]


def _trees(factors: Factors, labels: int, most: int | None) -> list[Circuit]:
    """The spanning tree (or forest) of the strongest factors."""
    graph = nx.Graph()
    graph.add_nodes_from(range(len(factors.cardinalities)))
    for scope, strength in zip(factors.scopes, factor_strengths(factors), strict=True):
        for first, second in combinations(scope, 2):
            before = graph.get_edge_data(first, second, {"weight": 0.0})["weight"]
            graph.add_edge(first, second, weight=before + strength)
    forest = nx.maximum_spanning_tree(graph)
    parents = [-1] * len(factors.cardinalities)
    for component in nx.connected_components(forest):
        parents_of = nx.predecessor(forest, min(component))
        for variable, above in parents_of.items():
            parents[variable] = above[0] if above else -1
    return [structures.tree(factors.cardinalities, parents)]


def _cutsets(factors: Factors, labels: int, most: int | None) -> list[Circuit]:
    """Condition on the most strongly coupled variables, as many as the labels allow."""
    cards = factors.cardinalities
    pull = dict.fromkeys(range(len(cards)), 0.0)
    for scope, strength in zip(factors.scopes, factor_strengths(factors), strict=True):
        for variable in scope:
            pull[variable] += strength
    order = sorted(pull, key=lambda variable: (-pull[variable], variable))
    depth = max(d for d in range(len(cards)) if prod(cards[v] for v in order[:d]) <= labels or d == 0)
    rest = sorted(order[depth:])
    return [structures.cutset(cards, order=[*order[:depth], *rest], depth=depth)]


FITTED_STRUCTURES: dict[str, Callable[[Factors, int, int | None], list[Circuit]]] = {
    "keep_set": _keep_sets,
    "clique_tree": _clique_trees,
    "mean_field": lambda factors, labels, most: [structures.mean_field(factors.cardinalities)],
    "markov_chain": _chains,
    "tree": _trees,
    "selective": lambda factors, labels, most: [structures.selective(factors.cardinalities, copies=labels)],
    "decision_diagram": lambda factors, labels, most: [
        structures.decision_diagram(factors.cardinalities, width=labels)
    ],
    "cutset": _cutsets,
}
"""All families that can be fitted to factors, by name: (factors, labels, most parameters) -> circuits to
choose from."""
