"""Folded layers: what a compiled circuit is made of, and what every pass runs over.

Every node is a row of one value buffer. The first rows are the indicators of all (variable, value) pairs; behind them
stand the layers, children first. Logits are numbered in the order of the layers, so each sum layer reads one contiguous
slice, and edge e of the circuit is parameter e. `compiler` says how nodes become layers.
"""

from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

_LONG = 1024
"""From so many positions on, plain numbers are worth two more calls."""


class Rows:
    """Positions of rows in a buffer: a slice where they are contiguous, an index tensor otherwise."""

    def __init__(self, positions: np.ndarray) -> None:
        self.positions = np.ascontiguousarray(positions.reshape(-1), dtype=np.int64)
        self.shape = positions.shape
        first = int(self.positions[0]) if self.positions.size else 0
        # A slice is a view and costs nothing; an index copies. Layers are laid out so that most reads are slices.
        contiguous = np.array_equal(self.positions, np.arange(first, first + self.positions.size))
        self._slice = slice(first, first + self.positions.size) if contiguous else None
        self._is_long = self.positions.size >= _LONG
        self._on_device: dict[torch.device, Tensor] = {}

    @property
    def is_slice(self) -> bool:
        """Whether the rows are contiguous, so that `take` returns a view."""
        return self._slice is not None

    def index(self, device: torch.device) -> Tensor:
        """Return the flat positions as an index tensor on a device (kept for the next call)."""
        if device not in self._on_device:
            # A copy made in inference mode could not be used by autograd later.
            with torch.inference_mode(False):
                self._on_device[device] = torch.as_tensor(self.positions, device=device)
        return self._on_device[device]

    def take(self, buffer: Tensor) -> Tensor:
        """Return the rows, shape (len, ...); a view where they are contiguous."""
        if self._slice is not None:
            return buffer[self._slice]
        index = self.index(buffer.device)
        if self._is_long and buffer.numel() == len(buffer) and buffer.is_contiguous():
            # A batch of one: plain numbers are picked several times faster than rows of length one.
            return buffer.view(-1).index_select(0, index).view(-1, *buffer.shape[1:])
        return buffer.index_select(0, index)

    def add_to(self, buffer: Tensor, amount: Tensor) -> None:
        """Add to the rows in place; repeated positions add up."""
        if self._slice is not None:
            buffer[self._slice] += amount
        elif self._is_long and buffer.numel() == len(buffer) and buffer.is_contiguous():
            buffer.view(-1).scatter_add_(0, self.index(buffer.device), amount.reshape(-1))
        else:
            buffer.index_add_(0, self.index(buffer.device), amount)


@dataclass(frozen=True)
class ProductLayer:
    """Binary products `row[start + i] = row[left[i]] * row[right[i]]`."""

    start: int
    stop: int
    left: Rows
    right: Rows


@dataclass(frozen=True)
class SumLayer:
    """Sums of equal fan-in: `row[start + i] = sum_f weight[first_edge + i * fan_in + f] * row[children[i, f]]`.

    The sums are `blocks` times `width`: the sums of one block have the same children.
    """

    start: int
    stop: int
    fan_in: int
    first_edge: int
    children: Rows
    """Shape (size, fan_in)."""
    inputs: Rows
    """The children of each block, shape (blocks, fan_in)."""
    first_sum: int
    """Number of sums in earlier layers."""

    @property
    def size(self) -> int:
        """Number of sums."""
        return self.stop - self.start

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return self.inputs.shape[0]

    @property
    def width(self) -> int:
        """Sums per block."""
        return self.size // self.blocks

    @property
    def edges(self) -> slice:
        """The layer's slice of the parameters."""
        return slice(self.first_edge, self.first_edge + self.size * self.fan_in)

    @property
    def sums(self) -> slice:
        """Where the layer's sums stand among all sums."""
        return slice(self.first_sum, self.first_sum + self.size)

    def fold(self, edges: Tensor) -> Tensor:
        """View a tensor over this layer's edges, (size * fan_in, ...), as (size, fan_in, ...)."""
        return edges.unflatten(0, (self.size, self.fan_in))

    def matrices(self, edges: Tensor) -> Tensor:
        """View a tensor over this layer's edges, (size * fan_in, ...), as (blocks, width, fan_in, ...)."""
        return edges.unflatten(0, (self.blocks, self.width, self.fan_in))

    def take_inputs(self, buffer: Tensor) -> Tensor:
        """Return the rows that the blocks read, shape (blocks, fan_in, ...)."""
        return self.inputs.take(buffer).unflatten(0, (self.blocks, self.fan_in))

    def outputs(self, buffer: Tensor) -> Tensor:
        """View this layer's rows as (blocks, width, ...)."""
        return buffer[self.start : self.stop].unflatten(0, (self.blocks, self.width))


