"""Index plans for `entropy_bounds`: which pairs of rows may overlap, and how their overlap follows from smaller pairs.

Rows are topologically ordered, so a pair (a, b) depends on pairs with a smaller a + b only.
"""

from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from circuits.engine.layers import CompiledCircuit, Rows

_MOST_CHILDREN = 64
"""Sums with more children than this are not compared pair by pair."""
_BUDGET = 1 << 17
"""Pairs of edges that a plan may look at, over all sums."""

_ZERO, _ONE = 0, 1
"""Positions of the constants: supports that cannot meet, and a row with itself (or nothing known)."""

Pair = tuple[int, int]


@dataclass(frozen=True)
class SumOfPairs:
    """`value[i] = min(1, sum_t sqrt(weight[first[i, t]] * weight[second[i, t]]) * value[sources[i, t]])`."""

    sources: Rows
    first_edges: Rows
    second_edges: Rows


@dataclass(frozen=True)
class ProductOfPairs:
    """`value[i] = prod_t value[sources[i, t]]`."""

    sources: Rows


@dataclass(frozen=True)
class OverlapPlan:
    """All there is to know to bound the overlaps of children; values 0 and 1 are the constants."""

    steps: tuple[SumOfPairs | ProductOfPairs, ...]
    edge: Rows
    other_edge: Rows
    pair: Rows
    """For each two edges of one bounded sum: the edges, and the value that bounds their children's overlap."""
    is_disjoint: np.ndarray
    """Edges of sums whose children are disjoint."""
    is_bounded: np.ndarray
    """Edges of sums whose children are compared."""


@dataclass(frozen=True)
class _Question:
    """How the overlap of a pair follows from others: terms (edge, edge, pair) of a sum, or of a product."""

    is_sum: bool
    terms: tuple[tuple[int, int, Pair | int], ...]


def plan_overlaps(compiled: CompiledCircuit, rows: list[int]) -> OverlapPlan:
    """Plan the comparison of all children of the sums in `rows`, smallest first, as far as the budget goes."""
    asked = _Asked(compiled)
    bounded = [row for row in sorted(rows) if asked.children_of(row)]
    answers = _Answers(asked.questions)
    edges: list[tuple[int, int, int]] = []
    for row in bounded:
        first = asked.first_edge[row]
        for (i, a), (j, b) in product(enumerate(compiled.children[row]), repeat=2):
            edges.append((first + i, first + j, answers.position(asked.pair(a, b))))
    table = np.array([edge for edge in edges if edge[2] != _ZERO], dtype=np.int64).reshape(-1, 3)
    is_disjoint = ~np.isin(compiled.edge_sum.positions, rows)
    is_bounded = np.isin(compiled.edge_sum.positions, bounded)
    edge, other_edge, pair = (Rows(column) for column in table.T)
    return OverlapPlan(answers.steps(), edge, other_edge, pair, is_disjoint, is_bounded)


