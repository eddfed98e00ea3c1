"""Compile a circuit once into folded layers, so that a pass costs a few tensor operations per level.

Inputs over several values become sums over indicators, products of many children become balanced trees of binary
products. Rows of one level and fan-in form a layer. Sums that share all their children, in the same order, form a
block, and blocks of one shape a layer for themselves: a block is a small matrix, read once for all its sums.
"""

from collections.abc import Sequence

import numpy as np

from circuits.engine.layers import CompiledCircuit, Layer, ProductLayer, Rows, SumLayer, by_number
from circuits.nodes import Input, Node, Product
from circuits.variables import value_offsets


class _Draft:
    """Rows while the circuit is being compiled: level, kind and children of each."""

    def __init__(self, cardinalities: tuple[int, ...]) -> None:
        self.offsets = value_offsets(cardinalities)
        self.children: list[tuple[int, ...]] = [()] * self.offsets[-1]
        self.level = [0] * self.offsets[-1]
        self.is_sum = [False] * self.offsets[-1]
        self.node = [-1] * self.offsets[-1]
        self.scope = [1 << v for v, k in enumerate(cardinalities) for _ in range(k)]
        self._pairs: dict[tuple[int, int], int] = {}

    def add(self, children: tuple[int, ...], *, is_sum: bool, node: int = -1) -> int:
        self.children.append(children)
        self.level.append(1 + max(self.level[child] for child in children))
        self.is_sum.append(is_sum)
        self.node.append(node)
        scope = 0
        for child in children[:1] if is_sum else children:
            scope |= self.scope[child]
        self.scope.append(scope)
        return len(self.children) - 1

    def add_product(self, children: tuple[int, ...]) -> int:
        """Add a balanced tree of binary products; one child is passed through."""
        parts = list(children)
        while len(parts) > 1:
            # An odd part out waits for the next round.
            paired = [self._pair(a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)]
            parts = paired + parts[len(paired) * 2 :]
        return parts[0]

    def _pair(self, left: int, right: int) -> int:
        """Return the row of a binary product; equal products share one, which joint tables rely on."""
        if (left, right) not in self._pairs:
            self._pairs[left, right] = self.add((left, right), is_sum=False)
        return self._pairs[left, right]


def compile_layers(cardinalities: tuple[int, ...], nodes: Sequence[Node]) -> CompiledCircuit:
    """Fold the checked nodes of a circuit into layers. Cost: linear in nodes and edges."""
    draft = _Draft(cardinalities)
    draft_of_node: list[int] = []
    for index, node in enumerate(nodes):
        if isinstance(node, Input):
            rows = tuple(draft.offsets[node.variable] + value for value in node.values)
            row = rows[0] if len(rows) == 1 else draft.add(rows, is_sum=True, node=index)
        elif isinstance(node, Product):
            row = draft.add_product(tuple(draft_of_node[child] for child in node.children))
        else:
            children = tuple(draft_of_node[child] for child in node.children)
            row = draft.add(children, is_sum=True, node=index)
        draft_of_node.append(row)
    return _fold(cardinalities, draft, draft_of_node)


def _fold(cardinalities: tuple[int, ...], draft: _Draft, draft_of_node: list[int]) -> CompiledCircuit:
    new_row = np.arange(len(draft.children))
    layers: list[Layer] = []
    slices: dict[int, slice] = {}
    scopes = draft.scope[: draft.offsets[-1]]
    start, first_edge, first_sum = draft.offsets[-1], 0, 0
    for (_, is_sum, fan_in, width), members in _groups(draft):
        stop = start + len(members)
        new_row[members] = np.arange(start, stop)
        scopes.extend(draft.scope[row] for row in members)
        # All children have been moved already: they stand on lower levels, which come first.
        children = new_row[np.array([draft.children[row] for row in members])]
        if is_sum:
            layers.append(SumLayer(start, stop, fan_in, first_edge, Rows(children), Rows(children[::width]), first_sum))
            first_sum += len(members)
            for row in members:
                slices[draft.node[row]] = slice(first_edge, first_edge + fan_in)
                first_edge += fan_in
        else:
            layers.append(ProductLayer(start, stop, Rows(children[:, 0]), Rows(children[:, 1])))
        start = stop
    rows = new_row[draft_of_node]
    compiled = CompiledCircuit(
        cardinalities=cardinalities,
        offsets=draft.offsets,
        layers=tuple(layers),
        num_rows=start,
        root=int(rows[-1]),
        num_parameters=first_edge,
        row_of_node=tuple(int(row) for row in rows),
        parameter_slices=slices,
        row_scopes=tuple(scopes),
    )
    by_number[compiled.number] = compiled
    return compiled


_Shape = tuple[int, bool, int, int]
"""Level, whether sums, fan-in, and sums per block (1 for products)."""


def _groups(draft: _Draft) -> list[tuple[_Shape, list[int]]]:
    """Return the rows of each layer in the order of the layers.

    The rows of a block stand side by side. Otherwise rows stand in the order in which the layers above first use them,
    so that in tree-like circuits a layer reads slices of the buffer, which costs no copy.
    """
    blocks: dict[tuple[int, bool, tuple[int, ...]], list[int]] = {}
    for row in range(draft.offsets[-1], len(draft.children)):
        # Equal products share one row already, so only sums can meet here.
        blocks.setdefault((draft.level[row], draft.is_sum[row], draft.children[row]), []).append(row)
    groups: dict[_Shape, list[list[int]]] = {}
    for (level, is_sum, children), block in blocks.items():
        groups.setdefault((level, is_sum, len(children), len(block)), []).append(block)
    # From the top down: where a layer's rows stand follows from who reads them, and that is only known from above.
    first_use = [len(draft.children)] * len(draft.children)
    found = 0
    layers: list[tuple[_Shape, list[int]]] = []
    for shape, members in sorted(groups.items(), reverse=True):
        for block in members:
            block.sort(key=first_use.__getitem__)
        members.sort(key=lambda block: first_use[block[0]])
        read = [draft.children[block[0]] for block in members]
        for child in (c for side in (read if shape[1] else zip(*read, strict=True)) for c in side):
            if first_use[child] == len(draft.children):
                first_use[child] = found
                found += 1
        layers.append((shape, [row for block in members for row in block]))
    return layers[::-1]
