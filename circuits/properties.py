"""Structural properties of circuits: proofs, and a witness when one fails."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import combinations
from operator import or_
from typing import NamedTuple

from circuits.errors import StructureError
from circuits.nodes import Input, Node, Product, Sum
from circuits.variables import describe_scope

_SEARCH_BUDGET = 200_000
"""Steps that the search for an overlap may take before it gives up and reports `unproven`."""


class Overlap(NamedTuple):
    """Why a circuit is not known to be deterministic."""

    sum_node: int
    """The sum whose children are not disjoint."""
    scope: int
    first: int
    second: int
    """Two children of that sum."""
    assignment: dict[int, int] | None
    """A joint value on which both children are non-zero; None when the search gave up without an answer."""

    def describe(self) -> str:
        """Return the reason in one sentence part."""
        where = f"the sum node {self.sum_node} over variables {describe_scope(self.scope)}"
        if self.assignment is None:
            return f"{where} was not proved to have disjoint children ({self.first} and {self.second} are undecided)"
        values = ", ".join(f"{variable}: {value}" for variable, value in sorted(self.assignment.items()))
        return f"{where} mixes children {self.first} and {self.second}, which both allow {{{values}}}"


@dataclass(frozen=True, eq=False, repr=False)
class Properties:
    """What holds of a circuit beyond smoothness and decomposability, each with its proof or a witness against it.

    A proof can take long, so it is made when it is first asked for; then it stands, and nobody can write over it.
    """

    nodes: tuple[Node, ...]
    """Checked by `check_structure`."""
    scopes: tuple[int, ...]
    """Of the nodes, as bit masks."""
    determinism: str | None = None
    """Why the children of each sum are disjoint, where the construction says it; None leaves the proof to `overlap`."""

    @cached_property
    def second_split(self) -> tuple[int, int] | None:
        """Two products that split the same scope differently; None proves that the circuit is structured."""
        split_of: dict[int, tuple[frozenset[int], int]] = {}
        for index, node in enumerate(self.nodes):
            if not isinstance(node, Product) or len(node.children) == 1:
                continue
            split = frozenset(self.scopes[child] for child in node.children)
            known, where = split_of.setdefault(self.scopes[index], (split, index))
            if known != split:
                return where, index
        return None

    @cached_property
    def overlap(self) -> Overlap | None:
        """The first sum whose children are not proved to have disjoint supports; None proves determinism.

        A quick sound proof settles the usual structures in time linear in the edges. Where it does not, an exact
        search looks for a joint value that two children share; it is complete, but bounded in steps.
        """
        if self.determinism is not None:
            return None
        prover = Disjointness(self.nodes, self.scopes)
        for index, children in prover.unproved_sums():
            for first, second in combinations(children, 2):
                shared = prover.shared_value(first, second)
                if shared is not None:
                    return Overlap(index, self.scopes[index], first, second, shared or None)
        return None


def check_structure(cardinalities: tuple[int, ...], nodes: Sequence[Node]) -> tuple[int, ...]:
    """Check order, inputs, smoothness, decomposability and reachability; return every node's scope as a bit mask."""
    if not nodes:
        raise StructureError("a circuit needs at least one node.")
    scopes: list[int] = []
    used = bytearray(len(nodes))
    for index, node in enumerate(nodes):
        if isinstance(node, Input):
            scopes.append(_check_input(cardinalities, index, node))
            continue
        for child in node.children:
            if not 0 <= child < index:
                raise StructureError(f"node {index} has child {child}, but children must be earlier nodes.")
            used[child] = 1
        scopes.append(_check_inner(index, node, scopes))
    everything = (1 << len(cardinalities)) - 1
    if scopes[-1] != everything:
        raise StructureError(
            f"the root leaves out variables {describe_scope(everything & ~scopes[-1])}; "
            "multiply it by an input over each of them."
        )
    unused = used.find(0, 0, len(nodes) - 1)
    if unused >= 0:
        raise StructureError(f"node {unused} does not reach the root (the last node); leave it out.")
    return tuple(scopes)


def _check_input(cardinalities: tuple[int, ...], index: int, node: Input) -> int:
    if not 0 <= node.variable < len(cardinalities):
        raise StructureError(f"input {index}: variable {node.variable} does not exist.")
    cardinality = cardinalities[node.variable]
    if not node.values or len(set(node.values)) != len(node.values):
        raise StructureError(f"input {index}: values {node.values} must be distinct and not empty.")
    for value in node.values:
        if not isinstance(value, int) or not 0 <= value < cardinality:
            raise StructureError(
                f"input {index}: value {value!r} is out of range for variable {node.variable}, "
                f"which has values 0 to {cardinality - 1}."
            )
    return 1 << node.variable


def _check_inner(index: int, node: Product | Sum, scopes: Sequence[int]) -> int:
    children = node.children
    kind = type(node).__name__.lower()
    if not children:
        raise StructureError(f"{kind} node {index} has no children.")
    if kind == "sum":
        first = scopes[children[0]]
        for child in children:
            if scopes[child] != first:
                raise StructureError(
                    f"sum node {index} is not smooth: child {children[0]} covers variables {describe_scope(first)}, "
                    f"child {child} covers {describe_scope(scopes[child])}. Multiply children by inputs over "
                    "what they lack."
                )
        return first
    scope = 0
    for child in children:
        if scope & scopes[child]:
            raise StructureError(
                f"product node {index} is not decomposable: child {child} shares variables "
                f"{describe_scope(scope & scopes[child])} with the children before it."
            )
        scope |= scopes[child]
    return scope


