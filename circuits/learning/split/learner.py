"""Structure learning by split and clone: refine a Chow-Liu tree where that gains most."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush, heapreplace

import numpy as np
import torch
from torch import Tensor

from circuits.circuit import Circuit
from circuits.errors import StructureError
from circuits.learning.chow_liu import chow_liu, parameter_price
from circuits.learning.data import check_smoothing, complete_rows
from circuits.learning.maximum_likelihood import maximum_likelihood
from circuits.learning.split.gain import best_split
from circuits.learning.split.graph import Candidate, DecisionGraph
from circuits.variables import check_cardinalities

_FRESH = 16
"""Outdated candidates judged anew before a split; after that the best fresh one is taken."""


@dataclass(frozen=True)
class SplitOptions:
    """How `grow_structure` runs."""

    max_splits: int = 500
    """Most splits."""
    max_parameters: int = 200_000
    """A split that would make the circuit larger is not made, and ends the search."""
    clone_depth: int = 4
    """How many choices deep, off the way to the split variable, copies may reach; 0 copies the way only."""
    min_rows: int = 50
    """An edge that fewer rows (by weight) take is not split."""
    penalty: float = 1.0
    """Price of a free parameter in units of log(rows) / 2 nats, as in `learn_cutset_network`; 1 is BIC."""
    smoothing: float = 1.0
    """Goes to `maximum_likelihood` for the weights, also when the validation rows are scored."""
    patience: int = 30
    """With validation data: stop after this many splits without a better score."""
    progress: Callable[[int, float, float | None], None] | None = None
    """Called after each split with its number, the mean log-likelihood, and that of the validation data or None."""

    def __post_init__(self) -> None:
        check_smoothing(self.smoothing)
        least = {"max_splits": 0, "max_parameters": 1, "clone_depth": 0, "min_rows": 0, "patience": 1}
        for option, lowest in least.items():
            if getattr(self, option) < lowest:
                raise StructureError(f"SplitOptions {option} is {getattr(self, option)}; it must be at least {lowest}.")


@dataclass(frozen=True)
class Growth:
    """The outcome of `grow_structure`."""

    circuit: Circuit
    """Deterministic."""
    logits: Tensor
    """Normalised log weights in float64, shape (parameters,)."""
    log_likelihoods: tuple[float, ...]
    """Mean over the data in nats after 0, 1, ... splits, with unsmoothed weights; it never decreases."""
    validation_log_likelihoods: tuple[float, ...]
    """The same for the validation data, with smoothed weights; empty without."""
    best_split: int
    """How many splits the circuit has: best on the validation data, all without."""


def grow_structure(
    data: Tensor,
    cardinalities: Sequence[int],
    *,
    weights: Tensor | None = None,
    validation: Tensor | None = None,
    options: SplitOptions | None = None,
) -> Growth:
    """Learn a deterministic circuit from data by splitting and cloning, starting from the Chow-Liu tree.

    A split takes one edge of the circuit (a value of a variable, in one context) and one variable decided below it:
    the part behind the edge is copied for each value of that variable. Copied are the sums on the way to the variable
    and, up to `clone_depth` deep, those beside it for which copies pay; all others stay shared. So the old
    distribution can still be said, and the likelihood of the data never decreases. Each time, the pair with the
    largest gain in log-likelihood less the price of its parameters is split. Gains are exact, counted from the rows
    (the source takes flow for the edge and mutual information for the variable); those of edges that other splits
    have touched are renewed when they come up. Unlike `learn_cutset_network`, whose leaves share nothing, this one
    shares what a split does not concern, and stops by validation data when there is some.

    Args:
        data: integers, shape (rows, variables).
        cardinalities: number of values of each variable.
        weights: how often each row counts, shape (rows,), at least 0; one each when None.
        validation: rows that are not learned from, shape (rows, variables); the best circuit on them is returned.
            None: stop when no split gains more than its price.
        options: see `SplitOptions`.

    Returns:
        A `Growth`: circuit, logits, and the mean log-likelihood after each split.

    Raises:
        EvidenceError: malformed data or weights, or missing values; for those fix a structure and use EM.
        StructureError: a negative penalty, or an option below its least value.
    Cost: O(r E K) for each edge judged, with r the rows that take it, E the edges behind it, K the sum of the
        cardinalities; per split, the edges that it makes and as a rule at most 16 others are judged.
    Source: Dang, Vergari and Van den Broeck 2020, Strudel: Learning Structured-Decomposable Probabilistic Circuits.

    Example:
        >>> import torch, circuits
        >>> rows = torch.tensor([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]] * 50)  # the third is the parity
        >>> growth = circuits.learning.grow_structure(rows, [2, 2, 2])
        >>> growth.circuit.is_deterministic, growth.best_split
        (True, 1)
    """
    options = options or SplitOptions()
    cards = check_cardinalities(cardinalities)
    what, way_out = "grow_structure", "Drop or fill those rows, or fix a structure and use EM."
    rows, row_weights = complete_rows(data, cards, what, way_out, weights=weights)
    price = parameter_price(options.penalty, row_weights)
    both = rows
    if validation is not None:
        both = torch.cat([rows, complete_rows(validation, cards, what, way_out, name="validation")[0]])
    counted = np.stack([np.zeros(len(both)), np.ones(len(both))], 1)
    counted[: len(rows)] = np.stack([row_weights.cpu().numpy(), np.zeros(len(rows))], 1)
    parents = chow_liu(rows, cards, weights=weights, smoothing=options.smoothing)
    graph = DecisionGraph.of_forest(cards, parents, both.cpu().numpy(), counted, price)
    train, held_out, best = _Search(graph, options).run()
    circuit = graph.build("split_and_clone")
    logits = maximum_likelihood(circuit, rows, weights=weights, smoothing=options.smoothing)
    return Growth(circuit, logits, tuple(train), tuple(held_out), best)


class _Search:
    """Greedy search: a queue of candidates, one per edge, of which those on top are kept up to date."""

    def __init__(self, graph: DecisionGraph, options: SplitOptions) -> None:
        self.graph, self.options = graph, options
        self.train: list[float] = []
        self.held_out: list[float] = []
        self.undo: list[tuple[int, tuple[int, ...]]] = []
        """The edge that each split changed, and what stood behind it."""

    def run(self) -> tuple[list[float], list[float], int]:
        """Split until nothing gains, and leave the graph as it was at its best."""
        graph, options = self.graph, self.options
        self.record()
        best = 0
        queue = [self.entry(edge) for edge in range(len(graph.targets))]
        heapify(queue)
        while len(self.undo) < options.max_splits:
            found = self.next_split(queue)
            if found is None:
                break
            first_new = len(graph.targets)
            self.undo.append((found.edge, graph.targets[found.edge]))
            graph.split(found)
            if graph.num_parameters() > options.max_parameters:
                self.step_back()
                break
            self.record()
            for edge in (found.edge, *range(first_new, len(graph.targets))):
                heappush(queue, self.entry(edge))
            # Without validation data every split that is made has paid for itself; with it, the price is only a guess.
            if not self.held_out or self.held_out[-1] > max(self.held_out[:-1]):
                best = len(self.undo)
            elif len(self.undo) - best >= options.patience:
                break
        while len(self.undo) > best:
            self.step_back()
        return self.train, self.held_out, best

    def entry(self, edge: int) -> tuple[float, int, int, Candidate]:
        """Judge an edge: an entry of the queue, with the number of splits that it knows of."""
        found = best_split(self.graph, edge, clone_depth=self.options.clone_depth, min_rows=self.options.min_rows)
        return -found.score, edge, len(self.undo), found

    def next_split(self, queue: list[tuple[float, int, int, Candidate]]) -> Candidate | None:
        """Take the best candidate from the queue, or None when no split gains."""
        # A split changes the gains of edges that share choices with it, but judging all of them anew after each split
        # would cost more than the split. So entries are renewed only when they come to the top, and after a few of them
        # the best one that is known to be true is taken, even if an outdated one promises more.
        judged = 0
        while queue and queue[0][0] < 0:
            if queue[0][2] < len(self.undo):
                heapreplace(queue, self.entry(queue[0][1]))
                judged += 1
                fresh = [entry for entry in queue if entry[2] == len(self.undo) and entry[0] < 0]
                if judged < _FRESH or not fresh:
                    continue
                queue.remove(min(fresh))
                heapify(queue)
                return min(fresh)[3]
            return heappop(queue)[3]
        return None

    def record(self) -> None:
        """Note the mean log-likelihoods."""
        train, held_out = self.graph.log_likelihoods(self.options.smoothing)
        self.train.append(train)
        if held_out is not None:
            self.held_out.append(held_out)
        if self.options.progress is not None:
            self.options.progress(len(self.undo), train, held_out)

    def step_back(self) -> None:
        """Undo the last split as far as the structure goes; counts are not restored."""
        # Splits only add choices and put them behind an edge, so putting the old ones back is all. Last split first: an
        # earlier one may have changed what a later one copied.
        edge, targets = self.undo.pop()
        self.graph.put_behind(edge, targets)
