"""Product of two circuits over the same variables: what is possible in it is what is possible in both."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from itertools import product as pairs_of
from operator import or_
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from circuits.circuit import Circuit
from circuits.engine.layers import Rows
from circuits.errors import NotTractableError, StructureError
from circuits.nodes import Input, Node, Product, Sum, prune
from circuits.variables import describe_scope

_MOST_TERMS = 1 << 20
"""Pairs of edges that a product may look at before it is refused."""

NO_EDGE = -1
"""Stands for a factor of one where a product's edge has no counterpart in one of the circuits."""


@dataclass(frozen=True)
class ProductCircuit:
    """The product of two circuits, and which of their weights multiply into each of its weights."""

    circuit: Circuit
    first_edges: Rows
    second_edges: Rows
    """Per parameter of the product: a parameter of the first (second) circuit, or `NO_EDGE`."""


_KNOWN: "WeakKeyDictionary[Circuit, WeakKeyDictionary[Circuit, ProductCircuit | None]]" = WeakKeyDictionary()
"""Products that were asked for before; each is forgotten with either of its circuits."""


def product(first: Circuit, second: Circuit) -> Circuit:
    """Return a circuit for the functions p(u) q(u), where p lives on the first and q on the second circuit.

    Its nodes are pairs of nodes of equal scope: sums multiply out, products match part by part, and pairs that have
    no joint value in common are left out. `queries.multiply` gives it its numbers.

    The circuits are compatible if they split the variables along each other: wherever both split the same variables,
    parts can be grouped so that they agree ({0}, {1}, {2} agrees with {0, 1}, {2}), or a part of one can be cut where
    the other splits, as a decision diagram can be cut between any two of the variables that it reads in order. So
    mean field is compatible with every circuit, a structured circuit with itself, and `exactly`, `all_different` and
    every other decision diagram with circuits whose regions are runs of neighbouring variables.

    Args:
        first: a circuit.
        second: a circuit of the same cardinalities.

    Returns:
        A circuit whose support is the intersection of the supports; deterministic if both are.

    Raises:
        StructureError: different cardinalities, or no joint value is possible in both.
        NotTractableError: incompatible circuits; the message names the nodes and the splits.
    Cost: at most edges(first) * edges(second) where splits agree up to grouping; a cut multiplies what it cuts by the
        number of nodes it can pass through. Remembered for as long as both circuits live.
    Source: Vergari et al. 2021, A compositional atlas of tractable circuit operations; cutting is this project's.

    Example:
        >>> from circuits import operations, structures
        >>> chain, two_act = structures.markov_chain([2] * 6), operations.exactly([2] * 6, 2)
        >>> operations.product(chain, two_act).is_deterministic
        True
    """
    matched = match(first, second)
    if matched is None:
        raise StructureError(
            f"no joint value is possible in both {first.name!r} and {second.name!r}, so their product would be empty."
        )
    return matched.circuit


def match(first: Circuit, second: Circuit) -> ProductCircuit | None:
    """Return the product with the origin of its parameters, or None if it is empty; see `product`."""
    known = _KNOWN.setdefault(first, WeakKeyDictionary())
    if second not in known:
        if first.cardinalities != second.cardinalities:
            raise StructureError(
                f"the circuits have cardinalities {first.cardinalities} and {second.cardinalities}; "
                "only circuits over the same variables can be multiplied."
            )
        known[second] = _Matching(first, second).build()
    return known[second]


_Element = int | tuple[int, int]
"""A node, or what a node multiplies one of its descendants with: (node, descendant), where scopes are subtracted."""
_Parts = tuple[_Element, ...]
"""Elements of disjoint scopes, smallest variable first; their product is meant."""
_Key = tuple[_Parts, _Parts]
"""A question: the product of parts of the first and of the second circuit, which cover the same variables."""


class _Term(NamedTuple):
    """One addend: edges of the two circuits, and independent questions."""

    first_edge: int
    second_edge: int
    factors: tuple[_Key, ...]


class _Choice(NamedTuple):
    """One value of an input that both circuits allow."""

    variable: int
    value: int
    first_edge: int
    second_edge: int


