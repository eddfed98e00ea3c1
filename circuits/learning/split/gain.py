"""What splitting an edge of a decision graph gains, for all variables at once."""

import numpy as np

from circuits.learning.split.graph import Candidate, DecisionGraph


def best_split(graph: DecisionGraph, edge: int, *, clone_depth: int, min_rows: int) -> Candidate:
    """Return the variable by whose values an edge is best split; a score of -inf when there is none.

    In a deterministic circuit the log-likelihood is a sum over choices of sum_v n_v log n_v - n log n with n the
    counts. A split divides the counts of the copied choices by the values of the split variable, so its gain is the
    difference of such terms, all of them readings of one table: rows by (edge, value of any variable).

    Args:
        graph: where the edge is.
        edge: its number.
        clone_depth: how many choices deep copies may reach beside the way to the variable.
        min_rows: an edge that fewer rows (by weight) take is not split.

    Cost: O(r E K), with r the rows that take the edge, E the edges behind it, K the sum of the cardinalities.
    """
    rows = graph.rows_of(edge)
    rows = rows[graph.weights[rows, 0] > 0]
    if len(rows) < 2 or graph.weights[rows, 0].sum() < min_rows:
        return Candidate(edge)
    order = graph.below(edge)
    if len(order) < 2:
        return Candidate(edge)
    cards = np.array(graph.cards)
    total = float(_entropy_terms(graph.weights[rows, 0].sum(keepdims=True))[0])
    decision = np.add.reduceat(_entropy_terms(graph.shown[rows].sum(0, dtype=np.float64)), graph.starts) - total
    net, on_the_way = _gains_of_copies(graph, order, rows)
    inside = np.logical_or.reduce([graph.choices[choice].scope for choice in graph.targets[edge]])
    base = np.where(inside & (cards > 1), decision - graph.price * (cards - 1), -np.inf)
    # Splitting by a variable that comes next changes nothing, but its score of zero may come out a little above.
    least = 1e-6 * max(1.0, total)
    if (base + np.where(on_the_way, net, np.maximum(net, 0.0)).sum(0)).max() < least:
        return Candidate(edge)
    copied = _choose_copies(graph, order, net, on_the_way, clone_depth)
    scores = base + np.where(copied, net, 0.0).sum(0)
    variable = int(scores.argmax())
    if scores[variable] < least:
        return Candidate(edge)
    beside = copied[:, variable] & ~on_the_way[:, variable]
    clones = frozenset(order[position] for position in np.flatnonzero(beside))
    return Candidate(edge, variable, float(scores[variable]), clones)


def _entropy_terms(counts: np.ndarray) -> np.ndarray:
    """Return n log n, 0 for 0."""
    return counts * np.log(np.maximum(counts, np.finfo(np.float64).tiny))


def _gains_of_copies(graph: DecisionGraph, order: list[int], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what copies of each choice gain for each split variable, each shape (choices, variables).

    First the gain less the price of the parameters, second whether the choice is on the way to the variable (or is
    about it).
    """
    cards = np.array(graph.cards)
    variables = np.array([graph.choices[choice].variable for choice in order])
    fan_in = cards[variables]
    begins = np.concatenate([[0], np.cumsum(fan_in)[:-1]])
    first = np.array([graph.choices[choice].first for choice in order])
    edges = np.repeat(first - begins, fan_in) + np.arange(fan_in.sum())
    counts = graph.counts_by_value(edges, rows)
    used = np.add.reduceat(counts, begins)
    # n log n of the counts within each value of a split variable, added over its values: what copies would score.
    divided = np.add.reduceat(np.add.reduceat(_entropy_terms(counts), begins) - _entropy_terms(used), graph.starts, 1)

    def likelihood(of_edges: np.ndarray) -> np.ndarray:
        return np.add.reduceat(_entropy_terms(of_edges), begins) - _entropy_terms(np.add.reduceat(of_edges, begins))

    everywhere = graph.totals[edges, 0]
    # Without the rows of this edge; what is below half a row's rounding counts as nothing.
    elsewhere = everywhere - counts[:, : graph.cards[0]].sum(1)
    elsewhere[elsewhere < 1e-6 * everywhere] = 0.0
    left = np.add.reduceat(elsewhere, begins)
    gains = divided + (likelihood(elsewhere) - likelihood(everywhere))[:, None]
    on_the_way = np.array([graph.choices[choice].scope for choice in order])
    about_it = variables[:, None] == np.arange(len(cards))
    copies = np.add.reduceat(used > 0, graph.starts, 1, dtype=np.int64)
    copies = np.where(on_the_way, np.where(about_it, 0, cards), copies)
    # The original goes when all its rows do; one that no rows reach anyway is no saving.
    replaced = (left == 0) & (np.add.reduceat(everywhere, begins) > 0)
    free = (fan_in - 1)[:, None] * (copies - replaced[:, None])
    return gains - graph.price * free, on_the_way


def _choose_copies(
    graph: DecisionGraph, order: list[int], net: np.ndarray, on_the_way: np.ndarray, clone_depth: int
) -> np.ndarray:
    """Return which choices to copy for each split variable, shape (choices, variables).

    All on the way to the variable must be; any other may be when all before it are, within the depth, and is when
    it promises a gain, with what its successors promise counted in.
    """
    place = {choice: position for position, choice in enumerate(order)}
    successors = [[place[after] for after in graph.successors[choice]] for choice in order]
    # Upwards first: a choice that loses by itself is worth a copy when what it opens up below gains more.
    promise = net.copy()
    for position in range(len(order) - 1, -1, -1):
        if successors[position]:
            promise[position] += np.maximum(promise[successors[position]], 0.0).sum(0)
    # Downwards: a copy hangs below a copy, so what an ancestor may not be, nothing below it may; several parents must
    # agree. The depth is the longest way off the way to the variable and begins anew at each choice on it.
    allowed = np.ones_like(on_the_way)
    depth = np.zeros(net.shape, dtype=np.int64)
    for position, following in enumerate(successors):
        beside = ~on_the_way[position]
        depth[position] = (depth[position] + 1) * beside
        allowed[position] &= (promise[position] > 0) & (depth[position] <= clone_depth)
        allowed[position] |= on_the_way[position]
        if following:
            allowed[following] &= allowed[position]
            depth[following] = np.maximum(depth[following], depth[position])
    return allowed
