"""Interaction scores: how much of the residuals each pair or triple of variables explains beyond its parts."""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache, reduce
from itertools import combinations
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from scipy.special import fdtrc  # scipy.stats has it too, and takes a second to import
from torch import Tensor

from circuits.errors import EvidenceError, StructureError
from circuits.learning.data import complete_rows
from circuits.variables import value_offsets
from factor_q.graph import FactorGraph, Scope

_CHUNK = 1 << 22
"""Numbers that one step may hold at a time."""


class InteractionScores(NamedTuple):
    """What each candidate explains; entry i of the tensors belongs to `scopes[i]`."""

    scopes: tuple[Scope, ...]
    """The candidates."""
    scores: Float[Tensor, "candidates"]
    """Explained variance above that of noise, in the unit of the residuals squared; about 0 without interaction."""
    p_values: Float[Tensor, "candidates"]
    """Probability of so much under noise alone, of one test: divide the level by the number of candidates."""


class Samples(NamedTuple):
    """Checked data: joint actions, one number each, and how often each row counts."""

    actions: Int[Tensor, "samples variables"]
    targets: Float[Tensor, "samples"]
    weights: Float[Tensor, "samples"]
    """Scaled to mean 1."""
    is_weighted: bool
    """Whether the weights differ."""

    @property
    def effective_size(self) -> float:
        """(sum of weights)^2 / sum of squared weights: how many equal rows say as much."""
        return float(self.weights.sum() ** 2 / self.weights.square().sum())

    def mean_square(self, residuals: Tensor) -> float:
        """Return the noise variance behind weighted means of the residuals, each row counting by weight squared."""
        squared = self.weights.square()
        return float((squared * residuals.square()).sum() / squared.sum())


def check_samples(cardinalities: Sequence[int], actions: Tensor, targets: Tensor, weights: Tensor | None) -> Samples:
    """Return the data in long and float64, or raise `EvidenceError` with what is wrong and where."""
    what, way_out = "structure search", "Drop those rows."
    values, rows = complete_rows(actions, cardinalities, what, way_out, weights=weights, name="actions")
    if targets.shape != values.shape[:1] or not targets.is_floating_point():
        raise EvidenceError(
            f"targets have shape {tuple(targets.shape)} and dtype {targets.dtype}; give one floating-point number for "
            f"each of {len(values)} rows of actions."
        )
    numbers = targets.detach().to(values.device, torch.float64)
    if not bool(numbers.isfinite().all()):
        row = int((~numbers.isfinite()).nonzero()[0])
        raise EvidenceError(f"the target of row {row} is {float(numbers[row])}; targets are finite.")
    rows = rows / rows.mean()
    return Samples(values, numbers, rows, bool((rows != rows[0]).any()))


def interaction_scores(
    cardinalities: Sequence[int],
    actions: Int[Tensor, "samples variables"],
    residuals: Float[Tensor, "samples"],
    *,
    candidates: Sequence[Scope] | None = None,
    order: int = 2,
    weights: Float[Tensor, "samples"] | None = None,
) -> InteractionScores:
    """Return how much residual variance each candidate's pure interaction explains beyond noise.

    The mean residual of every cell (joint value of the candidate's variables) is fitted by a sum of tables over
    fewer of them: row and column means of a pair, pair tables of a triple. The score is the variance of what is left,
    minus its expectation under noise of equal variance: sigma^2 * prod(k_i - 1) / samples when all rows count the same.

    Rows must be independent, and actions near-uniform: where the behaviour correlates two variables, an interaction
    of one of them with a third shows in both pairs. Give importance weights 1 / behaviour probability then. Noise of
    unequal variance raises more false alarms than stated.

    Args:
        cardinalities: number of values of each variable.
        actions: joint actions.
        residuals: what the Q-function does not explain yet, or returns; their mean is taken out.
        candidates: scopes to score, of `order` variables each or fewer (at least 2); None for all of them.
        order: variables per candidate when none are given.
        weights: how much each row counts, at least 0.

    Returns:
        Scores and p-values (F test), float64, one per candidate.

    Raises:
        EvidenceError: malformed actions, residuals or weights.
        StructureError: a candidate has fewer than two variables, or repeats or invents one.
    Cost: pairs: O(samples * K^2) by matrix products, K the sum of cardinalities; others: O(samples) each.
    Source: two-way analysis of variance with unequal cell counts, Scheffe 1959.

    Example:
        >>> u = torch.cartesian_prod(*[torch.arange(2)] * 3).repeat(50, 1)
        >>> y = (u[:, 0] == u[:, 2]).double()
        >>> found = interaction_scores([2, 2, 2], u, y)
        >>> found.scopes, (found.p_values < 1e-6).tolist()
        (((0, 1), (0, 2), (1, 2)), [False, True, False])
    """
    if candidates is None:
        candidates = all_scopes(cardinalities, [order])
    samples = check_samples(cardinalities, actions, residuals, weights)
    return CandidateCells(cardinalities, samples, candidates).score(samples.targets)


