"""Structures for given factors: which circuit to fit, under a budget of labels and parameters."""

import time
from collections.abc import Callable, Sequence
from math import inf, prod
from typing import Unpack

import torch

from circuits import Circuit, structures
from circuits.errors import NotTractableError, StructureError
from circuits.nodes import Node
from circuits.structures.regions.coupling import coupling_of
from factor_q.compile import DEFAULT_MAX_PARAMETERS, compile
from factor_q.factors import Factors
from factor_q.graph import FactorGraph
from factor_q.limits import Limits
from factor_q.structure_learning.order import chow_liu_parents
from factor_q.temperature import Temperature, require_factors, tempered
from factor_q.variational.maximize import Budget, Progress, VariationalFit, maximize_elbo, maximize_with_restarts
from factor_q.variational.starts import closed_form
from factor_q.variational.strengths import factor_informations, factor_strengths
from factor_q.variational.terms import bound, terms_of
from factor_q.variational.thin_junction_tree import fit_thin_junction_tree, is_thin

_CHOOSING = 0.2
"""Of the time, for building circuits to choose from; and as much again for comparing them."""


def fit_structure(
    factors: Factors,
    structure: str | Circuit = "auto",
    *,
    labels: int = 32,
    max_parameters: int | None = None,
    temperature: Temperature = 1.0,
    generator: torch.Generator | None = None,
    **limits: Unpack[Limits],
) -> VariationalFit:
    """Choose a circuit for the factors under a budget, and maximise the exact evidence lower bound on it.

    Where the separators of the factors fit the labels the result is exp(f / T) itself, in closed form. Otherwise "auto"
    fits a keep_set circuit and a thin junction tree and returns the better. Of several circuits of a family the one
    with the best closed-form start is fitted.

    Args:
        factors: batch shape (*batch).
        structure: a name of `factor_q.variational.FITTED_STRUCTURES`, or a deterministic circuit of your own.
        labels: most labels per region (keep_set), joint values of a context (thin_junction_tree, markov_chain), copies
            (selective), states (decision_diagram) or assignments of the cutset (cutset). clique_tree is exact and has
            no such limit.
        max_parameters: circuits with more are not considered; None: no limit, for clique_tree 2^20.
        temperature: positive and finite; one number, or a tensor that broadcasts to one per batch row.
        generator: source of the random starts; torch's global generator when None.
        **limits: `steps`, `seconds` (choosing included), `tolerance`, `on_step` of `maximize_elbo`. With `seconds` the
            search restarts until the time is up or five rounds bring nothing.

    Returns:
        The fit, as `maximize_elbo` returns it; exact where the labels separate the factors.

    Raises:
        StructureError: an unknown structure, or factors without variables.
        NotTractableError: no circuit of the family fits the budget; or your circuit is not deterministic.

    Example:
        >>> import factor_q
        >>> f = Factors(factor_q.ring([3] * 5), torch.randn(5, 3).unbind() + torch.randn(5, 3, 3).unbind())
        >>> fit = fit_structure(f, labels=9)
        >>> bool(torch.isclose(fit.lower_bound, f.log_partition().double()))
        True
    """
    require_factors(factors, "fit_structure")
    if not factors.graph.num_variables:
        raise StructureError("fit_structure: the factors have no variables, so there is nothing to fit; f is log Z.")
    if not factors.batch_shape.numel():
        raise StructureError(f"fit_structure: the batch {tuple(factors.batch_shape)} has no rows: nothing to fit.")
    if isinstance(structure, Circuit):
        return maximize_elbo(factors, structure, temperature=temperature, generator=generator, **limits)
    budget = Budget(labels, max_parameters, generator, limits, time.monotonic())
    target = tempered(factors.detach().to(dtype=torch.float64), temperature, "fit_structure")
    if structure not in FITTED_STRUCTURES:
        raise StructureError(f"fit_structure: {structure!r} is not one of {', '.join(FITTED_STRUCTURES)}.")
    if labels < 1:
        raise StructureError(f"fit_structure: labels is {labels}; it must be at least 1.")
    return FITTED_STRUCTURES[structure](target, budget)


def _fit_auto(target: Factors, budget: Budget) -> VariationalFit:
    """Return the better of a thin junction tree, in at most half of the time, and a keep_set circuit."""
    if _separators_fit(target.graph, budget):
        return _fit_exactly(target, budget)
    fits = (fit_thin_junction_tree(target, budget.half()), _fit_keep_set(target, budget))
    return max(fits, key=lambda fit: float(fit.lower_bound.mean()))


