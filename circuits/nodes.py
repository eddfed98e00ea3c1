"""The three kinds of nodes that circuits are made of."""

from typing import NamedTuple


class Input(NamedTuple):
    """A distribution over some values of one variable; one logit per value, none when there is only one."""

    variable: int
    values: tuple[int, ...]


class Product(NamedTuple):
    """Independent parts: the children's scopes are disjoint."""

    children: tuple[int, ...]


class Sum(NamedTuple):
    """A choice among children of equal scope; one logit per child."""

    children: tuple[int, ...]


Node = Input | Product | Sum
