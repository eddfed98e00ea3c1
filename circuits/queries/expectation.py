"""Expectation of a sum of factor tables: exact, in one pass, for factors of any size."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import EvidenceError
from circuits.numerics import weighted
from circuits.queries.marginal import check_variables
from circuits.tables import all_joint_tables

if TYPE_CHECKING:
    from circuits.distribution import CircuitDistribution


def expectation(
    distribution: "CircuitDistribution", factors: Iterable[tuple[Sequence[int], Tensor]]
) -> Float[Tensor, "*batch"]:
    """Return E[sum of factor values], exactly.

    Args:
        distribution: batch shape (*batch).
        factors: pairs (scope, table): distinct variables, and a tensor (*batch, k_a, k_b, ...) whose last axes
            follow the scope. Batch shapes broadcast. A table may hold -inf where the probability is zero.

    Returns:
        Shape (*batch), in the tables' unit. Differentiable in weights and tables.

    Raises:
        EvidenceError: a scope names unknown or repeated variables, or a table does not fit its scope.
    Cost: linear in the factors and in the circuit's edges, see `circuits.tables`; no enumeration and no
        pass per table entry.
    Source: exact expectation of multilinear functions under decomposable circuits (Shih and Ermon 2020).
    """
    cardinalities = distribution.circuit.cardinalities
    scopes: list[tuple[int, ...]] = []
    tables: list[Tensor] = []
    for scope, table in factors:
        checked = check_variables(scope, len(cardinalities))
        shape = tuple(cardinalities[variable] for variable in checked)
        if tuple(table.shape[table.dim() - len(shape) :]) != shape or table.dim() < len(shape):
            raise EvidenceError(
                f"the table of scope {list(checked)} has shape {tuple(table.shape)}; it must end in {shape}."
            )
        scopes.append(checked)
        tables.append(table.flatten(table.dim() - len(shape)) if shape else table.unsqueeze(-1))
    if not scopes:
        return distribution.log_weights.new_zeros(distribution.batch_shape)
    probabilities = all_joint_tables(distribution, tuple(scopes)).movedim(0, -1)
    batch = torch.broadcast_shapes(*(table.shape[:-1] for table in tables))
    values = torch.cat([table.expand(*batch, table.shape[-1]) for table in tables], -1)
    return weighted(probabilities, values).sum(-1)