def _fit_keep_set(target: Factors, budget: Budget) -> VariationalFit:
    """Fit balanced trees or chains, with couplings in two units; the closed form where the separators fit."""
    if _separators_fit(target.graph, budget):
        return _fit_exactly(target, budget)
    found: dict[tuple[Node, ...], Circuit] = {}
    for strengths in (factor_informations(target), factor_strengths(target)):
        for shape in ("balanced", "chain"):
            if found and budget.is_used(_CHOOSING):
                continue
            circuit = structures.keep_set(
                target.cardinalities,
                target.scopes,
                labels=budget.labels,
                shape=shape,
                strengths=strengths,
                max_parameters=budget.max_parameters,
            )
            found[circuit.nodes] = circuit
    return _fit_best(list(found.values()), target, budget)


def _fit_best(circuits: Sequence[Circuit], target: Factors, budget: Budget) -> VariationalFit:
    """Fit the circuit with the best closed-form start of those within the budget."""
    most = budget.max_parameters
    small = [circuit for circuit in circuits if most is None or circuit.num_parameters <= most]
    if not small:
        least = min(circuit.num_parameters for circuit in circuits)
        raise NotTractableError(
            f"fit_structure: the smallest {circuits[0].name} circuit for these factors has {least:,} parameters, but "
            f"max_parameters is {most:,}. Use keep_set, which forgets what does not fit, or allow more."
        )
    best, value = small[0], -inf
    for circuit in small if len(small) > 1 else ():
        if value > -inf and budget.is_used(2 * _CHOOSING):
            break
        start = closed_form(circuit.compiled, target)
        own = float(bound(circuit.compiled, terms_of(target), start)[0].mean())
        if own > value:
            best, value = circuit, own
    return maximize_with_restarts(target, best, ("closed_form", "mode", "mean_field", "random"), budget)


def _fit_exactly(target: Factors, budget: Budget) -> VariationalFit:
    """Return the Boltzmann distribution itself: the closed form needs no search."""
    distribution = compile(target, max_parameters=budget.max_parameters or DEFAULT_MAX_PARAMETERS)
    logits = distribution.logits.movedim(-1, 0).contiguous()
    with torch.no_grad():
        value = bound(distribution.circuit.compiled, terms_of(target), logits)[0]
    progress = Progress(time.monotonic() - budget.begin, float(value.mean()))
    return VariationalFit(distribution, value, 0, True, (progress,))


def _separators_fit(graph: FactorGraph, budget: Budget) -> bool:
    return is_thin(graph, "best", budget.labels, budget.max_parameters or DEFAULT_MAX_PARAMETERS)


def _chain(factors: Factors, labels: int) -> Circuit:
    """The highest order whose contexts all fit."""
    cards = factors.cardinalities

    def fits(order: int) -> bool:
        return max(prod(cards[t : t + order]) for t in range(len(cards) - order + 1)) <= labels

    return structures.markov_chain(cards, order=max(filter(fits, range(len(cards))), default=0))


def _tree(factors: Factors, labels: int) -> Circuit:
    """The spanning tree (or forest) of the strongest factors."""
    weights = coupling_of(len(factors.cardinalities), factors.scopes, factor_strengths(factors))
    return structures.tree(factors.cardinalities, chow_liu_parents(torch.from_numpy(weights)))


def _cutset(factors: Factors, labels: int) -> Circuit:
    """Condition on the most strongly coupled variables, as many as the labels allow."""
    cards = factors.cardinalities
    pull = dict.fromkeys(range(len(cards)), 0.0)
    for scope, strength in zip(factors.scopes, factor_strengths(factors), strict=True):
        for variable in scope:
            pull[variable] += strength
    order = sorted(pull, key=lambda variable: (-pull[variable], variable))
    depth = max(d for d in range(len(cards)) if prod(cards[v] for v in order[:d]) <= labels or d == 0)
    rest = sorted(order[depth:])
    return structures.cutset(cards, order=[*order[:depth], *rest], depth=depth)


def _only(build: Callable[[Factors, int], Circuit]) -> Callable[[Factors, Budget], VariationalFit]:
    """Return how to fit a family that offers one circuit: (factors, labels) -> circuit."""
    return lambda target, budget: _fit_best([build(target, budget.labels)], target, budget)


FITTED_STRUCTURES: dict[str, Callable[[Factors, Budget], VariationalFit]] = {
    "auto": _fit_auto,
    "keep_set": _fit_keep_set,
    "thin_junction_tree": fit_thin_junction_tree,
    "clique_tree": _fit_exactly,
    "mean_field": _only(lambda target, labels: structures.mean_field(target.cardinalities)),
    "markov_chain": _only(_chain),
    "tree": _only(_tree),
    "selective": _only(lambda target, labels: structures.selective(target.cardinalities, copies=labels)),
    "decision_diagram": _only(lambda target, labels: structures.decision_diagram(target.cardinalities, width=labels)),
    "cutset": _only(_cutset),
}
"""All families that can be fitted to factors, by name: (factors at temperature 1, budget) -> fit."""
