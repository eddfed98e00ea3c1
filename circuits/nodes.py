"""The three kinds of nodes that circuits are made of."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Input(NamedTuple):
    """A distribution over some values of one variable; one logit per value, none when there is only one."""

    variable: int
    values: tuple[int, ...]

    @property
    def children(self) -> tuple[int, ...]:
        """None."""
        return ()


class Product(NamedTuple):
    """Independent parts: the children's scopes are disjoint."""

    children: tuple[int, ...]


class Sum(NamedTuple):
    """A choice among children of equal scope; one logit per child."""

    children: tuple[int, ...]


Node = Input | Product | Sum


def prune(nodes: Sequence[Node], root: int) -> tuple[list[Node], dict[int, int]]:
    """Return the nodes that a root reaches, in the same order and numbered anew, and the new number of each old one."""
    needed = {root}
    for index in range(root, -1, -1):
        if index in needed:
            needed.update(nodes[index].children)
    places = {old: new for new, old in enumerate(sorted(needed))}
    return [renumber(nodes[old], places) for old in places], places


def renumber(node: Node, places: Mapping[int, int] | Sequence[int]) -> Node:
    """Return a node whose children stand at other places."""
    return node if isinstance(node, Input) else type(node)(tuple(places[child] for child in node.children))
