"""Read a PSDD: decision nodes over a vtree, in the text formats of the UCLA packages."""

import os
import re
from collections.abc import Iterator
from math import exp, fsum, inf, log1p
from pathlib import Path
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

from circuits.circuit import Circuit
from circuits.errors import FormatError
from circuits.nodes import Input, Node, Product, Sum, prune

_MAX_BYTES = 1 << 28
_MAX_NODES = 1 << 22
_TOLERANCE = 1e-3
"""How far the probabilities of a node may be from one in sum; other programs round them to few digits."""
_INTEGER = re.compile(r"[+-]?\d{1,12}", re.ASCII)
_NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf(inity)?)", re.ASCII | re.IGNORECASE)


def load_psdd(path: str | os.PathLike[str], *, vtree: str | os.PathLike[str] | None = None) -> tuple[Circuit, Tensor]:
    """Read a circuit and its logits from a .psdd file and its .vtree file.

    Literal nodes, true nodes and primes and subs become inputs, decision nodes sums of products. True nodes may give
    one log probability (of true) or two (of false, of true), as different programs write them; elements with a false
    node are dropped. Lines that start with c are comments.

    Args:
        path: the .psdd file; its last node is the root.
        vtree: the .vtree file; the same name with the ending .vtree when None.

    Returns:
        A circuit over binary variables (variable i is number i + 1 in the file, its positive literal is value 1) and
        logits in float64, shape (circuit.num_parameters,).

    Raises:
        FormatError: a line breaks the format, the nodes do not fit the vtree, or probabilities do not sum to one; the
            message gives file, line and column.
        OSError: a file cannot be read.
    """
    tree = _read_vtree(os.fspath(Path(path).with_suffix(".vtree") if vtree is None else vtree))
    return _read_psdd(os.fspath(path), tree)


class _Word(NamedTuple):
    """A word of a file and where it stands, counted from 1."""

    text: str
    file: str
    line: int
    column: int

    def fail(self, message: str) -> NoReturn:
        raise FormatError(f"{self.file}:{self.line}:{self.column}: {message}")

    def integer(self, what: str, least: int = 0) -> int:
        if not _INTEGER.fullmatch(self.text) or int(self.text) < least:
            self.fail(f"{what} is {self.text[:40]!r}; it must be an integer of at least {least}.")
        return int(self.text)

    def log_probability(self) -> float:
        if not _NUMBER.fullmatch(self.text) or float(self.text) > _TOLERANCE:
            self.fail(f"{self.text[:40]!r} is not a log probability (a number of at most 0, or -inf).")
        return float(self.text)


def _lines(file: str) -> Iterator[list[_Word]]:
    """Yield the words of each line that is neither empty nor a comment."""
    # Asked before anything is read: a file may be any size, and its words take many times the memory of its bytes.
    if os.path.getsize(file) > _MAX_BYTES:
        raise FormatError(f"{file}:1:1: the file has more than {_MAX_BYTES:,} bytes.")
    content = Path(file).read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as problem:
        line = content.count(b"\n", 0, problem.start) + 1
        column = problem.start - content.rfind(b"\n", 0, problem.start)
        raise FormatError(f"{file}:{line}:{column}: this is not a text file.") from None
    for number, line in enumerate(text.split("\n"), 1):
        words = [_Word(match.group(), file, number, match.start() + 1) for match in re.finditer(r"\S+", line)]
        if words and words[0].text != "c" and not line.startswith("c"):
            yield words


def _body(file: str, kind: str, *, most: int) -> list[list[_Word]]:
    """Check the header line and return the lines after it; their number must be the one it promises."""
    lines = list(_lines(file))
    start = _Word("", file, 1, 1)
    if not lines:
        start.fail(f"the file is empty; it must begin with '{kind} <number of nodes>'.")
    header = lines[0]
    if header[0].text != kind or len(header) != 2:
        header[0].fail(f"the first line must be '{kind} <number of nodes>'.")
    count = header[1].integer("the number of nodes", 1)
    if count > most:
        header[1].fail(f"{count:,} nodes are more than {most:,}.")
    if count != len(lines) - 1:
        header[1].fail(f"the file promises {count:,} nodes and has {len(lines) - 1:,}.")
    return lines[1:]


