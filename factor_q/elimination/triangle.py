"""The sum over all assignments as products of three matrices: for graphs in which everybody meets everybody."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.numerics import NEGATIVE_INFINITY, choose
from factor_q.elimination.plan import Term, sizes
from factor_q.graph import FactorGraph, Scope

LEAST_GAIN = 3
"""How many times as many entries as the matrices elimination's largest table must have: small ones take no time."""
MOST = 2**24
"""Entries, counted so, above which it is not tried."""
PRODUCTS_PER_ENTRY = 32
"""Multiplications of a product of matrices that take as long as one entry of a joined table."""

SIDES = (0, 1), (1, 2), (0, 2)
"""Which blocks are rows and columns of the three matrices."""
AT_ONCE = 2**18
"""Numbers that the matrices of some rows hold together, without gradients: they then stay in the cache."""

Slow = Callable[[Float[Tensor, "rows entries"]], Tensor]
"""Answers for some rows where the products have left the range of numbers."""


class Side(NamedTuple):
    """The tables between two blocks of variables, and within them."""

    terms: tuple[Term, ...]
    """Tables, the order of their axes, and their shapes beside the others: (rows' variables, columns' variables)."""
    merges: tuple[tuple[int, int], ...]
    """Which two of the terms, or of what came of them, are added next: small ones first."""
    shape: tuple[int, int]
    """Assignments of the first block, and of the second."""


