"""Least squares for sums of tables: exact, weighted, and cheap to repeat when a few tables come or go."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from scipy.special import fdtrc
from torch import Tensor

from circuits.errors import EvidenceError
from factor_q.factors import Factors
from factor_q.graph import FactorGraph, Scope
from factor_q.structure_learning.scores import Samples, contrasts, kronecker, row_chunks

RESOLVED = 1e-12
"""Share of the targets' variance below which residuals are rounding and not noise."""


class TableFit(NamedTuple):
    """Factors fitted to samples, and how sure their interactions are."""

    factors: Factors
    """A constant, unary tables, then interactions; the entries of each sum to zero along every axis."""
    residuals: Tensor
    """Targets minus values, shape (samples,)."""
    variance: float
    """Of the noise: mean squared residual, corrected for the number of parameters."""
    num_parameters: int
    """Free numbers that were fitted."""
    strengths: dict[Scope, float]
    """Mean square of each interaction table, in the unit of the targets squared."""
    p_values: dict[Scope, float]
    """Probability of an interaction table this large in this fit if the true one were zero (F test)."""


class TableDesign:
    """The normal equations of a constant, unary tables and a changing set of interaction tables.

    Tables are written in orthogonal contrasts, so that each holds its pure interaction only and nothing is fitted
    twice. Their Gram matrix is kept: `fit` computes the rows of tables that are new, and forgets those that left.

    Args:
        cardinalities: number of values of each variable.
        samples: checked data.
        ridge: added to the Gram matrix's diagonal, in rows of data; it decides what the data leave open: such tables
            become as small as possible. A table shrinks by about ridge / samples.
    """

    def __init__(self, cardinalities: Sequence[int], samples: Samples, ridge: float) -> None:
        self.cardinalities = tuple(cardinalities)
        self.samples = samples
        self.ridge = ridge
        spread = samples.targets - (samples.weights * samples.targets).mean()
        self.least_variance = RESOLVED * samples.mean_square(spread)
        """Noise variance that tests assume at least."""
        self._contrasts = [contrasts(k).to(samples.targets.device) for k in self.cardinalities]
        self._base: list[Scope] = [(), *((variable,) for variable in range(len(self.cardinalities)))]
        self._scopes: list[Scope] = []
        self._gram = samples.targets.new_zeros(0, 0)
        self._noise_gram = self._gram
        self._moments = samples.targets.new_zeros(0)

    def num_parameters(self, scopes: Sequence[Scope]) -> int:
        """Return the free numbers of a constant, unary tables and these interactions."""
        return sum(self._size(scope) for scope in [*self._base, *scopes])

    def fit(self, scopes: Sequence[Scope]) -> TableFit:
        """Return the weighted least-squares fit with these interactions (each of two variables or more).

        Raises:
            EvidenceError: there are fewer samples than parameters, or the data leave tables open and ridge is 0.
        Cost: O(samples * parameters * new parameters + parameters^3).
        """
        needed, rows = self.num_parameters(scopes), self.samples.effective_size
        if rows <= needed + 1:
            raise EvidenceError(
                f"structure search: {rows:.0f} samples (effective, by their weights) cannot fit {needed} numbers; "
                "give more samples, or weights that differ less."
            )
        self._update([*self._base, *scopes])
        penalty = torch.full_like(self._moments, self.ridge)
        penalty[0] = 0.0  # the mean of the targets may be anything
        factor, failed = torch.linalg.cholesky_ex(self._gram + penalty.diag())
        if bool(failed):
            raise EvidenceError("structure search: the samples leave some table open; give a positive ridge.")
        coefficients = torch.cholesky_solve(self._moments.unsqueeze(1), factor).squeeze(1)
        # The order of the columns is that of growth; the result follows the scopes asked for.
        places = self._places()
        graph = FactorGraph(self.cardinalities, [*self._base, *scopes])
        tables = [self._table(scope, coefficients[places[scope]]) for scope in graph.scopes]
        factors = Factors(graph, tables)
        residuals = self._residuals(factors)
        variance = self.samples.mean_square(residuals) * rows / (rows - len(coefficients))
        strengths = {scope: float(coefficients[places[scope]].square().sum()) for scope in scopes}
        p_values = self._p_values(scopes, factor, coefficients, max(variance, self.least_variance))
        return TableFit(factors, residuals, variance, len(coefficients), strengths, p_values)

    def _size(self, scope: Scope) -> int:
        return math.prod(self.cardinalities[variable] - 1 for variable in scope)

    def _places(self) -> dict[Scope, slice]:
        """Return the columns of each scope."""
        places: dict[Scope, slice] = {}
        start = 0
        for scope in self._scopes:
            places[scope] = slice(start, start + self._size(scope))
            start += self._size(scope)
        return places

    def _update(self, scopes: Sequence[Scope]) -> None:
        """Bring the normal equations to these scopes."""
        wanted, places = set(scopes), self._places()
        kept = [scope for scope in self._scopes if scope in wanted]
        new = [scope for scope in scopes if scope not in places]
        device = self.samples.targets.device
        columns = [torch.arange(places[scope].start, places[scope].stop, device=device) for scope in kept]
        # What stays keeps its products: data are read again for new columns only.
        index = torch.cat([torch.empty(0, dtype=torch.long, device=device), *columns])
        self._gram, self._noise_gram = (gram[index][:, index] for gram in (self._gram, self._noise_gram))
        self._moments, self._scopes = self._moments[index], [*kept, *new]
        if new:
            self._grow(kept, new)

    def _grow(self, kept: Sequence[Scope], new: Sequence[Scope]) -> None:
        weights, targets, is_weighted = self.samples.weights, self.samples.targets, self.samples.is_weighted
        size = sum(self._size(scope) for scope in new)
        width = len(self._moments) + size
        rows, noise_rows = targets.new_zeros(size, width), targets.new_zeros(size, width)
        moments = targets.new_zeros(size)
        for part in row_chunks(len(targets), width):
            features = self._features(part, [*kept, *new])
            weighted = features[:, width - size :] * weights[part].unsqueeze(1)
            rows.addmm_(weighted.T, features)
            moments.addmv_(weighted.T, targets[part])
            if is_weighted:
                noise_rows.addmm_((weighted * weights[part].unsqueeze(1)).T, features)
        self._gram = _bordered(self._gram, rows)
        self._noise_gram = _bordered(self._noise_gram, noise_rows) if is_weighted else self._gram
        self._moments = torch.cat([self._moments, moments])

    def _features(self, part: slice, scopes: Sequence[Scope]) -> Tensor:
        """Return the columns of some scopes for some rows."""
        actions = self.samples.actions[part]
        single = [own[actions[:, variable]] for variable, own in enumerate(self._contrasts)]
        columns: list[Tensor] = []
        for scope in scopes:
            product = self.samples.targets.new_ones(len(actions), 1)
            for variable in scope:
                product = (product.unsqueeze(2) * single[variable].unsqueeze(1)).flatten(1)
            columns.append(product)
        return torch.cat(columns, 1)

    def _table(self, scope: Scope, coefficients: Tensor) -> Tensor:
        """Return the table with these contrasts."""
        basis = kronecker([self._contrasts[variable].cpu() for variable in scope]).to(coefficients.device)
        return (basis @ coefficients).reshape([self.cardinalities[variable] for variable in scope])

    def _residuals(self, factors: Factors) -> Tensor:
        actions, targets = self.samples.actions, self.samples.targets
        parts = row_chunks(len(targets), factors.graph.num_factors)
        return torch.cat([targets[part] - factors(actions[part]) for part in parts])

    def _p_values(
        self, scopes: Sequence[Scope], factor: Tensor, coefficients: Tensor, variance: float
    ) -> dict[Scope, float]:
        """Test each interaction by the size of its coefficients in units of their covariance."""
        covariance = torch.cholesky_inverse(factor)
        if self.samples.is_weighted:
            # The inverse Gram matrix is the covariance only where all rows count the same. Between two of them stands
            # how the noise really enters: by squared weights.
            open_ends = torch.eye(len(coefficients), dtype=factor.dtype, device=factor.device) * self.ridge
            covariance = covariance @ (self._noise_gram + open_ends) @ covariance
        places, rows = self._places(), self.samples.effective_size
        result: dict[Scope, float] = {}
        for scope in scopes:
            own, degrees = coefficients[places[scope]], self._size(scope)
            statistic = float(own @ torch.linalg.solve(covariance[places[scope], places[scope]], own))
            free_rows = rows - len(coefficients)
            result[scope] = float(fdtrc(degrees, free_rows, statistic / variance / degrees)) if variance else 1.0
        return result


def _bordered(gram: Tensor, rows: Tensor) -> Tensor:
    """Add the last rows of a symmetric matrix, and the last columns with them."""
    old = len(gram)
    return torch.cat([torch.cat([gram, rows[:, :old].T], 1), rows], 0)
