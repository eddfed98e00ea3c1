"""Thin junction trees: the junction tree of as many strong factors as fit, started at structured mean field."""

from collections import Counter
from collections.abc import Sequence

from torch import Tensor

from circuits import CircuitDistribution
from circuits.numerics import NEGATIVE_INFINITY
from factor_q.approximate.mean_field.blocks import BlockRule
from factor_q.approximate.mean_field.mean_field import MeanField, structured_mean_field
from factor_q.compile import DEFAULT_MAX_PARAMETERS, compile
from factor_q.elimination.ordering import Order, checked_order, elimination_cliques, table_size
from factor_q.elimination.plan import sizes
from factor_q.factors import Factors
from factor_q.graph import FactorGraph, Scope
from factor_q.variational.maximize import Budget, VariationalFit, maximize_with_restarts
from factor_q.variational.strengths import factor_informations

_RULES: tuple[BlockRule, ...] = ("auto", "trees", "chains", "pairs")
_RESTARTS = 20
_SHARE = 0.4
"""Of the time, for the start and the choice of factors."""
_MOST_TRIALS = 60


def fit_thin_junction_tree(target: Factors, budget: Budget) -> VariationalFit:
    """Fit a junction tree over a part of the factors; never worse than structured mean field in its share of the time.

    The blocks of the best structured mean field are a forest. Factors are added to it, strongest first, as long as no
    context has more joint values than labels; the rest acts through the bound, which counts every factor. The search
    starts at the structured mean field itself, which the circuit holds. The forest is kept even where its contexts
    have more joint values. The target is at temperature 1, in float64; without a limit on parameters it is 2^20.
    """
    most = budget.max_parameters or DEFAULT_MAX_PARAMETERS
    rule, best = _best_blocks(target, budget)
    forest = _forest(target, best.parts)
    graph = _thin_graph(target, forest.scopes, budget.labels, most, budget)
    start = _start(graph, forest, most)

    def fresh() -> Sequence[str | Tensor]:
        """Start again from a new structured mean field over the same blocks."""
        return _start(graph, _forest(target, _structured(target, rule, budget).parts), most).logits, "random"

    starts = (start.logits, "mode", "mean_field", "random")
    return maximize_with_restarts(target, start.circuit, starts, budget, fresh=fresh)


def _best_blocks(target: Factors, budget: Budget) -> tuple[BlockRule, MeanField]:
    """Return the rule for blocks whose structured mean field is the tightest, and that."""
    found: list[tuple[float, BlockRule, MeanField]] = []
    for done, rule in enumerate(_RULES, start=1):
        fit = _structured(target, rule, budget, _SHARE * done / len(_RULES))
        found.append((float(fit.lower_bound.mean()), rule, fit))
    _, rule, fit = max(found, key=lambda entry: entry[0])
    return rule, fit


def _structured(target: Factors, rule: BlockRule, budget: Budget, share: float = 1.0) -> MeanField:
    """Return structured mean field, until a share of the time has passed."""
    seconds = budget.left(share).get("seconds")
    return structured_mean_field(target, blocks=rule, restarts=_RESTARTS, generator=budget.generator, seconds=seconds)


def _start(graph: FactorGraph, forest: Factors, most: int) -> CircuitDistribution:
    """Return the distribution of a forest on the clique tree of a larger graph."""
    zeros = forest.flat.new_zeros(*forest.batch_shape, graph.num_entries)
    return compile(Factors.from_flat(graph, zeros) + forest, max_parameters=most)


def _forest(target: Factors, parts: Sequence[tuple[Scope, Tensor]]) -> Factors:
    """Return tables whose Boltzmann distribution is the one with these marginals of pairs that form a forest.

    The product of the pairs' tables, divided by each variable's own as often as it is in more than one pair.
    """
    degree = Counter(variable for scope, _ in parts if len(scope) > 1 for variable in scope)
    tables: dict[Scope, Tensor] = {}
    for scope, marginal in parts:
        first, *others = scope
        # p(u) of a forest is the product of its pairs over that of the variables they share, each as often as it is
        # shared: a variable in d pairs has power 1 - d, and one in none has power 1.
        power = 1.0 if others else 1.0 - degree[first]
        possible = marginal > 0
        log = marginal.masked_fill(~possible, 1.0).log() * power
        tables[scope] = log.masked_fill(~possible, NEGATIVE_INFINITY)
    return Factors(FactorGraph(target.cardinalities, tables), list(tables.values()))


def _thin_graph(target: Factors, forest: Sequence[Scope], labels: int, most: int, budget: Budget) -> FactorGraph:
    """Return the forest and the strongest other factors that keep contexts within the labels.

    Factors are tried in runs that double when one fits and halve when one does not, because every trial looks for an
    elimination order.
    """
    strengths = factor_informations(target)
    known = {frozenset(scope) for scope in forest}
    waiting = [
        scope
        for _, scope in sorted(zip(strengths, target.scopes, strict=True), key=lambda pair: (-pair[0], pair[1]))
        if frozenset(scope) not in known and len(scope) > 1
    ]
    graph, run = FactorGraph(target.cardinalities, forest), max(1, len(waiting))
    for _ in range(_MOST_TRIALS):
        if not waiting or budget.is_used(2 * _SHARE):
            break
        trial = FactorGraph(target.cardinalities, [*graph.scopes, *waiting[:run]])
        if is_thin(trial, "min_fill", labels, most):
            graph, waiting, run = trial, waiting[run:], run * 2
        elif run == 1:
            waiting = waiting[1:]
        else:
            run = max(1, run // 2)
    return graph


def is_thin(graph: FactorGraph, order: Order, labels: int, most: int) -> bool:
    """Return whether no message has more entries than labels, and the junction tree no more parameters than `most`."""
    order = checked_order(graph, order)
    widest = max(table_size(graph, clique[1:]) for clique in elimination_cliques(graph, order))
    return widest <= labels and sizes(graph, order).total <= most
