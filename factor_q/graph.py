"""FactorGraph: which variables each term of a multilinear function looks at."""

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, combinations
from typing import SupportsIndex

import networkx

from circuits.errors import StructureError
from circuits.variables import as_tuple

Scope = tuple[int, ...]


@dataclass(frozen=True, init=False, repr=False)
class FactorGraph:
    """The scopes of a sum of tables over discrete variables, without the numbers.

    Factor f maps the variables of `scopes[f]` to a table whose axes follow the order of that scope:
    scope (2, 0) has a table of shape (k_2, k_0). The empty scope () is a constant. Immutable and hashable.

    Args:
        cardinalities: number of values of each variable, each at least 1.
        scopes: one tuple of distinct variable indices per factor; every set of variables at most once.

    Raises:
        StructureError: a cardinality or a scope breaks these rules; the message names it.

    Example:
        >>> graph = FactorGraph([2, 3, 4], scopes=[(0,), (2, 0)])
        >>> graph.table_shapes
        ((2,), (4, 2))
    """

    cardinalities: tuple[int, ...]
    scopes: tuple[Scope, ...]

    def __init__(self, cardinalities: Iterable[SupportsIndex], scopes: Iterable[Iterable[SupportsIndex]] = ()) -> None:
        """Check and freeze the structure."""
        object.__setattr__(self, "cardinalities", _checked_cardinalities(cardinalities))
        object.__setattr__(self, "scopes", _checked_scopes(scopes, len(self.cardinalities)))

    @property
    def num_variables(self) -> int:
        """Number of variables."""
        return len(self.cardinalities)

    @property
    def num_factors(self) -> int:
        """Number of factors."""
        return len(self.scopes)

    @cached_property
    def table_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of the table of each factor; () for a constant."""
        return tuple(tuple(self.cardinalities[variable] for variable in scope) for scope in self.scopes)

    @cached_property
    def table_sizes(self) -> tuple[int, ...]:
        """Number of entries of the table of each factor."""
        return tuple(math.prod(shape) for shape in self.table_shapes)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Position of the first entry of each table when all tables are laid end to end."""
        return tuple(accumulate(self.table_sizes, initial=0))[:-1]

    @cached_property
    def num_entries(self) -> int:
        """Number of entries of all tables together."""
        return sum(self.table_sizes)

    @cached_property
    def _hash(self) -> int:
        return hash((self.cardinalities, self.scopes))

    def to_networkx(self) -> networkx.Graph:
        """Return the interaction graph: one node per variable, an edge where two share a factor.

        Each node has the attribute `cardinality`.
        """
        graph = networkx.Graph()
        graph.add_nodes_from((variable, {"cardinality": k}) for variable, k in enumerate(self.cardinalities))
        for scope in self.scopes:
            graph.add_edges_from(combinations(scope, 2))
        return graph

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        smallest, largest = min(self.cardinalities, default=0), max(self.cardinalities, default=0)
        values = f"{smallest}" if smallest == largest else f"{smallest} to {largest}"
        arity = max((len(scope) for scope in self.scopes), default=0)
        return (
            f"FactorGraph({self.num_variables} variables of {values} values, {self.num_factors} factors "
            f"of at most {arity} variables, {self.num_entries} entries)"
        )


def _integer(value: SupportsIndex, what: str) -> int:
    """Return value as an int, or raise when it is not a whole number."""
    try:
        return operator.index(None if isinstance(value, bool) else value)  # pyright: ignore[reportArgumentType]
    except TypeError:
        raise StructureError(f"FactorGraph: {what} is {value!r}, but it must be an integer.") from None


def _checked_cardinalities(cardinalities: Iterable[SupportsIndex]) -> tuple[int, ...]:
    """Return the cardinalities as a tuple of positive ints."""
    given = as_tuple(cardinalities, "FactorGraph: cardinalities", "[2, 3]", StructureError)
    checked = tuple(_integer(value, f"cardinality {i}") for i, value in enumerate(given))
    for variable, cardinality in enumerate(checked):
        if cardinality < 1:
            raise StructureError(
                f"FactorGraph: variable {variable} has cardinality {cardinality}, but a variable needs "
                "at least one value."
            )
    return checked


def _checked_scopes(scopes: Iterable[Iterable[SupportsIndex]], num_variables: int) -> tuple[Scope, ...]:
    """Return the scopes as tuples of ints, each a new set of known variables."""
    given = as_tuple(scopes, "FactorGraph: scopes", "[(0,), (0, 1)]", StructureError)
    listed = (as_tuple(scope, f"FactorGraph: scope {i}", "(0,)", StructureError) for i, scope in enumerate(given))
    checked = tuple(tuple(_integer(value, f"a variable of scope {i}") for value in s) for i, s in enumerate(listed))
    known = frozenset(range(num_variables))
    first_use: dict[frozenset[int], Scope] = {}
    for scope in checked:
        variables = frozenset(scope)
        if len(variables) != len(scope):
            raise StructureError(f"FactorGraph: scope {scope} names a variable twice.")
        if not variables <= known:
            unknown = min(variables - known)
            raise StructureError(
                f"FactorGraph: scope {scope} names variable {unknown}, but the variables are "
                f"0 to {num_variables - 1} ({num_variables} cardinalities were given)."
            )
        if variables in first_use:
            raise StructureError(
                f"FactorGraph: scope {scope} covers the same variables as scope {first_use[variables]}. "
                "Keep one of them and add the tables instead (with axes in the same order)."
            )
        first_use[variables] = scope
    return checked
