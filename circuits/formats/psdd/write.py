"""Write a distribution as a PSDD: a vtree and a list of decision nodes, in the text formats of the UCLA packages."""

import os
from collections.abc import Iterable
from itertools import combinations
from math import exp, fsum, inf, log
from pathlib import Path

from circuits.circuit import Circuit
from circuits.distribution import CircuitDistribution, check_single
from circuits.errors import NotTractableError, StructureError
from circuits.files import replace_file
from circuits.nodes import Input, Product, Sum
from circuits.properties import Disjointness
from circuits.variables import describe_scope, variables_of

_MAX_ELEMENTS = 1 << 20
_DIGITS = 12
"""Mixtures whose log weights agree to that many decimals are one PSDD node."""

_Item = tuple[int, ...]
"""Circuit nodes whose product is meant, in the order of their parts in the vtree."""
_Mixture = tuple[tuple[_Item, float], ...]
"""Items of one scope with normalised log weights, sorted."""

_VTREE_HEADER = """\
c ids of vtree nodes start at 0
c ids of variables start at 1
c vtree nodes appear bottom-up, children before parents
c
c file syntax:
c vtree number-of-nodes-in-vtree
c L id-of-leaf-vtree-node id-of-variable
c I id-of-internal-vtree-node id-of-left-child id-of-right-child
c
"""
_PSDD_HEADER = """\
c ids of psdd nodes start at 0
c psdd nodes appear bottom-up, children before parents
c
c file syntax:
c psdd count-of-psdd-nodes
c L id-of-literal-node id-of-vtree literal
c T id-of-true-node id-of-vtree variable log(probability of false) log(probability of true)
c D id-of-decision-node id-of-vtree number-of-elements {id-of-prime id-of-sub log(probability)}*
c
"""


def save_psdd(path: str | os.PathLike[str], distribution: CircuitDistribution) -> None:
    """Write a distribution to `path` as a PSDD, and its vtree beside it with the ending .vtree.

    Args:
        path: the .psdd file; both files are replaced if they exist.
        distribution: see `psdd_text`.

    Raises:
        StructureError, NotTractableError: see `psdd_text`; then nothing is written.
    """
    if Path(path).suffix == ".vtree":
        raise StructureError(f"{os.fspath(path)}: this is the name of the vtree; give the name of the .psdd file.")
    vtree, psdd = psdd_text(distribution)
    replace_file(Path(path).with_suffix(".vtree"), vtree.encode())
    replace_file(Path(path), psdd.encode())


def psdd_text(distribution: CircuitDistribution) -> tuple[str, str]:
    """Return the texts of a .vtree and a .psdd file that hold exactly this distribution.

    Sums become decision nodes: of the two parts of a split, the one whose nodes never overlap gives the primes;
    elements with the same prime are merged, their subs become one mixture. Variable i is number i + 1 in the files,
    value 1 its positive literal. Elements of probability zero are left out.

    Args:
        distribution: over binary variables, without batch dimensions.

    Returns:
        The texts of the .vtree file and of the .psdd file.

    Raises:
        StructureError: a variable does not have two values, the distribution has batch rows, or the circuit splits a
            scope in two ways, so that there is no vtree.
        NotTractableError: a sum cannot be written with primes that exclude each other (every sum of a circuit that is
            not deterministic, and sums of one scope that decide on different parts), or the PSDD would have more than
            a million elements. The message names a node.
    Cost: linear in the edges for markov_chain, tree and others whose sums decide on one part.
    Source: Kisa, Van den Broeck, Choi and Darwiche 2014.
    """
    circuit = distribution.circuit
    _check(distribution)
    vtree = _Vtree(circuit)
    writer = _Writer(circuit, distribution.log_weights.detach().cpu().double().tolist(), vtree)
    return vtree.text, writer.text()


def _check(distribution: CircuitDistribution) -> None:
    circuit = distribution.circuit
    for variable, cardinality in enumerate(circuit.cardinalities):
        if cardinality != 2:
            raise StructureError(f"a PSDD has binary variables, but variable {variable} has {cardinality} values.")
    check_single(distribution, "a file holds")
    second = circuit.properties.second_split
    if second is not None:
        raise StructureError(
            f"a PSDD needs one split for each scope, but products {second[0]} and {second[1]} split variables "
            f"{describe_scope(circuit.scopes[second[0]])} in different ways."
        )
    if circuit.overlap is not None:
        raise NotTractableError(f"a PSDD is deterministic, but {circuit.overlap.describe()}.")