class Disjointness:
    """Memoised questions about the supports of nodes."""

    def __init__(self, nodes: Sequence[Node], scopes: Sequence[int]) -> None:
        self._nodes = nodes
        self._scopes = scopes
        self._known: dict[frozenset[int], bool] = {}
        self._disjoint: dict[int, frozenset[int]] = {}
        """By scope: the parts of products over it, where they are all disjoint."""
        self._budget = _SEARCH_BUDGET
        self._learn_regions()

    def _learn_regions(self) -> None:
        """Prove, smallest scopes first, that all parts over a scope are disjoint, where they are.

        Most questions are about some of them, and in this order no proof goes deeper than one level: a chain of a
        thousand regions needs no recursion a thousand deep.
        """
        parts: dict[int, set[int]] = {}
        for node in self._nodes:
            for child in node.children if isinstance(node, Product) else ():
                parts.setdefault(self._scopes[child], set()).add(child)
        for scope in sorted(parts, key=int.bit_count):
            units = frozenset(parts[scope])
            if self.quickly_disjoint(tuple(units)):
                self._disjoint[scope] = units

    def unproved_sums(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Yield the sums that were not quickly proved disjoint, and their children; all that overlap are among them."""
        for index, node in enumerate(self._nodes):
            if isinstance(node, Sum) and not self.quickly_disjoint(node.children):
                yield index, node.children

    def quickly_disjoint(self, children: tuple[int, ...]) -> bool:
        """Prove that the children of a sum are distinct and pairwise disjoint; False means not proved."""
        try:
            return len(set(children)) == len(children) and self.all_disjoint(frozenset(children))
        except RecursionError:  # a proof hundreds of levels deep counts as none
            return False

    def all_disjoint(self, units: frozenset[int]) -> bool:
        """Prove that the supports of nodes of one scope are pairwise disjoint; False means not proved."""
        if len(units) < 2 or units <= self._disjoint.get(self._scopes[next(iter(units))], frozenset()):
            return True
        if units not in self._known:
            self._known[units] = self._prove(units)
        return self._known[units]

    def _prove(self, units: frozenset[int]) -> bool:
        elements: set[int] = set()
        for unit in units:
            chosen_from = self._elements(unit)
            if not elements.isdisjoint(chosen_from):
                return False
            elements |= chosen_from
        first = self._nodes[next(iter(elements))]
        if isinstance(first, Input):
            values = [value for element in elements for value in self._input(element).values]
            return len(values) == len(set(values))
        rows = [self._nodes[element].children for element in elements]
        splits = {tuple(self._scopes[child] for child in row) for row in rows}
        if len(splits) != 1:
            return False
        # Small parts first: their proofs are the cheapest and usually suffice.
        columns = sorted(range(len(rows[0])), key=lambda column: self._scopes[rows[0][column]].bit_count())
        return self._differ_in_a_disjoint_column(rows, columns)

    def _input(self, index: int) -> Input:
        node = self._nodes[index]
        assert isinstance(node, Input)
        return node

    def _elements(self, unit: int) -> set[int]:
        """Return the products and inputs that a node chooses from; a product of one child stands for the child."""
        elements: set[int] = set()
        stack = [unit]
        while stack:
            current = stack.pop()
            node = self._nodes[current]
            if isinstance(node, Sum) or (isinstance(node, Product) and len(node.children) == 1):
                stack.extend(node.children)
            else:
                elements.add(current)
        return elements

    def _differ_in_a_disjoint_column(self, rows: list[tuple[int, ...]], columns: list[int]) -> bool:
        for position, column in enumerate(columns):
            if not self.all_disjoint(frozenset(row[column] for row in rows)):
                continue
            groups: dict[int, list[tuple[int, ...]]] = {}
            for row in rows:
                groups.setdefault(row[column], []).append(row)
            rest = columns[position + 1 :]
            return all(len(group) == 1 or self._differ_in_a_disjoint_column(group, rest) for group in groups.values())
        return False

    def shared_value(self, first: int, second: int) -> dict[int, int] | None:
        """Return a joint value of both nodes, None when there is none, or {} when the search gave up."""
        try:
            return self._satisfy(frozenset((first, second)))
        except (TimeoutError, RecursionError):
            return {}

    def _satisfy(self, nodes: frozenset[int]) -> dict[int, int] | None:
        """Return a joint value on which all nodes are non-zero, or None; the nodes' scopes may differ."""
        self._budget -= 1
        if self._budget < 0:
            raise TimeoutError
        shared: dict[int, int] = {}
        for group in self._connected(nodes):
            part = self._satisfy_group(group)
            if part is None:
                return None
            shared.update(part)
        return shared

    def _connected(self, nodes: frozenset[int]) -> list[frozenset[int]]:
        """Split nodes into groups that share no variables; groups are independent questions."""
        groups: dict[int, frozenset[int]] = {}
        for node in nodes:
            touching = [scope for scope in groups if scope & self._scopes[node]]
            members = frozenset({node}).union(*(groups.pop(scope) for scope in touching))
            groups[reduce(or_, touching, self._scopes[node])] = members
        return list(groups.values())

    def _satisfy_group(self, group: frozenset[int]) -> dict[int, int] | None:
        widest = max(group, key=lambda node: (self._scopes[node].bit_count(), not isinstance(self._nodes[node], Input)))
        node = self._nodes[widest]
        others = group - {widest}
        if isinstance(node, Input):
            values = set.intersection(*(set(self._input(member).values) for member in group))
            return {node.variable: min(values)} if values else None
        if isinstance(node, Product):
            return self._satisfy(others | set(node.children))
        for child in node.children:
            found = self._satisfy(others | {child})
            if found is not None:
                return found
        return None
