"""Structure search: learn from data which groups of variables a Q-function needs tables for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from circuits.errors import NotTractableError, StructureError
from factor_q.elimination.ordering import elimination_width
from factor_q.factors import Factors
from factor_q.graph import FactorGraph, Scope
from factor_q.structure_learning.fit import TableDesign, TableFit
from factor_q.structure_learning.scores import CandidateCells, all_scopes, check_samples

MOST_PARAMETERS = 20_000
"""Largest least-squares problem; its matrix then takes 3.2 GB."""


class SearchRound(NamedTuple):
    """What one round of the search did."""

    added: tuple[Scope, ...]
    """Interactions that were not there before the round and are there after it."""
    dropped: tuple[Scope, ...]
    """Interactions that were there before the round only."""
    variance: float
    """Noise variance after the round."""


@dataclass(frozen=True)
class LearnedStructure:
    """The outcome of `learn_factor_graph`."""

    graph: FactorGraph
    """A constant, all unary scopes, and the interactions, strongest first."""
    factors: Factors
    """The least-squares fit on `graph`, float64; each table sums to zero along every axis."""
    strengths: dict[Scope, float]
    """Per interaction the variance that its table adds under uniform actions, in the unit of the targets squared."""
    p_values: dict[Scope, float]
    """Per interaction the probability of so large a table if it were not needed, in the final fit (one test)."""
    noise_variance: float
    """Variance of the targets that is left, corrected for the number of parameters."""
    history: tuple[SearchRound, ...]
    """The rounds that changed something."""
    is_converged: bool
    """Whether the search stopped by itself, and not because the rounds were used up."""

    @property
    def interactions(self) -> tuple[Scope, ...]:
        """The scopes of two or more variables, strongest first."""
        return tuple(self.strengths)

    @property
    def maximal_interactions(self) -> tuple[Scope, ...]:
        """Those that are part of no other: the fewest tables that say the same, see `rescope`."""
        sets = [set(scope) for scope in self.interactions]
        return tuple(scope for scope in self.interactions if not any(set(scope) < other for other in sets))


def learn_factor_graph(
    cardinalities: Sequence[int],
    actions: Int[Tensor, "samples variables"],
    targets: Float[Tensor, "samples"],
    *,
    max_factors: int,
    max_order: int = 2,
    max_width: int | None = None,
    significance: float = 1e-3,
    rounds: int = 20,
    weights: Float[Tensor, "samples"] | None = None,
    ridge: float = 1e-3,
) -> LearnedStructure:
    """Learn which interactions a Q-function needs, and its tables, from joint actions and returns.

    A constant and all unary tables are always there. Each round fits all tables together by least squares, scores the
    absent interactions on the residuals (see `interaction_scores`), adds the significant ones, best first, refits,
    and drops those that the others made superfluous. It ends when the noise variance falls no more. Tables hold pure
    interactions, so a triple usually comes together with its pairs; `maximal_interactions` leaves these out.

    Rows must be independent and the behaviour must reach all values of every candidate. Where it is correlated, an
    interaction outside the fit shows in wrong places; with weights 1 / behaviour probability it does not. To search on
    with a critic of the state, pass its residuals on replay as targets, and carry its tables over with `rescope`.

    Args:
        cardinalities: number of values of each variable.
        actions: joint actions.
        targets: returns, or residuals of a critic, finite.
        max_factors: most interactions; beyond it the weakest are dropped.
        max_order: most variables of an interaction, at least 2; candidates are all groups of up to so many.
        max_width: largest induced width (`elimination_width`); the strongest interactions that fit are kept.
        significance: probability that noise of equal variance alone gives any interaction, shared out among all
            candidates (Bonferroni); each kept interaction also passes its share in the final fit.
        rounds: most rounds.
        weights: how much each row counts, at least 0; for importance weighting.
        ridge: pull of every table towards 0, in rows of data; above 0 it also settles what the data leave open.

    Raises:
        EvidenceError: malformed actions, targets or weights, or too few samples for the unary tables.
        StructureError: an option is out of range.
        NotTractableError: the largest fit would have more than 20,000 parameters.
    Cost: a round: O(samples * K^2) for pairs, O(samples) for each larger candidate, and
        O(samples * parameters * new parameters + parameters^3) for the fits.

    Example:
        >>> import torch
        >>> u = torch.cartesian_prod(*[torch.arange(2)] * 3).repeat(50, 1)
        >>> noise = torch.randn(len(u), generator=torch.Generator().manual_seed(0))
        >>> found = learn_factor_graph([2, 2, 2], u, (u[:, 0] == u[:, 2]) + 0.1 * noise, max_factors=2)
        >>> found.interactions
        ((0, 2),)
    """
    _check_options(max_factors, max_order, max_width, significance, rounds, ridge)
    samples = check_samples(cardinalities, actions, targets, weights)
    candidates = all_scopes(cardinalities, range(2, max_order + 1))
    design = TableDesign(cardinalities, samples, ridge)
    _check_size(design, candidates, max_factors)
    cells = CandidateCells(cardinalities, samples, candidates)
    return _Search(design, cells, significance / max(len(candidates), 1), max_factors, max_width).run(rounds)


@dataclass(frozen=True)
class _Search:
    """The loop of `learn_factor_graph`."""

    design: TableDesign
    cells: CandidateCells
    level: float
    max_factors: int
    max_width: int | None

    def run(self, rounds: int) -> LearnedStructure:
        """Run until nothing improves."""
        fit, history, is_converged = self.design.fit([]), [], False
        for _ in range(rounds):
            before = tuple(fit.strengths)
            added = self.significant(fit)
            trial = self.pruned(before, added) if added else fit
            if trial.variance >= fit.variance:
                is_converged = True
                break
            fit, after = trial, tuple(trial.strengths)
            new, gone = (tuple(s for s in x if s not in y) for x, y in ((after, before), (before, after)))
            history.append(SearchRound(new, gone, fit.variance))
        fit = self.design.fit(_strongest_first(fit))
        return LearnedStructure(
            graph=fit.factors.graph,
            factors=fit.factors,
            strengths=fit.strengths,
            p_values=fit.p_values,
            noise_variance=fit.variance,
            history=tuple(history),
            is_converged=is_converged,
        )

    def significant(self, fit: TableFit) -> list[Scope]:
        """Return the best absent interactions that noise hardly explains, as many as fit and data allow."""
        least = self.design.least_variance
        found = self.cells.score(fit.residuals, num_fitted=fit.num_parameters, least_variance=least)
        active = set(fit.strengths)
        passed = [
            (score, scope)
            for scope, score, p in zip(found.scopes, found.scores.tolist(), found.p_values.tolist(), strict=True)
            if p <= self.level and scope not in active and self.allowed([scope])
        ]
        best = [scope for _, scope in sorted(passed, key=lambda pair: (-pair[0], pair[1]))][: self.max_factors]
        # With as many numbers as rows the residuals vanish, and nothing is left to test against.
        room = self.design.samples.effective_size / 2
        while best and self.design.num_parameters([*active, *best]) > room:
            best.pop()
        return best

    def pruned(self, before: Sequence[Scope], added: Sequence[Scope]) -> TableFit:
        """Fit with the added interactions, and drop what is superfluous, then what is too much."""
        fit = self.design.fit([*before, *added])
        while True:
            failed = sorted((s for s, p in fit.p_values.items() if p > self.level), key=fit.p_values.__getitem__)
            # Two tables may stand in for each other, so only the less significant half goes at a time.
            gone = set(failed[len(failed) // 2 :])
            kept = [scope for scope in fit.strengths if scope not in gone] if gone else self.affordable(fit)
            if len(kept) == len(fit.strengths):
                return fit
            fit = self.design.fit(kept)

    def affordable(self, fit: TableFit) -> list[Scope]:
        """Return the strongest interactions that keep the number and the width."""
        kept: list[Scope] = []
        for scope in _strongest_first(fit):
            if len(kept) < self.max_factors and self.allowed([*kept, scope]):
                kept.append(scope)
        return kept

    def allowed(self, scopes: Sequence[Scope]) -> bool:
        """Return whether the interactions keep the width."""
        if self.max_width is None:
            return True
        return elimination_width(FactorGraph(self.design.cardinalities, scopes)) <= self.max_width


def _strongest_first(fit: TableFit) -> list[Scope]:
    return sorted(fit.strengths, key=lambda scope: (-fit.strengths[scope], scope))


def _check_options(
    max_factors: int, max_order: int, max_width: int | None, significance: float, rounds: int, ridge: float
) -> None:
    """Raise on an option out of range."""
    rules = (
        ("max_factors", max_factors, max_factors >= 0, "at least 0"),
        ("max_order", max_order, max_order >= 2, "at least 2"),
        ("max_width", max_width, max_width is None or max_width >= 0, "at least 0, or None"),
        ("significance", significance, 0 < significance < 1, "between 0 and 1"),
        ("rounds", rounds, rounds >= 1, "at least 1"),
        ("ridge", ridge, 0 <= ridge < float("inf"), "finite and at least 0"),
    )
    for name, value, holds, rule in rules:
        if not holds:
            raise StructureError(f"learn_factor_graph: {name} is {value}; it must be {rule}.")


def _check_size(design: TableDesign, candidates: Sequence[Scope], max_factors: int) -> None:
    """Raise before memory is taken when the largest fit would be too large."""
    largest = sorted((design.num_parameters([scope]) - design.num_parameters([]) for scope in candidates), reverse=True)
    # A round may hold twice as many before it drops some.
    needed = design.num_parameters([]) + sum(largest[: 2 * max_factors])
    if needed > MOST_PARAMETERS:
        raise NotTractableError(
            f"learn_factor_graph: {max_factors} interactions could need a fit of {needed:,} parameters; the most is "
            f"{MOST_PARAMETERS:,}. Lower max_factors or max_order."
        )
