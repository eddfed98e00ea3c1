"""The decision graph that `grow_structure` grows: choices, the rows that reach them, and what a split gains.

A choice is a sum over the values of one variable. Behind each of its values (an edge) stand further choices over
disjoint variables. Every sum of the finished circuit is such a choice, so it is deterministic by construction, and each
row of complete data takes exactly one edge per variable: `active[row, variable]` is all that counting needs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from circuits.circuit import Circuit, CircuitBuilder
from circuits.variables import value_offsets

_DENSE = 1 << 26
"""Numbers of one indicator matrix; more rows are counted in parts."""


@dataclass(frozen=True)
class Choice:
    """A sum over the values of one variable."""

    variable: int
    first: int
    """Its edges are first, first + 1, ..., one per value."""
    scope: np.ndarray
    """Which variables it decides, itself and below, shape (variables,)."""


@dataclass
class Candidate:
    """A split of one edge by one variable, and what it gains."""

    edge: int
    variable: int = -1
    score: float = -np.inf
    """Nats of training log-likelihood gained, less the price of the parameters."""
    clones: frozenset[int] = frozenset()
    """Choices off the way to the variable that each of its values gets a copy of."""


@dataclass
class DecisionGraph:
    """Choices and edges; edge 0 stands above the roots."""

    cards: tuple[int, ...]
    data: np.ndarray
    """Rows to learn from, then rows to watch, shape (rows, variables)."""
    weights: np.ndarray
    """Shape (rows, 2): how often each row counts, for learning and for watching."""
    price: float
    """Nats that one free parameter costs."""
    choices: list[Choice] = field(default_factory=list)
    targets: list[tuple[int, ...]] = field(default_factory=lambda: [()])
    """For each edge, the choices behind it."""
    owner: list[int] = field(default_factory=lambda: [-1])
    """For each edge, its choice."""
    successors: list[tuple[int, ...]] = field(default_factory=list)
    """For each choice, the choices behind its edges, each once."""

    @classmethod
    def of_forest(
        cls, cards: tuple[int, ...], parents: Sequence[int], data: np.ndarray, weights: np.ndarray, price: float
    ) -> "DecisionGraph":
        """Return the graph of a forest: one choice per variable and value of its parent."""
        graph = cls(cards, data, weights, price)
        children: dict[int, list[int]] = {variable: [] for variable in range(-1, len(cards))}
        for variable, parent in enumerate(parents):
            children[parent].append(variable)
        order = [-1]
        for variable in order:
            order += children[variable]
        below: dict[int, list[int]] = {}
        for variable in reversed(order[1:]):
            copies = cards[parents[variable]] if parents[variable] >= 0 else 1
            targets = [tuple(below[child][value] for child in children[variable]) for value in range(cards[variable])]
            below[variable] = [graph.add(variable, targets) for _ in range(copies)]
        graph.targets[0] = tuple(below[root][0] for root in children[-1])
        for variable, parent in enumerate(parents):
            first = np.array([graph.choices[choice].first for choice in below[variable]])
            chosen = data[:, parent] if parent >= 0 else np.zeros(len(data), dtype=np.int64)
            graph.active[:, variable] = first[chosen] + data[:, variable]
        graph._count(np.arange(len(data)), 1)
        return graph

    def __post_init__(self) -> None:
        offsets = value_offsets(self.cards)
        self.starts = np.array(offsets[:-1])
        """Position of each variable's first value among all values."""
        self.active = np.zeros(self.data.shape, dtype=np.int64)
        """The edge that each row takes for each variable, shape (rows, variables)."""
        self.totals = np.zeros((0, 2))
        """How often each edge is taken, for learning and for watching, shape (edges, 2)."""
        self.shown = np.zeros((len(self.data), offsets[-1]), dtype=np.float32)
        np.put_along_axis(self.shown, self.data + self.starts, self.weights[:, :1].astype(np.float32), 1)

    def add(self, variable: int, targets: list[tuple[int, ...]]) -> int:
        """Add a choice with what stands behind each value, and return its number."""
        scope = np.zeros(len(self.cards), dtype=np.bool_)
        scope[variable] = True
        successors = {choice for row in targets for choice in row}
        for target in successors:
            scope |= self.choices[target].scope
        self.choices.append(Choice(variable, len(self.targets), scope))
        self.targets += targets
        self.owner += [len(self.choices) - 1] * len(targets)
        self.successors.append(tuple(successors))
        return len(self.choices) - 1

    def put_behind(self, edge: int, targets: tuple[int, ...]) -> None:
        """Replace what stands behind an edge."""
        self.targets[edge] = targets
        if edge > 0:
            choice = self.owner[edge]
            self.successors[choice] = tuple({c for other in self.edges_of(choice) for c in self.targets[other]})

    def edges_of(self, choice: int) -> range:
        """Return the edges of a choice, one per value."""
        variable, first = self.choices[choice].variable, self.choices[choice].first
        return range(first, first + self.cards[variable])

    def rows_of(self, edge: int) -> np.ndarray:
        """Return the rows that take an edge."""
        if edge == 0:
            return np.arange(len(self.data))
        return np.flatnonzero(self.active[:, self.choices[self.owner[edge]].variable] == edge)

    def below(self, edge: int) -> list[int]:
        """Return the choices behind an edge, each before those behind its edges."""
        order: list[int] = []
        seen: set[int] = set()
        stack = [(choice, False) for choice in self.targets[edge]]
        while stack:
            choice, done = stack.pop()
            if done:
                order.append(choice)
            elif choice not in seen:
                seen.add(choice)
                stack.append((choice, True))
                stack += [(c, False) for c in self.successors[choice] if c not in seen]
        return order[::-1]

    def counts_by_value(self, edges: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return how often rows take each edge together with each value of each variable, shape (edges, values)."""
        # One matrix product counts all pairs: rows by edge taken (those asked for side by side, all others in one last
        # column that is dropped) times rows by value shown. Looping over edges would visit every row once for each.
        place = np.full(len(self.targets), len(edges))
        place[edges] = np.arange(len(edges))
        result = np.zeros((len(edges), self.shown.shape[1]))
        for part in np.array_split(rows, 1 + len(rows) * len(edges) // _DENSE):
            taken = np.zeros((len(part), len(edges) + 1), dtype=np.float32)
            np.put_along_axis(taken, place[self.active[part]], 1.0, 1)
            result += taken[:, :-1].T @ self.shown[part]
        return result

    def split(self, found: Candidate) -> None:
        """Carry out a split: each value of the variable gets a copy of the way there and of the clones."""
        variable, edge = found.variable, found.edge
        order = self.below(edge)
        inside = [c for c in self.targets[edge] if self.choices[c].scope[variable] or c in found.clones]
        outside = [c for c in self.targets[edge] if c not in inside]
        # Only rows that take this edge change their way: taken out of the totals before and put back after, they keep
        # the counts exact without counting all rows again.
        rows = self.rows_of(edge)
        self._count(rows, -1)
        parts = [rows[self.data[rows, variable] == value] for value in range(self.cards[variable])]
        copies = [self._copy(order, found, value, part) for value, part in enumerate(parts)]
        options = [self._given(inside, variable, value, new) for value, new in enumerate(copies)]
        decision = self.add(variable, options)
        self.put_behind(edge, (*outside, decision))
        for value, (part, copy_of) in enumerate(zip(parts, copies, strict=True)):
            # A copy's edges stand in the order of the original's, so a row moves by a look-up. `active` must follow at
            # once: the gains of later splits are read from it, and a stale entry would count rows for the original.
            new_edge = np.arange(len(self.targets))
            for old, new in copy_of.items():
                new_edge[np.asarray(self.edges_of(old))] = np.asarray(self.edges_of(new))
            self.active[part] = new_edge[self.active[part]]
            self.active[part, variable] = self.choices[decision].first + value
        self._count(rows, 1)

    def _copy(self, order: list[int], found: Candidate, value: int, rows: np.ndarray) -> dict[int, int]:
        """Copy the choices on the way to the split variable, and the clones that any of the rows reaches."""
        reached = {self.owner[edge] for edge in np.unique(self.active[rows[self.weights[rows, 0] > 0]])}
        copies: dict[int, int] = {}
        # From below: a copy must point to the copies of what stands behind it. A clone that no row reaches would be an
        # equal part with more parameters and nothing to learn them from, so the original stays.
        for choice in reversed(order):
            variable, scope = self.choices[choice].variable, self.choices[choice].scope
            on_the_way = scope[found.variable] and variable != found.variable
            if on_the_way or (choice in found.clones and choice in reached):
                targets = [
                    self._given(self.targets[edge], found.variable, value, copies) for edge in self.edges_of(choice)
                ]
                copies[choice] = self.add(variable, targets)
        return copies

    def _given(self, choices: Sequence[int], variable: int, value: int, copies: dict[int, int]) -> tuple[int, ...]:
        """Return what becomes of choices over disjoint variables once a variable has a value."""
        result: list[int] = []
        for choice in choices:
            decided = self.choices[choice].variable == variable
            # A choice about the split variable is made now: what stood behind this value takes its place.
            kept = self.targets[self.choices[choice].first + value] if decided else (choice,)
            result += [copies.get(c, c) for c in kept]
        return tuple(result)

    def _count(self, rows: np.ndarray, sign: int) -> None:
        """Add rows to the totals, or take them away."""
        new = len(self.targets) - len(self.totals)
        self.totals = np.concatenate([self.totals, np.zeros((new, 2))])
        flat = self.active[rows].ravel()
        for column in (0, 1):
            weights = np.repeat(self.weights[rows, column], len(self.cards))
            self.totals[:, column] += sign * np.bincount(flat, weights, minlength=len(self.targets))

    def num_parameters(self) -> int:
        """Return the number of parameters of the circuit."""
        return sum(k for choice in self.below(0) if (k := self.cards[self.choices[choice].variable]) > 1)

    def log_likelihoods(self, smoothing: float) -> tuple[float, float | None]:
        """Return the mean log-likelihood in nats of the rows to learn from, and of those to watch (None without).

        The former with the most likely weights, the latter with smoothed ones.
        """
        sizes = np.array([self.cards[choice.variable] for choice in self.choices])
        begins = np.array([choice.first for choice in self.choices]) - 1  # edge 0 belongs to no choice
        fan_in = np.repeat(sizes, sizes)

        def mean(amount: float, column: int) -> float:
            counts = self.totals[1:, 0] + amount / fan_in
            used = np.repeat(np.add.reduceat(counts, begins), sizes)
            taken = self.totals[1:, column]
            seen = taken > 0
            with np.errstate(divide="ignore", invalid="ignore"):
                # A choice that no row reaches is uniform, as in maximum_likelihood.
                shares = np.where(used > 0, counts / used, 1.0 / fan_in)[seen]
                return float(taken[seen] @ np.log(shares) / self.weights[:, column].sum())

        watched = self.weights[:, 1].any()
        return mean(0.0, 0), mean(smoothing, 1) if watched else None

    def build(self, name: str) -> Circuit:
        """Return the graph as a circuit."""
        builder = CircuitBuilder(self.cards, name=name)
        indicators = [[builder.input(v, [value]) for value in range(k)] for v, k in enumerate(self.cards)]
        node: dict[int, int] = {}

        def together(parts: list[int]) -> int:
            return parts[0] if len(parts) == 1 else builder.product(*parts)

        for choice in reversed(self.below(0)):
            # A product of the indicator and one node for the rest, so that all elements of a sum split alike.
            elements = [
                builder.product(indicator, together([node[c] for c in self.targets[edge]]))
                if self.targets[edge]
                else indicator
                for indicator, edge in zip(
                    indicators[self.choices[choice].variable], self.edges_of(choice), strict=True
                )
            ]
            node[choice] = elements[0] if len(elements) == 1 else builder.sum(*elements)
        return builder.build(together([node[choice] for choice in self.targets[0]]))