class _Place(NamedTuple):
    """A vtree node: a variable, or two children."""

    variable: int
    left: int
    right: int


class _Tree(NamedTuple):
    places: dict[int, _Place]
    root: int
    num_variables: int


def _read_vtree(file: str) -> _Tree:
    # `open_` holds nodes that have no parent yet. Children stand above their parent and leave it, so no node can have
    # two parents or stand below itself, and what is left at the end are the roots.
    places: dict[int, _Place] = {}
    open_: set[int] = set()
    seen: set[int] = set()
    body = _body(file, "vtree", most=_MAX_NODES)
    for words in body:
        kind = words[0]
        if kind.text not in ("L", "I") or len(words) != (3 if kind.text == "L" else 4):
            kind.fail("a line must be 'L id variable' or 'I id left right'.")
        node = words[1].integer("the id of a vtree node")
        if node in places:
            words[1].fail(f"vtree node {node} appears twice.")
        if kind.text == "L":
            variable = words[2].integer("a variable", 1)
            if variable in seen:
                words[2].fail(f"variable {variable} has two leaves.")
            if variable > len(body):
                words[2].fail(f"variable {variable} is out of range; variables are numbered from 1 without gaps.")
            seen.add(variable)
            places[node] = _Place(variable - 1, -1, -1)
        else:
            for word in words[2:]:
                child = word.integer("the id of a child")
                if child not in open_:
                    word.fail(f"vtree node {child} must stand above and have no other parent.")
                open_.remove(child)
            places[node] = _Place(-1, int(words[2].text), int(words[3].text))
        open_.add(node)
    last = body[-1][1]
    if len(open_) != 1:
        last.fail(f"the vtree has {len(open_)} roots; the last node must be the only one.")
    if max(seen) != len(seen):
        missing = next(variable for variable in range(1, len(seen) + 1) if variable not in seen)
        last.fail(f"variable {missing} has no leaf, but variable {max(seen)} does; number them without gaps.")
    return _Tree(places, open_.pop(), len(seen))


class _Nodes:
    """Circuit nodes made so far, and the logits that go with them."""

    def __init__(self, tree: _Tree) -> None:
        self.tree = tree
        self.nodes: list[Node] = []
        self.logits: dict[int, list[float]] = {}
        self.by_id: dict[int, tuple[int, int]] = {}
        """PSDD id -> (circuit node, vtree id); node -1 is false."""

    def add(self, node: Node, logits: list[float] | None = None) -> int:
        self.nodes.append(node)
        if logits is not None:
            self.logits[len(self.nodes) - 1] = logits
        return len(self.nodes) - 1

    def circuit(self, root: int) -> tuple[Circuit, Tensor]:
        """Return the circuit below the root, without nodes that it does not reach."""
        nodes, places = prune(self.nodes, root)
        circuit = Circuit([2] * self.tree.num_variables, nodes, name="psdd")
        logits = torch.zeros(circuit.num_parameters, dtype=torch.float64)
        for old, numbers in self.logits.items():
            if old in places:
                logits[circuit.parameters_of(places[old])] = torch.tensor(numbers, dtype=torch.float64)
        return circuit, logits


def _read_psdd(file: str, tree: _Tree) -> tuple[Circuit, Tensor]:
    nodes = _Nodes(tree)
    body = _body(file, "psdd", most=_MAX_NODES)
    readers = {"L": _read_literal, "T": _read_true, "D": _read_decision}
    for words in body:
        kind = words[0]
        if kind.text not in (*readers, "F") or len(words) < 2:
            kind.fail("a line must be a node: 'L id vtree literal', 'T id vtree variable ...', 'D id vtree ...'.")
        identity = words[1].integer("the id of a node")
        if identity in nodes.by_id:
            words[1].fail(f"node {identity} appears twice.")
        nodes.by_id[identity] = (-1, -1) if kind.text == "F" else readers[kind.text](words, nodes)
    last = body[-1]
    node, place = nodes.by_id[int(last[1].text)]
    if place != tree.root:
        last[0].fail(f"the last node is the root, so it must belong to vtree node {tree.root}.")
    return nodes.circuit(node)