class _Asked:
    """The pairs that have to be known, and how each follows from smaller ones."""

    def __init__(self, compiled: CompiledCircuit) -> None:
        self.questions: dict[Pair, _Question] = {}
        self.first_edge: dict[int, int] = {}
        for layer in compiled.sum_layers:
            for i in range(layer.size):
                self.first_edge[layer.start + i] = layer.first_edge + i * layer.fan_in
        self._compiled = compiled
        self._no_edge = compiled.num_parameters
        self._budget = _BUDGET

    def pair(self, a: int, b: int) -> Pair | int:
        """Return the pair in order, or the constant where it needs no numbers."""
        if a == b:
            return _ONE
        if max(a, b) < self._compiled.num_values:
            return _ZERO  # two different values
        return (a, b) if a < b else (b, a)

    def children_of(self, row: int) -> bool:
        """Ask about all pairs of a sum's children; False, with nothing changed, if that is too much."""
        children = self._compiled.children[row]
        if len(children) > _MOST_CHILDREN:
            return False
        new: dict[Pair, _Question] = {}
        waiting: list[Pair | int] = [self.pair(a, b) for a, b in combinations(children, 2)]
        spent = len(waiting)
        while waiting:
            pair = waiting.pop()
            if isinstance(pair, int) or pair in self.questions or pair in new:
                continue
            spent += self._size(pair)  # before it is expanded: two sums of 64 children each have 4,096 terms
            if spent > self._budget:
                break
            new[pair] = self._expand(pair)
            waiting.extend(term[2] for term in new[pair].terms)
        # What a failed attempt looked at is paid for too: that bounds the time that planning takes.
        enough, self._budget = spent <= self._budget, max(0, self._budget - spent)
        if enough:
            self.questions |= new
        return enough

    def _size(self, pair: Pair) -> int:
        return int(np.prod([len(self._choices(row)) for row in pair]))

    def _choices(self, row: int) -> list[tuple[int, int]]:
        """Return the (edge, child) pairs of a sum; any other row chooses itself."""
        if not self._compiled.is_sum[row]:
            return [(self._no_edge, row)]
        return list(enumerate(self._compiled.children[row], start=self.first_edge[row]))

    def _expand(self, pair: Pair) -> _Question:
        if any(self._compiled.is_sum[row] for row in pair):
            choices = product(*map(self._choices, pair))
            return _Question(True, tuple((e, f, self.pair(a, b)) for (e, a), (f, b) in choices))
        first, second = (self._factors(row) for row in pair)
        # Factors with one scope in both; the others overlap by at most one.
        parts = ((row, second[scope]) for scope, row in first.items() if scope in second)
        return _Question(False, tuple((0, 0, self.pair(a, b)) for a, b in parts))

    def _factors(self, row: int) -> dict[int, int]:
        """Return scope -> row for the factors of a tree of products."""
        factors: dict[int, int] = {}
        stack = [row]
        while stack:
            current = stack.pop()
            if self._compiled.is_sum[current] or current < self._compiled.num_values:
                factors[self._compiled.row_scopes[current]] = current
            else:
                stack.extend(self._compiled.children[current])
        return factors


class _Answers:
    """Positions of the pairs' values, after everything that is known to be zero or one has been dropped."""

    def __init__(self, questions: dict[Pair, _Question]) -> None:
        self._known: dict[Pair, int] = {}
        self._drafts: list[_Question] = []
        self._level = [0, 0]
        for pair in sorted(questions, key=sum):  # children stand before parents, so smaller pairs have smaller sums
            self._known[pair] = self._settle(questions[pair])
        # Drafts are numbered as they are found; their final places follow the groups, so that a group is one slice.
        order = sorted(range(len(self._drafts)), key=self._group)
        self._order = order
        self._place = [_ZERO, _ONE, *(0 for _ in order)]
        for position, draft in enumerate(order):
            self._place[draft + 2] = position + 2

    def position(self, pair: Pair | int) -> int:
        """Return where the value of a pair stands."""
        return self._place[self._draft(pair)]

    def steps(self) -> tuple[SumOfPairs | ProductOfPairs, ...]:
        """Return the groups of equal level, kind and length, in an order in which they can be computed."""
        groups: dict[tuple[int, bool, int], list[_Question]] = {}
        for draft in self._order:
            groups.setdefault(self._group(draft), []).append(self._drafts[draft])
        steps: list[SumOfPairs | ProductOfPairs] = []
        for (_, is_sum, _), members in groups.items():
            terms = np.array([[(e, f, self.position(pair)) for e, f, pair in member.terms] for member in members])
            first, second, sources = (Rows(terms[..., column]) for column in range(3))
            steps.append(SumOfPairs(sources, first, second) if is_sum else ProductOfPairs(sources))
        return tuple(steps)

    def _group(self, draft: int) -> tuple[int, bool, int]:
        question = self._drafts[draft]
        return self._level[draft + 2], question.is_sum, len(question.terms)

    def _draft(self, pair: Pair | int) -> int:
        return pair if isinstance(pair, int) else self._known[pair]

    def _settle(self, question: _Question) -> int:
        """Return the draft position of an answer: a constant, an earlier one, or a new one."""
        # Most pairs of regions that fix different labels cannot meet. Without them the plan is a fraction of its size.
        below = [self._draft(pair) for _, _, pair in question.terms]
        neutral = _ZERO if question.is_sum else _ONE
        terms = tuple(term for term, known in zip(question.terms, below, strict=True) if known != neutral)
        if not terms:
            return neutral
        if not question.is_sum and _ZERO in below:
            return _ZERO
        if not question.is_sum and len(terms) == 1:
            return self._draft(terms[0][2])
        self._drafts.append(_Question(question.is_sum, terms))
        self._level.append(1 + max(self._level[known] for known in below))
        return len(self._level) - 1
