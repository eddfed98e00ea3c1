"""Factors: a factor graph with numbers, a batch of functions of a joint assignment."""

from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from circuits.errors import EvidenceError, StructureError
from circuits.evidence import EvidenceLike
from factor_q.graph import FactorGraph, Scope
from factor_q.layout import agent_layout, check_values, common_shape, flatten_tables, index_layout, merge

Temperature = float | Float[Tensor, "..."]
"""Positive and finite: one number, or a tensor that broadcasts to one per batch row."""


class Factors:
    """A batch of functions f(u) = sum of tables, one table per scope of a factor graph.

    All tables live end to end in one tensor `flat` of shape (*batch, num_entries). An entry of -inf forbids
    every assignment that uses it. Iterating yields (scope, table) pairs.

    Args:
        graph: the scopes.
        tables: one floating tensor (*batch, k_a, k_b, ...) per scope, axes in the order of the scope;
            the leading shapes are broadcast to one batch shape.

    Raises:
        StructureError: a table has the wrong number, shape, dtype or device; the message names its scope.

    Example:
        >>> graph = FactorGraph([2, 3], scopes=[(0,), (0, 1)])
        >>> f = Factors(graph, [torch.zeros(5, 2), torch.ones(2, 3)])
        >>> f.batch_shape, f(torch.tensor([1, 2])).tolist()
        (torch.Size([5]), [1.0, 1.0, 1.0, 1.0, 1.0])
    """

    def __init__(self, graph: FactorGraph, tables: Sequence[Tensor]) -> None:
        self._graph = graph
        self._flat = flatten_tables(graph, tables)

    @classmethod
    def from_flat(cls, graph: FactorGraph, flat: Float[Tensor, "*batch entries"]) -> "Factors":
        """Wrap the entries of all tables, laid end to end in the order of the scopes, without copying.

        Args:
            graph: the scopes.
            flat: entries, shape (*batch, graph.num_entries), each table in row-major order.

        Raises:
            StructureError: the last axis has another length, or the entries are not floating point.
        """
        if flat.ndim == 0 or flat.shape[-1] != graph.num_entries or not flat.is_floating_point():
            raise StructureError(
                f"Factors: flat has shape {tuple(flat.shape)} and dtype {flat.dtype}, but it must be "
                f"floating point and its last axis hold the {graph.num_entries} entries of {graph}."
            )
        factors = cls.__new__(cls)
        factors._graph = graph
        factors._flat = flat
        return factors

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
        if not 0 <= agent < self._graph.num_variables:
            raise EvidenceError(f"gain: agent {agent} is not one of the {self._graph.num_variables} variables.")
        own, others, strides = agent_layout(self._graph, agent, self.device)
        positions = self._positions(values)
        actions = torch.arange(self._graph.cardinalities[agent], device=self.device)
        start = positions[..., own] - values[..., agent, None].long() * strides
        moved = start.unsqueeze(-1) + strides.unsqueeze(-1) * actions
        mine = self._gather(moved.flatten(-2)).unflatten(-1, (len(own), len(actions))).sum(-2)
        return mine + self._gather(positions[..., others]).sum(-1, keepdim=True)

    def condition(self, evidence: EvidenceLike) -> "Factors":
        """Return the factors given evidence, over the same variables; `factor_q.queries.condition` says more."""
        return _queries().condition(self, evidence)

    def max(self, **options: Any) -> tuple[Float[Tensor, "*batch"], Int[Tensor, "*batch variables"]]:
        """Return the exact largest value and an assignment that has it; refuses when too wide.

        `factor_q.max_assignment` says more, and which options there are (order, max_entries, cutset, ...).
        """
        return _queries().max_assignment(self, **options)

    def log_partition(self, temperature: Temperature = 1.0, **options: Any) -> Float[Tensor, "*batch"]:
        """Return log sum_u exp(f(u) / temperature), exact, in nats; refuses when too wide.

        `factor_q.log_partition` says more, and which options there are (order, max_entries, cutset, ...).
        """
        return _queries().log_partition(self, temperature, **options)

    def marginals(self, temperature: Temperature = 1.0, **options: Any) -> Float[Tensor, "*batch variables values"]:
        """Return the Boltzmann probability of every value of every variable; see `factor_q.queries.marginals`."""
        return _queries().marginals(self, temperature, **options)

    def marginal(
        self, variables: Sequence[int], temperature: Temperature = 1.0, **options: Any
    ) -> Float[Tensor, "..."]:
        """Return the Boltzmann probabilities of some variables together; see `factor_q.queries.marginal`."""
        return _queries().marginal(self, variables, temperature, **options)

    def max_marginals(self, **options: Any) -> Float[Tensor, "*batch variables values"]:
        """Return the largest f for every value of every variable; see `factor_q.queries.max_marginals`."""
        return _queries().max_marginals(self, **options)

    def m_best(
        self, count: int, **options: Any
    ) -> tuple[Int[Tensor, "best *batch variables"], Float[Tensor, "best *batch"]]:
        """Return the `count` best assignments and their values, best first; see `factor_q.queries.m_best`."""
        return _queries().m_best(self, count, **options)

    def sample(
        self, sample_shape: Sequence[int] = (), temperature: Temperature = 1.0, **options: Any
    ) -> Int[Tensor, "*points variables"]:
        """Draw exact Boltzmann samples, shape (*sample_shape, *batch, n); see `factor_q.queries.sample`."""
        return _queries().sample(self, sample_shape, temperature, **options)

    def entropy(self, temperature: Temperature = 1.0, **options: Any) -> Float[Tensor, "*batch"]:
        """Return the exact entropy of the Boltzmann distribution, in nats; see `factor_q.queries.entropy`."""
        return _queries().entropy(self, temperature, **options)

    def detach(self) -> "Factors":
        """Return the same numbers cut off from the autograd graph."""
        return type(self).from_flat(self._graph, self._flat.detach())

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Factors":
        """Return the factors on another device, with another floating dtype, or both."""
        return type(self).from_flat(self._graph, self._flat.to(device=device, dtype=dtype))

    def __add__(self, other: "Factors") -> "Factors":
        """Return f + g; the scopes are merged, tables over the same variables are added, batches broadcast.

        Raises:
            StructureError: the two have different cardinalities or batch shapes that do not broadcast.
        """
        if not isinstance(other, Factors):
            return NotImplemented
        same = self.batch_shape == other.batch_shape
        batch = self.batch_shape if same else common_shape([self.batch_shape, other.batch_shape], "f + g")
        if self._graph == other._graph:
            return Factors.from_flat(self._graph, self._flat + other._flat)
        merged, positions = merge(self._graph, other._graph, self.device)
        dtype = torch.promote_types(self.dtype, other.dtype)
        mine, theirs = self._flat.expand(*batch, -1), other._flat.expand(*batch, -1)
        added = mine.new_zeros(*batch, merged.num_entries - self._graph.num_entries)
        total = torch.cat([mine, added], dim=-1).to(dtype).index_add(-1, positions, theirs.to(dtype))
        return Factors.from_flat(merged, total)

    def __sub__(self, other: "Factors") -> "Factors":
        """Return f - g, scopes and batches as in f + g. Forbidden entries of g would become +inf."""
        return self + (-other)

    def __neg__(self) -> "Factors":
        return type(self).from_flat(self._graph, -self._flat)

    def __mul__(self, scale: float | Float[Tensor, "..."]) -> "Factors":
        """Return f scaled by one number, or by one number per batch row (a tensor that broadcasts to batch).

        Forbidden entries stay forbidden only for a positive scale: 0 x -inf is nan.
        """
        factor = scale.unsqueeze(-1) if isinstance(scale, Tensor) else scale
        return type(self).from_flat(self._graph, self._flat * factor)

    __rmul__ = __mul__

    def __truediv__(self, scale: float | Float[Tensor, "..."]) -> "Factors":
        """Return f divided by one number, or by one number per batch row."""
        return self * (1.0 / scale)

    def __repr__(self) -> str:
        return f"Factors({self._graph}, batch_shape={tuple(self.batch_shape)}, dtype={self.dtype})"

    def _positions(self, values: Tensor) -> Int[Tensor, "... factors"]:
        """Return where in `flat` each factor finds its entry, for checked values."""
        layout = index_layout(self._graph, self.device)
        check_values(values, self._graph, layout.cardinalities)
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


def _queries() -> ModuleType:
    """Return the queries, which import this file."""
    from factor_q import queries

    return queries
