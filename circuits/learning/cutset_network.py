"""Structure learning: cutset networks, which ask for the values of a few variables and then use a tree."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.circuit import Circuit, CircuitBuilder
from circuits.errors import StructureError
from circuits.learning.chow_liu import ForestGains, forest_gains, pair_counts, parameter_price, spanning_forest
from circuits.learning.data import check_smoothing, complete_rows
from circuits.learning.maximum_likelihood import maximum_likelihood
from circuits.structures.tree import add_forest
from circuits.variables import check_cardinalities

_CANDIDATES = 24
"""Variables tried at each split: those that share most information with the others."""


def learn_cutset_network(
    data: Tensor,
    cardinalities: Sequence[int],
    *,
    weights: Tensor | None = None,
    smoothing: float = 1.0,
    penalty: float = 1.0,
    max_depth: int = 8,
) -> tuple[Circuit, Float[Tensor, "parameters"]]:
    """Learn a deterministic circuit from data: a cutset network with Chow-Liu forests at its leaves.

    A leaf models its rows by the forest of largest score. It is split by the values of the variable that gains most,
    score(split) = N sum_v p_v log p_v + sum_v score(forest of the rows with value v), and stays a leaf when nothing
    is gained. The score is BIC: log-likelihood - penalty * free parameters * log(all rows) / 2, so that the sum over
    leaves is the score of the whole circuit. One-step look-ahead: an interaction that only two splits together
    reveal is not found.

    Args:
        data: integers, shape (rows, variables).
        cardinalities: number of values of each variable.
        weights: how often each row counts, shape (rows,), at least 0; one each when None.
        smoothing: goes to `maximum_likelihood` for the weights of the result.
        penalty: 1 is BIC; smaller values give larger circuits.
        max_depth: most splits on one path; 0 gives one forest.

    Returns:
        The circuit, and normalised log weights in float64, shape (parameters,).

    Raises:
        EvidenceError: malformed data or weights, or missing values; for those fix a structure and use EM.
        StructureError: a negative penalty or depth.
    Cost: O(rows K^2) per candidate of each split, K the sum of the cardinalities; at most 24 candidates.
    Source: Rahman, Kothalkar and Gogate 2014 (cutset networks); Di Mauro, Vergari and Esposito 2015 (BIC splits).

    Example:
        >>> import torch, circuits
        >>> c, logits = circuits.learning.learn_cutset_network(torch.tensor([[0, 1], [1, 0], [1, 0]]), [2, 2])
        >>> c.is_deterministic
        True
    """
    cards = check_cardinalities(cardinalities)
    way_out = "Drop or fill those rows, or fix a structure and use EM."
    values, row_weights = complete_rows(data, cards, "learn_cutset_network", way_out, weights=weights)
    check_smoothing(smoothing)
    if max_depth < 0:
        raise StructureError(f"learn_cutset_network got max_depth {max_depth}; it is at least 0 (one forest).")
    grower = _Grower(values, row_weights, cards, parameter_price(penalty, row_weights))
    leaf = grower.leaf(torch.arange(len(values), device=values.device), tuple(range(len(cards))))
    circuit = grower.builder.build(grower.grow(leaf, max_depth))
    return circuit, maximum_likelihood(circuit, data, weights=weights, smoothing=smoothing)


@dataclass(frozen=True)
class _Leaf:
    """A forest over some variables, for some rows."""

    rows: Tensor
    variables: tuple[int, ...]
    forest: dict[int, int]
    """Variable -> parent or -1."""
    gains: ForestGains
    score: float


class _Grower:
    """Greedy search over splits; leaves do not influence each other."""

    def __init__(self, data: Tensor, weights: Tensor, cards: tuple[int, ...], price: float) -> None:
        self.data, self.weights, self.cards, self.price = data, weights, cards, price
        self.builder = CircuitBuilder(cards, name="cutset_network")
        self.indicators = [[self.builder.input(v, [value]) for value in range(k)] for v, k in enumerate(cards)]

    def leaf(self, rows: Tensor, variables: tuple[int, ...]) -> _Leaf:
        """Fit the best forest over variables to rows."""
        sizes = [self.cards[v] for v in variables]
        counts = pair_counts(self.data[rows][:, list(variables)], sizes, self.weights[rows])
        # Unsmoothed, because BIC is about the largest likelihood: every part of a split would bring pseudo-rows
        # again, and the scores of few rows would be those of the smoothing.
        gains = forest_gains(counts, sizes, smoothing=0.0, price=self.price)
        parents = spanning_forest(gains.edges)
        score = float(gains.alone.sum()) + sum(float(gains.edges[i, p]) for i, p in enumerate(parents) if p >= 0)
        forest = {v: variables[p] if p >= 0 else -1 for v, p in zip(variables, parents, strict=True)}
        return _Leaf(rows, variables, forest, gains, score)

    def grow(self, leaf: _Leaf, depth: int) -> int:
        """Split a leaf while that gains, and return the node that models its rows."""
        best_score, best_variable, best_parts = leaf.score, -1, []
        for variable in self.candidates(leaf) if depth else []:
            score, parts = self.split(leaf, variable)
            if score > best_score:
                best_score, best_variable, best_parts = score, variable, parts
        if best_variable < 0:
            return self.builder.product(*add_forest(self.builder, leaf.forest, self.indicators))
        indicators = self.indicators[best_variable]
        children = [
            self.builder.product(indicator, self.grow(part, depth - 1))
            for indicator, part in zip(indicators, best_parts, strict=True)
        ]
        return self.builder.sum(*children)

    def candidates(self, leaf: _Leaf) -> list[int]:
        """Return the variables worth a try, those with most information about the others first."""
        if len(leaf.variables) < 3:
            return []  # a forest over two variables is already the full table
        shared = np.maximum(leaf.gains.edges, 0.0)
        np.fill_diagonal(shared, 0.0)
        # Trying a variable costs a forest for each of its values; what shares little with the others gains little.
        order = np.argsort(-shared.sum(0), kind="stable")
        options = [leaf.variables[i] for i in order if self.cards[leaf.variables[i]] > 1]
        return options[:_CANDIDATES]

    def split(self, leaf: _Leaf, variable: int) -> tuple[float, list[_Leaf]]:
        """Return the score of splitting a leaf by the values of a variable, and the parts."""
        rest = tuple(v for v in leaf.variables if v != variable)
        column = self.data[leaf.rows, variable]
        parts = [self.leaf(leaf.rows[column == value], rest) for value in range(self.cards[variable])]
        sizes = [float(self.weights[part.rows].sum()) for part in parts]
        total = sum(sizes)
        choice = sum(size * log(size / total) for size in sizes if size > 0)
        return choice - self.price * (len(parts) - 1) + sum(part.score for part in parts), parts