class _Vtree:
    """The order of parts in every split, and the binary tree that it makes: each part against those after it."""

    def __init__(self, circuit: Circuit) -> None:
        self.disjointness = Disjointness(circuit.nodes, circuit.scopes)
        columns: dict[int, dict[int, set[int]]] = {}
        for index, node in enumerate(circuit.nodes):
            if isinstance(node, Product) and len(node.children) > 1:
                parts = columns.setdefault(circuit.scopes[index], {})
                for child in node.children:
                    parts.setdefault(circuit.scopes[child], set()).add(child)
        self.order = {scope: self._ordered(parts) for scope, parts in columns.items()}
        self.ids: dict[tuple[int, ...], int] = {}
        self.text = self._write(self.key((circuit.scopes[-1],)))

    def _ordered(self, parts: dict[int, set[int]]) -> tuple[int, ...]:
        """Parts whose nodes exclude each other first, small ones before large ones."""

        def key(part: int) -> tuple[bool, int, int]:
            return not self.disjointness.quickly_disjoint(tuple(sorted(parts[part]))), part.bit_count(), part

        # Primes must exclude each other, so the part whose nodes do goes to the left; among such parts a small one
        # makes few elements. The last key breaks ties: the same circuit must always give the same file.
        return tuple(sorted(parts, key=key))

    def key(self, parts: tuple[int, ...]) -> tuple[int, ...]:
        """Return the parts of a single scope that is split further, and other parts as they are."""
        return self.order.get(parts[0], parts) if len(parts) == 1 else parts

    def children(self, key: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """Return the left and the right child of a vtree node, or None for a leaf."""
        return (self.key(key[:1]), self.key(key[1:])) if len(key) > 1 else None

    def _write(self, root: tuple[int, ...]) -> str:
        """Return the .vtree file; nodes are numbered from left to right and written children first."""
        lines: list[str] = []
        stack: list[tuple[tuple[int, ...], str]] = [(root, "enter")]
        while stack:
            key, step = stack.pop()
            below = self.children(key)
            # In order, not children first: the packages that read these files number a vtree from left to right.
            if below is None or step == "number":
                self.ids[key] = len(self.ids)
            if below is None:
                lines.append(f"L {self.ids[key]} {key[0].bit_length()}")
            elif step == "leave":
                lines.append(f"I {self.ids[key]} {self.ids[below[0]]} {self.ids[below[1]]}")
            elif step == "enter":
                stack += [(key, "leave"), (below[1], "enter"), (key, "number"), (below[0], "enter")]
        return _VTREE_HEADER + f"vtree {len(lines)}\n" + "\n".join(lines) + "\n"


class _Writer:
    """Turns mixtures of circuit nodes into PSDD nodes, children first, each mixture once."""

    def __init__(self, circuit: Circuit, log_weights: list[float], vtree: _Vtree) -> None:
        self.circuit, self.log_weights, self.vtree = circuit, log_weights, vtree
        self.lines: list[str] = []
        self.ids: dict[_Mixture, int] = {}
        self.num_elements = 0

    def text(self) -> str:
        """Return the .psdd file."""
        self._write((((self.circuit.num_nodes - 1,), 0.0),))
        return _PSDD_HEADER + f"psdd {len(self.lines)}\n" + "\n".join(self.lines) + "\n"

    def _write(self, root: _Mixture) -> None:
        # A stack instead of recursion (a chain is as deep as it is long). A mixture is met twice: first its plan is
        # made and what it needs goes on top, then all of it has ids and its line can be written. The plan is kept in
        # between, because expanding it again would double the work on every level.
        plans: dict[_Mixture, list[tuple[_Mixture, _Mixture, float]]] = {}
        stack = [root]
        while stack:
            mixture = stack[-1]
            if mixture in self.ids:
                stack.pop()
                continue
            if mixture not in plans:
                flat = self._flatten(mixture)
                if len(self._key(mixture)) == 1:
                    self._add_leaf(mixture, flat)
                    continue
                plans[mixture] = self._elements(flat)
            waiting = [part for prime, sub, _ in plans[mixture] for part in (prime, sub) if part not in self.ids]
            if waiting:
                stack += waiting
            else:
                place, elements = self.vtree.ids[self._key(mixture)], plans.pop(mixture)
                texts = [f"{self.ids[prime]} {self.ids[sub]} {min(weight, 0.0)!r}" for prime, sub, weight in elements]
                self._add(mixture, f"D {{}} {place} {len(texts)} {' '.join(texts)}")

    def _key(self, mixture: _Mixture) -> tuple[int, ...]:
        """Return the vtree node that a mixture belongs to."""
        item, _ = mixture[0]  # all items of a mixture cover the same parts, so the first one tells
        return self.vtree.key(tuple(self.circuit.scopes[node] for node in item))

    def _flatten(self, mixture: _Mixture) -> dict[_Item, float]:
        """Return products (as their parts in order) and inputs with their log weights, without sums."""
        # A PSDD has no sums below sums: their weights multiply along the way, and what several ways reach is added up
        # at the end, in one sum, so that the order of the ways does not show in the last digits.
        found: dict[_Item, list[float]] = {}
        stack = [(item, weight) for item, weight in reversed(mixture)]
        while stack:
            item, weight = stack.pop()
            first = item[0]
            node = self.circuit.nodes[first]
            if len(item) > 1 or isinstance(node, Input):
                found.setdefault(item, []).append(weight)
            elif isinstance(node, Sum):
                weights = self.log_weights[self.circuit.parameters_of(first)]
                edges = zip(node.children, weights, strict=True)
                stack += [((child,), weight + edge) for child, edge in edges if edge > -inf]
            elif len(node.children) == 1:
                stack.append((node.children, weight))
            else:
                # The circuit may list the parts of one split in any order, product by product; the vtree has one.
                order = self.vtree.order[self.circuit.scopes[first]]
                child_of = {self.circuit.scopes[child]: child for child in node.children}
                stack.append((tuple(child_of[part] for part in order), weight))
        return {item: _log_sum(weights) for item, weights in found.items()}

    def _elements(self, flat: dict[_Item, float]) -> list[tuple[_Mixture, _Mixture, float]]:
        """Group products by their first part: (prime, mixture of subs, log weight) for each group."""
        groups: dict[int, list[tuple[_Item, float]]] = {}
        for item, weight in flat.items():
            groups.setdefault(item[0], []).append((item[1:], weight))
        primes = tuple(sorted(groups))
        self._check_primes(primes)
        self.num_elements += len(primes)
        if self.num_elements > _MAX_ELEMENTS:
            raise NotTractableError(
                f"the PSDD needs more than {_MAX_ELEMENTS:,} elements, because products share the prime but not the "
                f"sub again and again (last at node {primes[0]}); write a circuit whose sums decide on one part."
            )
        elements: list[tuple[_Mixture, _Mixture, float]] = []
        for prime in primes:
            total = _log_sum([weight for _, weight in groups[prime]])
            # Equal subs must be found equal, or shared parts are written again for every parent and the file grows with
            # the number of ways: sorted, and rounded because each way adds its weights in another order.
            subs = tuple(sorted((item, round(weight - total, _DIGITS)) for item, weight in groups[prime]))
            elements.append(((((prime,), 0.0),), subs, total))
        return elements

    def _check_primes(self, primes: tuple[int, ...]) -> None:
        # The quick proof looks at all at once and nearly always succeeds; pair by pair it is a search, made only to say
        # which two overlap, or that none do after all.
        if self.vtree.disjointness.quickly_disjoint(primes):
            return
        for first, second in combinations(primes, 2):
            if self.vtree.disjointness.shared_value(first, second) is not None:
                scope = describe_scope(self.circuit.scopes[first])
                raise NotTractableError(
                    f"nodes {first} and {second} over variables {scope} would be primes of one decision node, but "
                    "they were not proved to exclude each other; all sums of a scope must decide on the same part."
                )

    def _add_leaf(self, mixture: _Mixture, flat: dict[_Item, float]) -> None:
        weights: tuple[list[float], list[float]] = ([], [])
        for (index,), weight in flat.items():
            node = self.circuit.nodes[index]
            assert isinstance(node, Input)
            edges = self.log_weights[self.circuit.parameters_of(index)] or [0.0]
            for value, edge in zip(node.values, edges, strict=True):
                weights[value].append(weight + edge)
        # By definition a true node has a probability strictly between 0 and 1; what is certain is a literal.
        no, yes = _log_sum(weights[0]), _log_sum(weights[1])
        key = self._key(mixture)
        (variable,), place = variables_of(key[0]), self.vtree.ids[key]
        if -inf in (no, yes):
            self._add(mixture, f"L {{}} {place} {variable + 1 if no == -inf else -variable - 1}")
        else:
            self._add(mixture, f"T {{}} {place} {variable + 1} {min(no, 0.0)!r} {min(yes, 0.0)!r}")

    def _add(self, mixture: _Mixture, line: str) -> None:
        self.ids[mixture] = len(self.lines)
        self.lines.append(line.format(len(self.lines)))


def _log_sum(log_weights: Iterable[float]) -> float:
    """Return log(sum(exp)) of plain numbers; exact for a single one."""
    numbers = list(log_weights)
    largest = max(numbers, default=-inf)
    if len(numbers) <= 1 or largest == -inf:
        return largest
    return largest + log(fsum(exp(weight - largest) for weight in numbers))
