"""Tables: a factor graph with numbers, a batch of functions of a joint assignment, before any query."""

from collections.abc import Iterator, Sequence
from typing import SupportsIndex, TypeVar

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from circuits.errors import EvidenceError, StructureError
from circuits.shapes import check_values, common_shape
from factor_q.graph import FactorGraph, Scope
from factor_q.layout import agent_layout, flatten_tables, index_layout, merge


class Tables:
    """`Factors` without the queries: these work on this class, so that `Factors` can have them as methods."""

    def __init__(self, graph: FactorGraph, tables: Sequence[Tensor]) -> None:
        self._graph = graph
        self._flat = flatten_tables(graph, tables)

    @classmethod
    def from_flat(cls: "type[AnyTables]", graph: FactorGraph, flat: Float[Tensor, "*batch entries"]) -> "AnyTables":
        """Wrap the entries of all tables, laid end to end in the order of the scopes, without copying.

        Args:
            graph: the scopes.
            flat: entries, shape (*batch, graph.num_entries), each table in row-major order.

        Raises:
            StructureError: the last axis has another length, or the entries are not floating point.
        """
        if not isinstance(graph, FactorGraph) or not isinstance(flat, Tensor):
            raise StructureError(
                f"Factors.from_flat takes a FactorGraph and a tensor (torch.as_tensor), not a {type(graph).__name__} "
                f"and a {type(flat).__name__}."
            )
        if flat.ndim == 0 or flat.shape[-1] != graph.num_entries or not flat.is_floating_point():
            raise StructureError(
                f"Factors: flat has shape {tuple(flat.shape)} and dtype {flat.dtype}, but it must be "
                f"floating point and its last axis hold the {graph.num_entries} entries of {graph}."
            )
        tables = cls.__new__(cls)
        tables._graph = graph
        tables._flat = flat
        return tables

    @property
    def graph(self) -> FactorGraph:
        """The scopes."""
        return self._graph

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Number of values of each variable."""
        return self._graph.cardinalities

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """The scopes of the tables, in the order of ``flat``."""
        return self._graph.scopes

    @property
    def flat(self) -> Float[Tensor, "*batch entries"]:
        """All entries, shape (*batch, num_entries)."""
        return self._flat

    @property
    def tables(self) -> tuple[Float[Tensor, "..."], ...]:
        """One view of `flat` per factor, shape (*batch, k_a, k_b, ...)."""
        graph = self._graph
        pieces = self._flat.split(list(graph.table_sizes), dim=-1) if graph.num_factors else ()
        return tuple(
            piece.reshape((*self.batch_shape, *shape)) for piece, shape in zip(pieces, graph.table_shapes, strict=True)
        )

    @property
    def batch_shape(self) -> torch.Size:
        """Shape of the batch of functions."""
        return self._flat.shape[:-1]

    @property
    def dtype(self) -> torch.dtype:
        """Type of the entries."""
        return self._flat.dtype

    @property
    def device(self) -> torch.device:
        """Device of the entries."""
        return self._flat.device

    @property
    def records_gradients(self) -> bool:
        """Whether autograd will hold what is computed from the entries."""
        return torch.is_grad_enabled() and self._flat.requires_grad

    def __iter__(self) -> Iterator[tuple[Scope, Tensor]]:
        return iter(zip(self._graph.scopes, self.tables, strict=True))

    def __len__(self) -> int:
        return self._graph.num_factors

    def __call__(self, values: Num[Tensor, "*points variables"]) -> Float[Tensor, "..."]:
        """Return f at joint assignments.

        Args:
            values: integers of shape (*sample, *batch, n); shorter or size-one leading shapes are broadcast.

        Returns:
            The value of each assignment, shape (*sample, *batch).

        Raises:
            EvidenceError: values has the wrong shape or type, or a value is outside its variable's range.
        Cost: one gather of num_factors entries per assignment; gradients never hold samples x entries.
        """
        return self._gather(self._positions(values)).sum(-1)

    def gain(self, agent: int, values: Num[Tensor, "*points variables"]) -> Float[Tensor, "... actions"]:
        """Return f for every value of one variable, the others fixed.

        Args:
            agent: the variable to vary.
            values: as in a call; the entry of `agent` is checked but not used.

        Returns:
            Shape (*sample, *batch, k_agent): entry a is f(values with the agent's value replaced by a).

        Raises:
            EvidenceError: as in a call, or there is no such agent.
        Cost: num_factors + k_agent x (factors of the agent) entries per assignment.
        """
        if not isinstance(agent, SupportsIndex) or not 0 <= agent < self._graph.num_variables:
            raise EvidenceError(f"gain: agent {agent!r} is not one of the {self._graph.num_variables} variables.")
        own, others, strides = agent_layout(self._graph, agent, self.device)
        positions = self._positions(values)
        actions = torch.arange(self._graph.cardinalities[agent], device=self.device)
        start = positions[..., own] - values[..., agent, None].long() * strides
        moved = start.unsqueeze(-1) + strides.unsqueeze(-1) * actions
        mine = self._gather(moved.flatten(-2)).unflatten(-1, (len(own), len(actions))).sum(-2)
        return mine + self._gather(positions[..., others]).sum(-1, keepdim=True)

    def detach(self: "AnyTables") -> "AnyTables":
        """Return the same numbers cut off from the autograd graph."""
        return type(self).from_flat(self._graph, self._flat.detach())

    def to(
        self: "AnyTables", device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "AnyTables":
        """Return the factors on another device, with another floating dtype, or both."""
        return type(self).from_flat(self._graph, self._flat.to(device=device, dtype=dtype))

    def __add__(self: "AnyTables", other: "Tables") -> "AnyTables":
        """Return f + g; the scopes are merged, tables over the same variables are added, batches broadcast.

        Raises:
            StructureError: the two have different cardinalities or batch shapes that do not broadcast.
        """
        if not isinstance(other, Tables):
            return NotImplemented
        same = self.batch_shape == other.batch_shape
        batch = self.batch_shape if same else common_shape([self.batch_shape, other.batch_shape], "f + g")
        if self._graph == other._graph:
            return type(self).from_flat(self._graph, self._flat + other._flat)
        merged, positions = merge(self._graph, other._graph, self.device)
        dtype = torch.promote_types(self.dtype, other.dtype)
        mine, theirs = self._flat.expand(*batch, -1), other._flat.expand(*batch, -1)
        added = mine.new_zeros(*batch, merged.num_entries - self._graph.num_entries)
        total = torch.cat([mine, added], dim=-1).to(dtype).index_add(-1, positions, theirs.to(dtype))
        return type(self).from_flat(merged, total)

    def __sub__(self: "AnyTables", other: "Tables") -> "AnyTables":
        """Return f - g, scopes and batches as in f + g. Forbidden entries of g would become +inf."""
        return self + (-other)

    def __neg__(self: "AnyTables") -> "AnyTables":
        return type(self).from_flat(self._graph, -self._flat)

    def __mul__(self: "AnyTables", scale: float | Float[Tensor, "..."]) -> "AnyTables":
        """Return f scaled by one number, or by one number per batch row (a tensor that broadcasts to batch).

        Forbidden entries stay forbidden only for a positive scale: 0 x -inf is nan.
        """
        factor = scale.unsqueeze(-1) if isinstance(scale, Tensor) else scale
        return type(self).from_flat(self._graph, self._flat * factor)

    __rmul__ = __mul__

    def __truediv__(self: "AnyTables", scale: float | Float[Tensor, "..."]) -> "AnyTables":
        """Return f divided by one number, or by one number per batch row."""
        return self * (1.0 / scale)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._graph}, batch_shape={tuple(self.batch_shape)}, dtype={self.dtype})"

    def _positions(self, values: Tensor) -> Int[Tensor, "... factors"]:
        """Return where in `flat` each factor finds its entry, for checked values."""
        layout = index_layout(self._graph, self.device)
        check_values(values, self._graph.cardinalities, layout.cardinalities)
        positions = layout.offsets
        for columns, strides in zip(layout.columns, layout.strides, strict=True):
            positions = positions + values.index_select(-1, columns) * strides
        return positions.expand(*values.shape[:-1], -1)

    def _gather(self, positions: Int[Tensor, "*points picks"]) -> Float[Tensor, "... picks"]:
        """Read entries of `flat` at positions (*sample, *batch, picks).

        Samples are moved beside the picks, because the gradient of a gather has the shape of its source:
        gathering from an expanded `flat` would write samples x entries numbers.
        """
        shape = positions.shape[:-1]
        # The first call of torch.broadcast_shapes in a process takes a fifth of a second: it imports sympy.
        if shape[len(shape) - len(self.batch_shape) :] != self.batch_shape:
            shape = common_shape([shape, self.batch_shape], "values and factors")
        num_batch, num_sample = len(self.batch_shape), len(shape) - len(self.batch_shape)
        batch, picks = shape[num_sample:], positions.shape[-1]
        to_back = (*range(num_sample, len(shape)), *range(num_sample), len(shape))
        to_front = (*range(num_batch, len(shape)), *range(num_batch), len(shape))
        index = positions.expand(*shape, picks).permute(to_back).flatten(num_batch)
        found = self._flat.expand(*batch, -1).gather(-1, index)
        return found.unflatten(-1, (*shape[:num_sample], picks)).permute(to_front)


AnyTables = TypeVar("AnyTables", bound=Tables)
"""Tables or what extends them: what comes back is of the type that went in."""