def all_scopes(cardinalities: Sequence[int], orders: Sequence[int]) -> list[Scope]:
    """Return all scopes of these sizes over variables that have a choice."""
    if any(order < 2 for order in orders):
        raise StructureError(f"an interaction needs at least 2 variables, but the orders are {list(orders)}.")
    free = [variable for variable, k in enumerate(cardinalities) if k > 1]
    return [scope for order in orders for scope in combinations(free, order)]


class CandidateCells:
    """How often each joint value of each candidate occurs; counted once, then residuals are scored against it."""

    def __init__(self, cardinalities: Sequence[int], samples: Samples, candidates: Sequence[Scope]) -> None:
        graph = FactorGraph(cardinalities, candidates)
        short = next((scope for scope in graph.scopes if len(scope) < 2), None)
        if short is not None:
            raise StructureError(f"candidate {short} has fewer than two variables; an interaction needs two.")
        self.graph = graph
        self.samples = samples
        self._groups: dict[tuple[int, ...], list[int]] = {}
        for i, shape in enumerate(graph.table_shapes):
            self._groups.setdefault(shape, []).append(i)
        self._counts = self._cells(samples.weights)
        self._squares = self._cells(samples.weights.square()) if samples.is_weighted else self._counts

    def score(self, residuals: Tensor, *, num_fitted: int = 0, least_variance: float = 0.0) -> InteractionScores:
        """Score residuals, (samples,), of a fit with `num_fitted` parameters; see `interaction_scores`.

        The noise variance is estimated from the residuals, and at least `least_variance`.
        """
        samples, graph = self.samples, self.graph
        centred = residuals - (samples.weights * residuals).mean()
        rows = samples.effective_size
        free_rows = max(rows - num_fitted - 1, 1.0)
        variance = max(samples.mean_square(centred) * rows / free_rows, least_variance)
        scores = torch.zeros(graph.num_factors, dtype=torch.float64, device=residuals.device)
        p_values = torch.ones_like(scores)
        if not variance:  # nothing is left to explain
            return InteractionScores(graph.scopes, scores, p_values)
        sums = self._cells(samples.weights * centred)
        for shape, members in self._groups.items():
            basis = _lower_basis(shape).to(residuals.device)
            at_once = max(1, _CHUNK // (3 * basis.numel() + basis.shape[1] ** 2))
            for part in torch.tensor(members, device=residuals.device).split(at_once):
                weight, total, square = (
                    torch.stack([cells[i] for i in part.tolist()]) for cells in (self._counts, sums, self._squares)
                )
                scores[part], statistic, degrees = _test(basis, weight, total, square, variance)
                some = degrees.clamp(min=1)
                tail = fdtrc(some.numpy(force=True), free_rows, (statistic / some).numpy(force=True))
                p_values[part] = torch.where(degrees > 0, torch.as_tensor(tail).to(scores), 1.0)
        return InteractionScores(graph.scopes, scores, p_values)

    def _cells(self, amount: Tensor) -> list[Tensor]:
        """Add up row amounts, (samples,), over the cells of every candidate, as one flat tensor each."""
        # All pairs come from one matrix product, of which each takes its block; larger scopes are counted one by one.
        pairs = any(len(shape) == 2 for shape in self._groups)
        sums = _pair_sums(self.samples.actions, self.graph.cardinalities, amount) if pairs else amount
        starts = value_offsets(self.graph.cardinalities)
        own = [slice(start, stop) for start, stop in zip(starts, starts[1:], strict=False)]
        return [
            sums[own[scope[0]], own[scope[1]]].flatten()
            if len(scope) == 2
            else _scope_sums(self.samples.actions, scope, shape, amount)
            for scope, shape in zip(self.graph.scopes, self.graph.table_shapes, strict=True)
        ]


def _test(
    basis: Tensor, weight: Tensor, total: Tensor, square: Tensor, variance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return explained variance, the test's statistic and its degrees of freedom of candidates of one shape.

    The basis holds functions of fewer variables, (cells, functions). Each cell has a sum of weights, of weights times
    residuals, and of squared weights, all of shape (candidates, cells); the variance is that of the noise.
    """
    seen = weight > 0
    means = torch.where(seen, total / torch.where(seen, weight, 1.0), 0.0)
    # The mean of a cell varies by variance / precision, so with these weights the test is exact for normal noise.
    precision = torch.where(seen, weight.square() / torch.where(seen, square, 1.0), 0.0)
    pure, free = _pure_part(basis, precision, means)
    statistic = (precision * pure.square()).sum(-1) / variance
    # A cell that was never seen says nothing, so it frees nothing either.
    degrees = (free * seen).sum(-1).round()
    # The score weighs a cell by how often it occurs, not by how well it is known. Noise alone explains something too,
    # in each cell as much as its leverage leaves free: that is taken off.
    share = weight / weight.sum(-1, keepdim=True)
    pure, free = _pure_part(basis, share, means)
    noise = variance * (share * free / torch.where(seen, precision, 1.0)).sum(-1)
    return torch.where(degrees > 0, (share * pure.square()).sum(-1) - noise, 0.0), statistic, degrees


def _pure_part(basis: Tensor, weight: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    """Return what weighted least squares on the basis leaves of cell means, and one minus each cell's leverage."""
    weighted = basis * weight.unsqueeze(-1)
    gram = weighted.transpose(-1, -2) @ basis
    factor, failed = torch.linalg.cholesky_ex(gram)
    # With an empty cell the basis may be dependent; the pseudo-inverse then takes the independent part.
    complete = bool((weight > 0).all()) and not bool(failed.any())
    inverse = torch.cholesky_inverse(factor) if complete else torch.linalg.pinv(gram, hermitian=True)
    coefficients = inverse @ (weighted.transpose(-1, -2) @ means.unsqueeze(-1))
    leverage = ((weighted @ inverse) * basis).sum(-1)
    return means - (basis @ coefficients).squeeze(-1), 1 - leverage


@lru_cache(maxsize=256)
def contrasts(cardinality: int) -> Float[Tensor, "values contrasts"]:
    """Return cardinality - 1 functions of one variable with mean 0 and mean square 1, orthogonal (Helmert)."""
    columns = torch.zeros(cardinality, cardinality - 1, dtype=torch.float64)
    for j in range(1, cardinality):
        columns[:j, j - 1] = 1.0
        columns[j, j - 1] = -j
        columns[:, j - 1] *= math.sqrt(cardinality / (j * (j + 1)))
    return columns


def kronecker(matrices: Sequence[Tensor]) -> Tensor:
    """Return all products of one row and one column of each matrix; [[1]] for none."""
    return reduce(torch.kron, (matrix.contiguous() for matrix in matrices), torch.ones(1, 1, dtype=torch.float64))


@lru_cache(maxsize=256)
def _lower_basis(shape: tuple[int, ...]) -> Tensor:
    """Return a basis of the sums of tables over fewer variables, shape (cells, functions)."""
    parts = [torch.cat([torch.ones(k, 1, dtype=torch.float64), contrasts(k)], 1) for k in shape]
    # The first function of each variable is constant; a product without any constant depends on all variables.
    is_pure = kronecker([(torch.arange(k) > 0).double().unsqueeze(0) for k in shape]).squeeze(0)
    return kronecker(parts)[:, is_pure == 0]


def row_chunks(rows: int, width: int) -> Iterator[slice]:
    """Yield slices of rows such that each holds a bounded number of entries."""
    size = max(1, _CHUNK // max(width, 1))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def _pair_sums(actions: Tensor, cardinalities: tuple[int, ...], amount: Tensor) -> Tensor:
    """Return the sum of an amount over the rows that hold two values, shape (values, values)."""
    offsets = torch.as_tensor(value_offsets(cardinalities), device=actions.device)
    width = int(offsets[-1])
    total = torch.zeros(width, width, dtype=torch.float64, device=actions.device)
    for part in row_chunks(len(actions), width):
        held = torch.zeros(part.stop - part.start, width, dtype=torch.float64, device=actions.device)
        held.scatter_(1, actions[part] + offsets[:-1], 1.0)
        total.addmm_(held.T, held * amount[part].unsqueeze(1))
    return total


def _scope_sums(actions: Tensor, scope: Scope, shape: tuple[int, ...], amount: Tensor) -> Tensor:
    """Return the sum of an amount over the rows in each cell of one scope, shape (cells,)."""
    cell = torch.zeros(len(actions), dtype=torch.long, device=actions.device)
    for variable, k in zip(scope, shape, strict=True):
        cell = cell * k + actions[:, variable]
    return torch.bincount(cell, amount, minlength=math.prod(shape))