class _Side:
    """One of the two circuits, with nodes cut open where the other circuit asks for it."""

    def __init__(self, circuit: Circuit) -> None:
        self.circuit = circuit
        self._nodes, self._scopes = circuit.nodes, circuit.scopes
        self._holes: dict[tuple[int, int], dict[int, None] | None] = {}

    def scope(self, element: _Element) -> int:
        if isinstance(element, int):
            return self._scopes[element]
        return self._scopes[element[0]] & ~self._scopes[element[1]]

    def sort(self, elements: _Parts) -> _Parts:
        # Questions are found again by their parts: in several orders the same product would be built several times. The
        # lowest bit of a scope is its smallest variable.
        return tuple(sorted(elements, key=lambda element: self.scope(element) & -self.scope(element)))

    def kind(self, element: _Element) -> type[Node]:
        return type(self._nodes[element if isinstance(element, int) else element[0]])

    def values(self, element: _Element) -> dict[int, int]:
        """Return value -> edge of an input."""
        assert isinstance(element, int)
        node = self._nodes[element]
        assert isinstance(node, Input)
        first = self._first_edge(element)
        return {value: NO_EDGE if first == NO_EDGE else first + i for i, value in enumerate(node.values)}

    def choices(self, element: _Element) -> list[tuple[int, _Element]]:
        """Return the (edge, child) pairs of a sum; anything else chooses itself."""
        if self.kind(element) is not Sum:
            return [(NO_EDGE, element)]
        top, hole = (element, None) if isinstance(element, int) else element
        edges = enumerate(self._nodes[top].children, start=self._first_edge(top))
        if hole is None:
            return list(edges)
        # A child that misses this hole reaches another one, whose term it belongs to: here it would count twice.
        return [(edge, (child, hole)) for edge, child in edges if self._reaches(child, hole)]

    def widen(self, parts: _Parts) -> _Parts:
        """Replace products by their factors."""
        return tuple(factor for part in parts for factor in self._factors(part))

    def _factors(self, element: _Element) -> _Parts:
        if self.kind(element) is not Product:
            return (element,)
        if isinstance(element, int):
            return self._nodes[element].children
        top, hole = element
        inside = self._scopes[hole]  # factors apart from it are whole; the one that holds it keeps the hole
        return tuple((f, hole) if self._scopes[f] & inside else f for f in self._nodes[top].children if f != hole)

    def cut(self, element: _Element, scope: int) -> list[tuple[_Element, _Element]] | None:
        """Write an element as a sum of products of an outer part and an inner part over `scope`; None if impossible."""
        if isinstance(element, int):
            holes = self._find_holes(element, scope)
            return None if holes is None else [((element, hole), hole) for hole in holes]
        top, bottom = element
        middles = self._find_holes(top, scope | self._scopes[bottom])
        if middles is None:
            return None
        return [((top, middle), (middle, bottom)) for middle in middles if self._reaches(middle, bottom)]

    def describe(self, parts: _Parts) -> str:
        """Return a split as people read it, with the product node that makes it."""
        tops = {part if isinstance(part, int) else part[0] for part in parts}
        parent = next((i for i, node in enumerate(self._nodes) if tops <= set(node.children)), None)
        where = f"nodes {sorted(tops)}" if parent is None else f"product node {parent}"
        return f"{where} into {' | '.join(describe_scope(self.scope(part)) for part in parts)}"

    def _first_edge(self, node: int) -> int:
        # Without parameters (an input of one value) the slice is empty, and its start is the edge of another node.
        edges = self.circuit.parameters_of(node)
        return edges.start if edges.stop > edges.start else NO_EDGE

    def _reaches(self, node: int, hole: int) -> bool:
        return hole in (self._find_holes(node, self._scopes[hole]) or ())

    def _find_holes(self, node: int, scope: int) -> dict[int, None] | None:
        """Return the topmost nodes over `scope` below a node, if each joint value's way down passes exactly one.

        Iterative, because decision diagrams are as deep as they have variables.
        """
        # A node stays on the stack until all below is known: the first visit pushes what is missing, the second joins.
        stack = [node]
        while stack:
            current = stack[-1]
            if (current, scope) in self._holes:
                stack.pop()
                continue
            below = self._towards(current, scope)
            waiting = [child for child in below if (child, scope) not in self._holes]
            if waiting:
                stack += waiting
                continue
            found: dict[int, None] | None = {current: None} if self._scopes[current] == scope else {}
            for child in below:
                holes = self._holes[child, scope]
                found = None if found is None or holes is None else found | holes
            # None spreads upward: where one way down misses the scope, a cut would drop that way's joint values.
            self._holes[current, scope] = found or None
            stack.pop()
        return self._holes[node, scope]

    def _towards(self, node: int, scope: int) -> tuple[int, ...]:
        """Return the children among which to look for nodes over a scope."""
        if self._scopes[node] == scope:
            return ()
        children = self._nodes[node].children
        if isinstance(self._nodes[node], Sum):
            return children
        return tuple(child for child in children if not scope & ~self._scopes[child])


