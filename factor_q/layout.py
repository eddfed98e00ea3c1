"""Index arithmetic and checks behind Factors: where each entry lies in the flat tensor."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from circuits.errors import StructureError
from circuits.shapes import common_shape
from factor_q.graph import FactorGraph, Scope


class Layout(NamedTuple):
    """Index tensors of a graph on one device."""

    offsets: Tensor
    """Position of the first entry of each table, shape (factors,)."""
    columns: Tensor
    """Row j holds the j-th variable of each scope, shape (arity, factors)."""
    strides: Tensor
    """Row j holds the step of that variable in the table, 0 for scopes that are shorter."""
    cardinalities: Tensor
    """Number of values of each variable, shape (variables,)."""


@lru_cache(maxsize=256)
def index_layout(graph: FactorGraph, device: torch.device) -> Layout:
    """Return the tensors that turn assignments into positions; short scopes are padded with stride 0."""
    # One gather per place of a scope instead of one per factor: all scopes are made equally long. A padded place
    # reads variable 0, which is harmless because its stride of 0 moves nothing.
    arity = max((len(scope) for scope in graph.scopes), default=0)
    columns = [scope + (0,) * (arity - len(scope)) for scope in graph.scopes]
    strides = [strides_of(shape) + (0,) * (arity - len(shape)) for shape in graph.table_shapes]

    def tensor(numbers: Sequence[object], *shape: int) -> Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=device).reshape(shape)

    # Without this a first call under inference mode would cache tensors that training cannot use.
    with torch.inference_mode(False):
        return Layout(
            tensor(graph.offsets, graph.num_factors),
            # By place, not by factor: a place is then one contiguous row for index_select.
            tensor(columns, graph.num_factors, arity).t().contiguous(),
            tensor(strides, graph.num_factors, arity).t().contiguous(),
            tensor(graph.cardinalities, graph.num_variables),
        )


@lru_cache(maxsize=4096)
def agent_layout(graph: FactorGraph, agent: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the factors with the agent, those without it, and the agent's stride in the first."""
    own = [i for i, scope in enumerate(graph.scopes) if agent in scope]
    others = [i for i, scope in enumerate(graph.scopes) if agent not in scope]
    strides = [strides_of(graph.table_shapes[i])[graph.scopes[i].index(agent)] for i in own]
    with torch.inference_mode(False):
        own, others, strides = (torch.tensor(x, dtype=torch.long, device=device) for x in (own, others, strides))
    return own, others, strides


@lru_cache(maxsize=256)
def merge(graph: FactorGraph, other: FactorGraph, device: torch.device) -> tuple[FactorGraph, Tensor]:
    """Return the union of two graphs and the position there of every entry of the second."""
    if graph.cardinalities != other.cardinalities:
        raise StructureError(f"f + g: f has cardinalities {graph.cardinalities}, but g has {other.cardinalities}.")
    known = {frozenset(scope) for scope in graph.scopes}
    added = [scope for scope in other.scopes if frozenset(scope) not in known]
    # The first graph's entries keep their places, so that only the second's have to be moved.
    merged = FactorGraph(graph.cardinalities, [*graph.scopes, *added])
    where = {frozenset(scope): i for i, scope in enumerate(merged.scopes)}
    with torch.inference_mode(False):
        pieces = [torch.empty(0, dtype=torch.long)]
        for scope in other.scopes:
            target = where[frozenset(scope)]
            table = torch.arange(merged.table_sizes[target]).reshape(merged.table_shapes[target])
            # The two scopes may name the same variables in another order; the positions are permuted, not the numbers.
            axes = [merged.scopes[target].index(variable) for variable in scope]
            pieces.append(table.permute(axes).flatten() + merged.offsets[target])
        return merged, torch.cat(pieces).to(device)


def strides_of(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the step of each axis of a row-major table."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def flatten_tables(graph: FactorGraph, tables: Sequence[Tensor]) -> Tensor:
    """Check the tables and lay them end to end, broadcast to one batch shape."""
    if not isinstance(graph, FactorGraph) or not isinstance(tables, Sequence):
        raise StructureError(
            f"Factors takes a FactorGraph and a list of tables, not a {type(graph).__name__} and a "
            f"{type(tables).__name__}; one tensor of all entries is for Factors.from_flat."
        )
    if len(tables) != graph.num_factors:
        raise StructureError(f"Factors: got {len(tables)} tables for {graph.num_factors} scopes; give one per scope.")
    for scope, shape, table in zip(graph.scopes, graph.table_shapes, tables, strict=True):
        _check_table(scope, shape, table, tables[0])
    if not tables:
        return torch.zeros(0)
    arities = [len(scope) for scope in graph.scopes]
    batches = [table.shape[: table.ndim - arity] for table, arity in zip(tables, arities, strict=True)]
    batch = common_shape(batches, "Factors")
    pieces = [
        table.reshape(*own_batch, size).expand(*batch, size)
        for table, own_batch, size in zip(tables, batches, graph.table_sizes, strict=True)
    ]
    return torch.cat(pieces, dim=-1)


def _check_table(scope: Scope, shape: tuple[int, ...], table: Tensor, first: Tensor) -> None:
    """Raise unless the table fits its scope and has the type and device of the first table."""
    if not isinstance(table, Tensor):
        raise StructureError(
            f"Factors: the table of scope {scope} is a {type(table).__name__}; pass a tensor (torch.as_tensor)."
        )
    if table.ndim < len(shape) or tuple(table.shape[table.ndim - len(shape) :]) != shape:
        raise StructureError(
            f"Factors: the table of scope {scope} has shape {tuple(table.shape)}, but it must end in "
            f"{shape}, the cardinalities of the scope."
        )
    if not table.is_floating_point():
        raise StructureError(f"Factors: the table of scope {scope} has dtype {table.dtype}; make it floating point.")
    if table.dtype != first.dtype or table.device != first.device:
        raise StructureError(
            f"Factors: the table of scope {scope} is {table.dtype} on {table.device}, but the first table is "
            f"{first.dtype} on {first.device}; all must agree."
        )
