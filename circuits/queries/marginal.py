"""Marginals: of every variable at once, and joint tables of chosen variables."""

from collections.abc import Iterable, Sequence
from math import prod

from jaxtyping import Float
from torch import Tensor

from circuits.engine.derivatives import by_variable
from circuits.engine.tables.run import tables_from
from circuits.errors import EvidenceError, NotTractableError
from circuits.shapes import MOST_NUMBERS
from circuits.variables import as_tuple
from circuits.weights import WeightedCircuit

_MAX_ENTRIES = 1 << 24


def marginals(distribution: WeightedCircuit) -> Float[Tensor, "*batch variables values"]:
    """Return P(variable = value) for every variable and value.

    Returns:
        Shape (*batch, variables, max cardinality), zero beyond a variable's values. Differentiable.
    Cost: one downward pass, O(edges).
    """
    return by_variable(distribution.circuit.compiled, distribution.flows, beyond=0.0)


def marginal(distribution: WeightedCircuit, variables: Sequence[int]) -> Float[Tensor, "..."]:
    """Return the joint table of some variables.

    Args:
        distribution: batch shape (*batch).
        variables: distinct variables; the table's axes follow their order.

    Returns:
        Shape (*batch, k_a, k_b, ...), summing to one. Differentiable once.

    Raises:
        EvidenceError: a variable does not exist or is named twice.
        NotTractableError: the table would have more than 2^24 entries per batch row.
    Cost: one pass that carries a table of the variables seen so far.
    """
    cardinalities = distribution.circuit.cardinalities
    scope = check_variables(variables, len(cardinalities))
    shape = tuple(cardinalities[variable] for variable in scope)
    if prod(shape) > _MAX_ENTRIES:
        raise NotTractableError(
            f"the joint table of variables {list(scope)} has {prod(shape):,} entries per batch row, more than "
            f"{_MAX_ENTRIES:,}. Ask for fewer variables, or sample."
        )
    table = joint_tables(distribution, (scope,)).movedim(0, -1)
    return table.unflatten(-1, shape) if shape else table[..., 0]


def pair_marginals(
    distribution: WeightedCircuit, pairs: Iterable[Sequence[int]]
) -> list[Float[Tensor, "*batch first second"]]:
    """Return the joint tables of many pairs of variables, in one pass for all of them.

    Args:
        distribution: batch shape (*batch).
        pairs: two distinct variables each; pairs may repeat.

    Returns:
        One table per pair, in their order, each of shape (*batch, k_first, k_second) and summing to one.
        Differentiable once.

    Raises:
        EvidenceError: something is not a pair, or names a variable that does not exist or the same one twice.
    Cost: linear in the tables and in the circuit's edges, see `circuits.engine.tables.run`.
    Source: the one-pass expectation of multilinear functions, read before the factors are multiplied in.
    """
    cardinalities = distribution.circuit.cardinalities
    scopes = tuple(
        check_variables(pair, len(cardinalities))
        for pair in as_tuple(pairs, "pair_marginals: the list of pairs", "[(0, 1)]")
    )
    for scope in scopes:
        if len(scope) != 2:
            raise EvidenceError(f"{list(scope)} names {len(scope)} variables; pair_marginals takes pairs (i, j).")
    if not scopes:
        return []
    shapes = [(cardinalities[i], cardinalities[j]) for i, j in scopes]
    tables = joint_tables(distribution, scopes).movedim(0, -1).split([prod(shape) for shape in shapes], -1)
    return [table.unflatten(-1, shape) for table, shape in zip(tables, shapes, strict=True)]


def joint_tables(distribution: WeightedCircuit, scopes: tuple[tuple[int, ...], ...]) -> Tensor:
    """Return P(scope) of scopes that were checked, one after the other, shape (all entries, *batch)."""
    check_tables(distribution.circuit.cardinalities, scopes, distribution.logits.shape[:-1].numel())
    return tables_from(distribution.circuit.compiled, scopes, distribution.flows, distribution.weights)


def check_tables(cardinalities: Sequence[int], scopes: Iterable[Sequence[int]], rows: int = 1) -> None:
    """Refuse joint tables that would not fit into memory."""
    entries = sum(prod(cardinalities[variable] for variable in scope) for scope in scopes)
    if entries * rows > MOST_NUMBERS:
        raise NotTractableError(
            f"the joint tables have {entries:,} entries for each of {rows:,} batch rows, more than {MOST_NUMBERS:,} in "
            "all. Ask for fewer rows or variables at a time, or sample."
        )


def check_variables(variables: Sequence[int], num_variables: int) -> tuple[int, ...]:
    """Return the variables as a tuple of distinct, existing ones, or say which is wrong."""
    scope = as_tuple(variables, "the set of variables", "[0, 2]")
    for variable in scope:
        if isinstance(variable, bool) or not hasattr(variable, "__index__"):
            raise EvidenceError(f"variable {variable!r} is no number; variables are integers from 0.")
        if not 0 <= variable < num_variables:
            raise EvidenceError(f"variable {variable} does not exist; the variables are 0 to {num_variables - 1}.")
    if len(set(scope)) != len(scope):
        raise EvidenceError(f"variables {list(scope)} are not distinct.")
    return tuple(map(int, scope))