def _place(words: list[_Word], tree: _Tree) -> tuple[int, _Place]:
    identity = words[2].integer("the id of a vtree node")
    if identity not in tree.places:
        words[2].fail(f"vtree node {identity} does not exist.")
    return identity, tree.places[identity]


def _read_literal(words: list[_Word], nodes: _Nodes) -> tuple[int, int]:
    if len(words) != 4:
        words[0].fail("a literal must be 'L id vtree literal'.")
    identity, place = _place(words, nodes.tree)
    literal = words[3].integer("a literal", -nodes.tree.num_variables)
    _check_variable(words[3], abs(literal) - 1, place)
    return nodes.add(Input(place.variable, (int(literal > 0),))), identity


def _read_true(words: list[_Word], nodes: _Nodes) -> tuple[int, int]:
    if len(words) not in (5, 6):
        words[0].fail("a true node must be 'T id vtree variable log(false) log(true)' or have log(true) only.")
    identity, place = _place(words, nodes.tree)
    _check_variable(words[3], words[3].integer("a variable", 1) - 1, place)
    # Rounding in the file can push a log probability a little above 0: cut there, or the rest would be the log of a
    # negative.
    logs = [word.log_probability() for word in words[4:]]
    if len(logs) == 1:
        yes = min(logs[0], 0.0)
        # log(1 - p) as it stands loses a small p to rounding; log1p keeps it.
        rest = -exp(yes)
        logs = [-inf if rest == -1 else log1p(rest), yes]
    _check_sum(words[4], logs)
    return nodes.add(Input(place.variable, (0, 1)), logs), identity


def _check_variable(word: _Word, variable: int, place: _Place) -> None:
    if variable != place.variable:
        holder = "is not a leaf" if place.variable < 0 else f"holds variable {place.variable + 1}"
        word.fail(f"variable {variable + 1} stands here, but the vtree node {holder}.")


def _check_sum(word: _Word, logs: list[float]) -> None:
    total = fsum(map(exp, logs))
    if abs(total - 1) > _TOLERANCE:
        word.fail(f"the probabilities of this node sum to {total:.6g}, not to 1.")


def _read_decision(words: list[_Word], nodes: _Nodes) -> tuple[int, int]:
    if len(words) < 4:
        words[0].fail("a decision must be 'D id vtree count' and then prime, sub and log probability of each element.")
    identity, place = _place(words, nodes.tree)
    if place.variable >= 0:
        words[2].fail(f"a decision needs an inner vtree node, but vtree node {identity} is a leaf.")
    count = words[3].integer("the number of elements", 1)
    if len(words) - 4 != 3 * count:
        words[3].fail(f"{count} elements need {3 * count} words, but {len(words) - 4} follow.")
    products: list[int] = []
    logs: list[float] = []
    for start in range(4, len(words), 3):
        prime = _child(words[start], "prime", place.left, nodes)
        sub = _child(words[start + 1], "sub", place.right, nodes)
        weight = words[start + 2].log_probability()
        if prime >= 0 and sub >= 0:
            products.append(nodes.add(Product((prime, sub))))
            logs.append(weight)
        # Other programs keep elements with a false node, which only weight zero makes harmless: dropping one that has
        # weight would change the distribution without a word.
        elif weight > -inf and exp(weight) > _TOLERANCE:
            words[start + 2].fail("an element with a false node has a probability above zero.")
    if not products:
        words[0].fail("every element of this decision is false.")
    _check_sum(words[3], logs)
    return (products[0] if len(products) == 1 else nodes.add(Sum(tuple(products)), logs)), identity


def _child(word: _Word, what: str, place: int, nodes: _Nodes) -> int:
    identity = word.integer(f"the id of a {what}")
    if identity not in nodes.by_id:
        word.fail(f"{what} {identity} does not stand above.")
    node, found = nodes.by_id[identity]
    if node >= 0 and found != place:
        word.fail(f"{what} {identity} belongs to vtree node {found}, but this decision needs vtree node {place}.")
    return node