class Triangle(NamedTuple):
    """Three blocks a, b, c of variables, of which no table knows all three.

    Then Z = sum over a, c of W_ac (W_ab W_bc)_ac, with the matrices W of exponentials of what two blocks are worth. For
    n variables of k values these have k^(2n/3) entries, where elimination joins k^n; and products are what computers do
    fastest.

    Source: Williams 2005 (2-CSP by matrix multiplication).
    """

    blocks: tuple[tuple[tuple[int, int], ...], ...]
    """Variables of each, with the number of their values."""
    sides: tuple[Side, Side, Side]
    """ab, bc, ac."""
    factor_shapes: tuple[tuple[int, ...], ...]
    """Of all tables."""

    @property
    def entries(self) -> int:
        """Numbers of all matrices, per batch row."""
        return 2 * sum(math.prod(side.shape) for side in self.sides)

    @property
    def rows_at_once(self) -> int:
        """Rows that are worked on together without gradients."""
        return max(1, AT_ONCE // self.entries)

    def held(self, batch: int, with_gradients: bool) -> int:
        """Return the most numbers that are held at once."""
        return self.entries * (batch if with_gradients else min(batch, self.rows_at_once))


@lru_cache(maxsize=256)
def triangle_of(graph: FactorGraph) -> Triangle | None:
    """Return the blocks of a graph; None where a table knows variables of all three, or elimination is as fast."""
    # Variables of one value would be axes that add nothing.
    free = [variable for variable, size in enumerate(graph.cardinalities) if size > 1]
    blocks: list[list[int]] = [[], [], []]
    values = [1, 1, 1]
    for variable in sorted(free, key=lambda v: -graph.cardinalities[v]):
        smallest = values.index(min(values))
        blocks[smallest].append(variable)
        values[smallest] *= graph.cardinalities[variable]
    # Whole numbers: of a thousand variables no other number is large enough.
    held = sum(values[a] * values[b] for a, b in SIDES) + math.prod(values) // PRODUCTS_PER_ENTRY
    if held > MOST or LEAST_GAIN * held > sizes(graph, None).largest:
        return None
    scopes = [tuple(variable for variable in scope if variable in free) for scope in graph.scopes]
    members: list[list[int]] = [[], [], []]
    for factor, scope in enumerate(scopes):
        known = {number for number, block in enumerate(blocks) if set(block) & set(scope)}
        side = next((number for number, pair in enumerate(SIDES) if known <= set(pair)), None)
        if side is None:
            return None
        members[side].append(factor)
    ab, bc, ac = (
        _side(graph, scopes, blocks[a], blocks[b], factors) for (a, b), factors in zip(SIDES, members, strict=True)
    )
    named = tuple(tuple((variable, graph.cardinalities[variable]) for variable in block) for block in blocks)
    return Triangle(named, (ab, bc, ac), tuple(tuple(graph.cardinalities[v] for v in scope) for scope in scopes))


def _side(
    graph: FactorGraph, scopes: Sequence[Scope], rows: Sequence[int], columns: Sequence[int], factors: Sequence[int]
) -> Side:
    axes = [*rows, *columns]
    shapes = [tuple(graph.cardinalities[v] if v in scopes[f] else 1 for v in axes) for f in factors]
    terms = tuple(
        Term(f, tuple(scopes[f].index(v) for v in axes if v in scopes[f]), shape)
        for f, shape in zip(factors, shapes, strict=True)
    )
    # What meets the same variables of the rows is added first, and what knows several of these alone: in the order of
    # the list, all but the first sum would be as large as the matrix.
    merges: list[tuple[int, int]] = []

    def total(of: Iterable[int]) -> int:
        first, *others = of
        for other in others:
            merges.append((first, other))
            first = len(terms) + len(merges) - 1
        return first

    met: dict[tuple[int, ...], list[int]] = {}
    for number, shape in enumerate(shapes):
        met.setdefault(shape[: len(rows)], []).append(number)
    few = [key for key in met if sum(size > 1 for size in key) <= 1]
    many = [key for key in met if key not in few]
    if terms:
        total([total([total(met[key]) for key in keys]) for keys in (few, many) if keys])
    size = [math.prod(graph.cardinalities[v] for v in block) for block in (rows, columns)]
    return Side(terms, tuple(merges), (size[0], size[1]))


class Products(NamedTuple):
    """The matrices at some tables."""

    ab: Float[Tensor, "batch a b"]
    bc: Float[Tensor, "batch b c"]
    joint: Float[Tensor, "batch a c"]
    """W_ac (W_ab W_bc)_ac: how probable the values of the outer blocks are, up to a factor."""
    total: Float[Tensor, " batch"]
    shift: Float[Tensor, " batch"]
    """Logarithm of the factor."""

    @property
    def lost(self) -> Tensor:
        """Rows, (count,), whose largest terms may have become 0: what two blocks like best the third likes little.

        Above the root of the smallest number, all terms that became 0 are together no more than it times their number.
        """
        return (self.total < torch.finfo(self.total.dtype).tiny ** 0.5).nonzero().squeeze(-1)


def log_partition(triangle: Triangle, flat: Float[Tensor, "batch entries"], slow: Slow) -> Float[Tensor, " batch"]:
    """Return log Z of the tables of every row, differentiable.

    Cost: O(k^(2n/3)) exponentials and O(k^n) multiplications per row.
    """
    if len(flat) > triangle.rows_at_once and not (torch.is_grad_enabled() and flat.requires_grad):
        return torch.cat([log_partition(triangle, part, slow) for part in flat.split(triangle.rows_at_once)])
    made = _products(triangle, flat)
    lost = made.lost
    if not len(lost):
        return made.total.log() + made.shift
    again = flat[lost]
    # Wider numbers reach further, and elimination everywhere.
    rest = slow(again) if flat.dtype == torch.float64 else log_partition(triangle, again.double(), slow).to(flat.dtype)
    kept = made.total.index_fill(0, lost, 1.0).log() + made.shift
    return kept.index_put((lost,), rest)


def sample(
    triangle: Triangle,
    flat: Float[Tensor, "batch entries"],
    slow: Slow,
    generator: torch.Generator | None,
    variables: int,
) -> Int[Tensor, "batch variables"]:
    """Draw one assignment per row, exactly: of the outer blocks first, then of the one between them.

    Raises:
        ImpossibleEvidenceError: what `slow` raises where every assignment of a row is forbidden.
    """
    made = _products(triangle, flat)
    lost = made.lost
    if len(lost):
        made = _products(triangle, flat.double())
        lost = made.lost
    row = torch.arange(len(flat), device=flat.device)
    uniform = torch.rand(3, len(flat), dtype=torch.float64, device=flat.device, generator=generator)
    first = _chosen(made.joint.sum(2), uniform[0])
    third = _chosen(made.joint[row, first], uniform[1])
    second = _chosen(made.ab[row, first] * made.bc[row, :, third], uniform[2])
    values = first.new_zeros(len(flat), variables)
    for block, chosen in zip(triangle.blocks, (first, second, third), strict=True):
        for variable, size in reversed(block):
            values[:, variable], chosen = chosen % size, chosen // size
    if len(lost):
        values[lost] = slow(flat[lost])
    return values


def _chosen(weights: Float[Tensor, "batch options"], uniform: Float[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """Draw one option per row; the last one in a row without weights, which is done again."""
    return choose(weights.double(), uniform).clamp_max(weights.shape[1] - 1)


def _products(triangle: Triangle, flat: Float[Tensor, "batch entries"]) -> Products:
    weights, shifts = zip(*(_weights(side, triangle.factor_shapes, flat) for side in triangle.sides), strict=True)
    ab, bc, ac = weights
    joint = (ab @ bc) * ac
    return Products(ab, bc, joint, joint.sum((1, 2)), torch.stack(shifts).sum(0))


def _weights(side: Side, shapes: Sequence[tuple[int, ...]], flat: Tensor) -> tuple[Tensor, Tensor]:
    """Return the exponentials of what two blocks are worth, the largest of which is 1, and the logarithm of that."""
    sizes_of = [math.prod(shape) for shape in shapes]
    tables = flat.split(sizes_of, -1)
    views = []
    for term in side.terms:
        table = tables[term.table].reshape(-1, *shapes[term.table])
        views.append(table.permute(0, *(axis + 1 for axis in term.axes)).reshape(-1, *term.shape))
    for first, second in side.merges:
        views.append(views[first] + views[second])
    worth = views[-1].reshape(len(flat), -1) if views else flat.new_zeros(len(flat), math.prod(side.shape))
    shift = worth.detach().amax(-1)
    shift = shift.masked_fill(shift == NEGATIVE_INFINITY, 0.0)
    return (worth - shift.unsqueeze(-1)).exp().view(-1, *side.shape), shift
