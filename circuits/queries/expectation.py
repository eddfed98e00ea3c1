"""Expectation of a sum of factor tables: exact, in one pass, for factors of any size."""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import prod
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.errors import EvidenceError
from circuits.numerics import weighted
from circuits.queries.marginal import check_tables, check_variables, joint_tables
from circuits.shapes import common_shape
from circuits.variables import as_tuple
from circuits.weights import WeightedCircuit


@runtime_checkable
class FlatTables(Protocol):
    """Pairs (scope, table) that also lie end to end in one tensor, so that thousands need not be read one by one."""

    cardinalities: tuple[int, ...]
    """Number of values of each variable that the scopes may name."""
    scopes: tuple[tuple[int, ...], ...]
    """Distinct variables of each table."""
    flat: Tensor
    """All entries, shape (*batch, entries), each table in row-major order."""


def expectation(
    distribution: WeightedCircuit, factors: Iterable[tuple[Sequence[int], Tensor]]
) -> Float[Tensor, "*batch"]:
    """Return E[sum of factor values], exactly.

    Args:
        distribution: batch shape (*batch).
        factors: pairs (scope, table): distinct variables, and a tensor (*batch, k_a, k_b, ...) whose last axes
            follow the scope. Batch shapes broadcast. A table may hold -inf where the probability is zero.

    Returns:
        Shape (*batch), in the tables' unit. Differentiable in weights and tables.

    Raises:
        EvidenceError: a scope names unknown or repeated variables, a table does not fit its scope, or it holds nan or
            +inf where the probability is not zero.
        StructureError: the batch shapes do not broadcast.
        NotTractableError: the joint tables of the scopes would be too large.
    Cost: linear in the factors and in the circuit's edges, see `circuits.engine.tables.run`; no enumeration and no
        pass per table entry.
    Source: exact expectation of multilinear functions under decomposable circuits (Shih and Ermon 2020).
    """
    if isinstance(factors, FlatTables):
        scopes, values = _check_flat(factors, distribution.circuit)
    else:
        scopes, values = _lay_out(factors, distribution.circuit.cardinalities)
    if not scopes:
        return distribution.log_weights.new_zeros(distribution.batch_shape)
    common_shape([values.shape[:-1], distribution.batch_shape], "tables and distribution")
    probabilities = joint_tables(distribution, scopes).movedim(0, -1)
    answer = weighted(probabilities, values).sum(-1)
    # A finite sum has finite terms only, and usually there are far fewer answers than entries.
    if not torch.compiler.is_compiling() and not bool(answer.detach().sum().isfinite()):
        _check_entries(values, scopes, distribution.circuit.cardinalities)
    return answer


def _check_entries(values: Tensor, scopes: tuple[tuple[int, ...], ...], cardinalities: tuple[int, ...]) -> None:
    """Raise where a table holds nan or +inf, and name its scope."""
    wrong = ~(values.detach() < float("inf"))
    if bool(wrong.any()):
        *_, position = where = wrong.nonzero()[0].tolist()
        sizes = accumulate(prod(cardinalities[variable] for variable in scope) for scope in scopes)
        scope = next(scope for scope, stop in zip(scopes, sizes, strict=True) if position < stop)
        raise EvidenceError(
            f"expectation: the table of scope {list(scope)} holds {values[tuple(where)].item()}; entries are finite "
            "or, where the probability is zero, -inf."
        )


def _check_flat(factors: FlatTables, circuit: Circuit) -> tuple[tuple[tuple[int, ...], ...], Tensor]:
    if tuple(factors.cardinalities) != circuit.cardinalities:
        raise EvidenceError(
            f"the factors are about variables with cardinalities {tuple(factors.cardinalities)}, the circuit has "
            f"{circuit.cardinalities}."
        )
    if ("tables", factors.scopes) not in circuit.compiled.cache:  # else they were checked before
        for scope in factors.scopes:
            check_variables(scope, circuit.num_variables)
    return factors.scopes, factors.flat


def _lay_out(
    factors: Iterable[tuple[Sequence[int], Tensor]], cardinalities: tuple[int, ...]
) -> tuple[tuple[tuple[int, ...], ...], Tensor]:
    """Return the scopes and all tables end to end, shape (*batch, entries)."""
    scopes: list[tuple[int, ...]] = []
    tables: list[Tensor] = []
    for factor in as_tuple(factors, "expectation: the list of factors", "[((0, 1), table)]"):
        if not isinstance(factor, Sequence) or len(factor) != 2 or not isinstance(factor[1], Tensor):
            raise EvidenceError(
                f"expectation: a factor is {factor!r:.80}; give pairs of a scope and a tensor (torch.as_tensor)."
            )
        scope, table = factor
        checked = check_variables(scope, len(cardinalities))
        shape = tuple(cardinalities[variable] for variable in checked)
        if tuple(table.shape[table.dim() - len(shape) :]) != shape or table.dim() < len(shape):
            raise EvidenceError(
                f"the table of scope {list(checked)} has shape {tuple(table.shape)}; it must end in {shape}."
            )
        check_tables(cardinalities, [checked])  # before an expanded table is laid out
        scopes.append(checked)
        tables.append(table.flatten(table.dim() - len(shape)) if shape else table.unsqueeze(-1))
    if not tables:
        return (), torch.empty(0)
    batch = common_shape([table.shape[:-1] for table in tables], "tables")
    return tuple(scopes), torch.cat([table.expand(*batch, table.shape[-1]) for table in tables], -1)