class _Matching:
    """The pairs that a product consists of, and the nodes made of them."""

    def __init__(self, first: Circuit, second: Circuit) -> None:
        self._first, self._second = _Side(first), _Side(second)
        self._nodes: list[Node] = []
        self._edges: dict[int, list[tuple[int, int]]] = {}
        """Node -> a pair of edges, or `NO_EDGE`, for each of its parameters."""
        self._shared: dict[Node, int] = {}
        self._terms = 0

    def build(self) -> ProductCircuit | None:
        """Answer all questions, smallest first."""
        first, second = self._first.circuit, self._second.circuit
        root: _Key = ((first.num_nodes - 1,), (second.num_nodes - 1,))
        answers: dict[_Key, int | None] = {}
        plans: dict[_Key, list[_Term] | list[_Choice]] = {}
        stack: list[_Key] = [root]
        while stack:
            key = stack[-1]
            # Whoever waits for a question puts it on the stack, so it may come up again when it is answered.
            if key in answers:
                stack.pop()
            elif key in plans:
                answers[key] = self._answer(plans.pop(key), answers)
                stack.pop()
            else:
                plans[key] = self._expand(key)
                factors = [factor for term in plans[key] if isinstance(term, _Term) for factor in term.factors]
                stack += [factor for factor in factors if factor not in answers]
        top = answers[root]
        if top is None:
            return None
        proof = None
        if first.is_deterministic and second.is_deterministic:
            # It holds at any depth, while the general proof from the nodes gives up hundreds of levels down.
            proof = "children of a sum stand for disjoint children of a factor, or for disjoint ways through a cut"
        return self._assemble(top, f"product({first.name}, {second.name})", proof)

    def _expand(self, key: _Key) -> list[_Term] | list[_Choice]:
        """Write a question as a sum of products of smaller questions."""
        first, second = key
        if len(first) == len(second) == 1:
            kinds = {self._first.kind(first[0]), self._second.kind(second[0])}
            if Sum in kinds:
                choices = pairs_of(self._first.choices(first[0]), self._second.choices(second[0]))
                return self._counted(self._term((a,), (b,), i, j) for (i, a), (j, b) in choices)
            if kinds == {Input}:
                return self._meet(first[0], second[0])
        # Two sums are one node, shared by all that ask for the pair; products dissolve into their factors.
        wide = self._first.widen(first), self._second.widen(second)
        if wide != key:
            return self._counted([self._term(*wide)])
        # What is left are sums and inputs; where one side has a single sum, its choices are tried one by one.
        if len(first) == 1:
            return self._counted(self._term((a,), second, i) for i, a in self._first.choices(first[0]))
        if len(second) == 1:
            return self._counted(self._term(first, (b,), NO_EDGE, j) for j, b in self._second.choices(second[0]))
        return self._counted(self._cut(first, second))

    def _meet(self, first: _Element, second: _Element) -> list[_Choice]:
        ours, theirs = self._first.values(first), self._second.values(second)
        variable = self._first.scope(first).bit_length() - 1
        return [_Choice(variable, value, edge, theirs[value]) for value, edge in ours.items() if value in theirs]

    def _cut(self, first: _Parts, second: _Parts) -> list[_Term]:
        """Cut one element where the other side splits: the one with the fewest ways through."""
        best: list[tuple[_Parts, _Parts]] | None = None
        sides = ((self._second, second, self._first, first), (self._first, first, self._second, second))
        for side, mine, other, theirs in sides:
            for position, part in enumerate(mine):
                for scope in (side.scope(part) & other.scope(their) for their in theirs):
                    # A cut at nothing, or around everything, would ask the same question again, for ever.
                    ways = side.cut(part, scope) if scope not in (0, side.scope(part)) else None
                    if ways is not None and (best is None or len(ways) < len(best)):
                        rows = [(*mine[:position], *way, *mine[position + 1 :]) for way in ways]
                        best = [(first, row) if side is self._second else (row, second) for row in rows]
        if best is None:
            raise NotTractableError(
                "a product needs compatible circuits, but they split the same variables across each other: "
                f"{self._first.circuit.name!r} splits {self._first.describe(first)}, "
                f"{self._second.circuit.name!r} splits {self._second.describe(second)}. Build one of them along the "
                "order or the regions of the other: decision diagrams go with regions of neighbouring variables."
            )
        return [self._term(*parts) for parts in best]

    def _term(self, first: _Parts, second: _Parts, first_edge: int = NO_EDGE, second_edge: int = NO_EDGE) -> _Term:
        """Return an addend, taken apart into groups that share no variables, smallest variable first."""
        # The parts of one side share nothing; starting from the side with more of them keeps this linear.
        swapped = len(second) > len(first)
        sides = [(self._first, first), (self._second, second)]
        (side, many), (other, few) = reversed(sides) if swapped else sides
        groups: list[tuple[int, _Parts, _Parts]] = [(side.scope(part), (part,), ()) for part in many]
        for part in few:
            scope = other.scope(part)
            touching = [group for group in groups if group[0] & scope]
            groups = [group for group in groups if not group[0] & scope]
            ours = tuple(element for group in touching for element in group[1])
            theirs = tuple(element for group in touching for element in group[2])
            groups.append((reduce(or_, (group[0] for group in touching), scope), ours, (*theirs, part)))
        groups.sort(key=lambda group: group[0] & -group[0])
        factors = ((side.sort(ours), other.sort(theirs)) for _, ours, theirs in groups)
        return _Term(first_edge, second_edge, tuple((b, a) if swapped else (a, b) for a, b in factors))

    def _counted(self, terms: Iterable[_Term]) -> list[_Term]:
        counted: list[_Term] = []
        for term in terms:
            counted.append(term)
            self._terms += 1
            if self._terms > _MOST_TERMS:
                raise NotTractableError(
                    f"the product of {self._first.circuit.name!r} and {self._second.circuit.name!r} needs more than "
                    f"{_MOST_TERMS:,} edges; use smaller circuits (fewer labels or states), or split along one order."
                )
        return counted

    def _answer(self, plan: list[_Term] | list[_Choice], answers: dict[_Key, int | None]) -> int | None:
        """Return the node of a question whose parts are answered, or None if nothing is possible."""
        children: list[int] = []
        edges: list[tuple[int, int]] = []
        for term in plan:
            if isinstance(term, _Choice):
                child = self._share(Input(term.variable, (term.value,)))
            else:
                parts = [answers[factor] for factor in term.factors]
                nodes = tuple(part for part in parts if part is not None)
                if len(nodes) < len(parts):
                    continue
                child = nodes[0] if len(nodes) == 1 else self._share(Product(nodes))
            children.append(child)
            edges.append((term.first_edge, term.second_edge))
        if not children:
            return None
        if len(children) == 1 and edges == [(NO_EDGE, NO_EDGE)]:
            return children[0]
        # A lone child stays below a sum, whose weight scales the product.
        made: Node = Sum(tuple(children))
        choices = [term for term in plan if isinstance(term, _Choice)]
        if len(choices) > 1:
            made = Input(choices[0].variable, tuple(choice.value for choice in choices))
        self._nodes.append(made)
        self._edges[len(self._nodes) - 1] = edges
        return len(self._nodes) - 1

    def _share(self, node: Node) -> int:
        # Only for nodes without parameters: sums that look alike stem from different edges, so their weights differ.
        if node not in self._shared:
            self._shared[node] = len(self._nodes)
            self._nodes.append(node)
        return self._shared[node]

    def _assemble(self, root: int, name: str, determinism: str | None) -> ProductCircuit:
        """Number the nodes below the root, and read off where each parameter comes from."""
        nodes, new_index = prune(self._nodes, root)
        circuit = Circuit(self._first.circuit.cardinalities, nodes, name=name, determinism=determinism)
        origin = np.full((circuit.num_parameters, 2), NO_EDGE, dtype=np.int64)
        for old, edges in self._edges.items():
            if old in new_index:
                origin[circuit.parameters_of(new_index[old])] = edges
        return ProductCircuit(circuit, Rows(origin[:, 0]), Rows(origin[:, 1]))