Layer = ProductLayer | SumLayer


@dataclass(frozen=True)
class CompiledCircuit:
    """What the passes run on; see the module text."""

    cardinalities: tuple[int, ...]
    offsets: tuple[int, ...]
    """First indicator row of each variable; the last entry is the number of indicator rows."""
    layers: tuple[Layer, ...]
    num_rows: int
    root: int
    num_parameters: int
    row_of_node: tuple[int, ...]
    parameter_slices: dict[int, slice]
    """Node index -> slice of the parameters, for nodes that have any."""
    row_scopes: tuple[int, ...]
    """Scope of each row as a bit mask."""
    number: int = field(default_factory=count().__next__, compare=False, repr=False)
    """Stands for this circuit where only plain numbers can go; see `by_number`."""
    cache: dict[object, object] = field(default_factory=dict, compare=False, repr=False)
    """Plans derived from this circuit (joint tables of some scopes, ...), by key."""

    @property
    def num_values(self) -> int:
        """Number of (variable, value) pairs, which are the first rows."""
        return self.offsets[-1]

    @cached_property
    def sum_layers(self) -> tuple[SumLayer, ...]:
        """The layers that have parameters, in the order of their edges."""
        return tuple(layer for layer in self.layers if isinstance(layer, SumLayer))

    @cached_property
    def groups(self) -> tuple[tuple[slice, int], ...]:
        """Runs of parameters whose sums have one fan-in, (slice, fan-in), in the order of the parameters."""
        runs: list[tuple[slice, int]] = []
        for layer in self.sum_layers:
            if runs and runs[-1][1] == layer.fan_in:
                runs[-1] = (slice(runs[-1][0].start, layer.edges.stop), layer.fan_in)
            else:
                runs.append((layer.edges, layer.fan_in))
        return tuple(runs)

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """The rows that each row is made of; none for the indicators."""
        lists: list[tuple[int, ...]] = [()] * self.num_values
        for layer in self.layers:
            if isinstance(layer, ProductLayer):
                lists.extend(zip(layer.left.positions.tolist(), layer.right.positions.tolist(), strict=True))
            else:
                lists.extend(map(tuple, layer.children.positions.reshape(layer.size, layer.fan_in).tolist()))
        return tuple(lists)

    @cached_property
    def is_sum(self) -> np.ndarray:
        """Whether each row is a sum, shape (rows,)."""
        return np.isin(np.arange(self.num_rows), self.edge_sum.positions)

    @cached_property
    def edge_child(self) -> Rows:
        """Row of the child at the end of each edge."""
        parts = [layer.children.positions for layer in self.sum_layers]
        return Rows(np.concatenate([np.empty(0, dtype=np.int64), *parts]))

    @cached_property
    def edge_sum(self) -> Rows:
        """Row of the sum that each edge leaves."""
        parts = [np.repeat(np.arange(layer.start, layer.stop), layer.fan_in) for layer in self.sum_layers]
        return Rows(np.concatenate([np.empty(0, dtype=np.int64), *parts]))

    @cached_property
    def padded_values(self) -> Rows:
        """Position in a padded (variables, max cardinality) table of each (variable, value) pair."""
        width = max(self.cardinalities)
        parts = [variable * width + np.arange(k) for variable, k in enumerate(self.cardinalities)]
        return Rows(np.concatenate(parts))


by_number: WeakValueDictionary[int, CompiledCircuit] = WeakValueDictionary()
"""The compiled circuits that are alive."""
