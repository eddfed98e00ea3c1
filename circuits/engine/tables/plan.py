"""Index plans for `tables`: which rows to mix, multiply and contract, worked out once per (circuit, scopes)."""

from collections import defaultdict
from collections.abc import Iterator
from math import prod

import numpy as np

from circuits.engine.layers import CompiledCircuit, ProductLayer, Rows, SumLayer
from circuits.engine.tables.steps import Contraction, Mix, Outer, TablePlan, drop_zeros, merge_equal, totals_first
from circuits.errors import NotTractableError
from circuits.variables import scope_of

_MOST_INDICES = 2**26
"""That one array of a plan may have: half a gigabyte, and a few of them exist at a time."""
_WASTE = 4
"""A split is contracted as one block of all its parts unless that computes this many times more than needed."""


Part = tuple[int, ...]
"""Variables of a factor that lie inside one region, in increasing order."""


class _Regions:
    """Rows grouped by scope, and products grouped by how they split it."""

    def __init__(self, compiled: CompiledCircuit) -> None:
        self.members: dict[int, list[int]] = defaultdict(list)
        self.local = np.empty(compiled.num_rows, dtype=np.int64)
        for row, scope in enumerate(compiled.row_scopes):
            self.local[row] = len(self.members[scope])
            self.members[scope].append(row)
        self.splits: dict[int, dict[tuple[int, int], list[tuple[int, int, int]]]] = defaultdict(dict)
        scopes = compiled.row_scopes
        for layer in compiled.layers:
            if isinstance(layer, ProductLayer):
                pairs = zip(layer.left.positions.tolist(), layer.right.positions.tolist(), strict=True)
                for row, (left, right) in enumerate(pairs, layer.start):
                    split = self.splits[scopes[row]].setdefault((scopes[left], scopes[right]), [])
                    split.append((row, left, right))


class _Planner:
    def __init__(self, compiled: CompiledCircuit, scopes: tuple[Part, ...]) -> None:
        self.compiled = compiled
        self.cardinalities = compiled.cardinalities
        self.regions = _Regions(compiled)
        self.scopes = scopes
        self.sorted_scopes = [tuple(sorted(scope)) for scope in scopes]
        # Rows 0 and 1 of the buffer are the constants 0 and 1. So an index above 1 means "computed", one above 0
        # "not certainly zero", and tables that depend on no number compare equal wherever they are equal.
        self.num_rows = 2
        self.steps: list[Mix | Outer] = []
        self.tables: dict[tuple[int, Part], np.ndarray] = {}
        """(region, part) -> buffer rows of the conditional tables, shape (region's rows, entries)."""
        self.pending: dict[int, set[Part]] = defaultdict(set)
        self.flow_rows = [np.arange(compiled.num_values)]
        self.contributions: list[tuple[int, np.ndarray, np.ndarray]] = []
        """(factor, entries of its table, where in (flow rows, one, contractions) what they gain stands)."""

    def plan(self) -> TablePlan:
        splits = self._find_splits()
        for split, factors in splits.items():
            for side in split:
                for factor in factors:
                    self._require(side, self._inside(factor, side))
        self._start_tables()
        for layer in self.compiled.layers:
            if isinstance(layer, SumLayer):
                self._mix_layer(layer)
            else:
                self._product_layer(layer)
        undecided = {split: factors for split, factors in splits.items() if not self._read_off(split, factors)}
        steps, contractions = totals_first(self.steps, self._contractions(undecided), self.num_rows)
        entries, repeats = self._entries()
        sizes = [prod(self.cardinalities[v] for v in scope) for scope in self.scopes]
        return TablePlan(
            num_rows=self.num_rows,
            flow_rows=Rows(np.concatenate(self.flow_rows)),
            steps=tuple(steps),
            contractions=tuple(contractions),
            entries=entries,
            repeats=repeats,
            num_entries=sum(sizes),
        )

    def _inside(self, factor: int, region: int) -> Part:
        return tuple(v for v in self.sorted_scopes[factor] if region >> v & 1)

    def _size(self, part: Part) -> int:
        return prod(self.cardinalities[v] for v in part)

    def _find_splits(self) -> dict[tuple[int, int], list[int]]:
        """Return, per (left region, right region), the factors whose scope is divided there."""
        splits: dict[tuple[int, int], list[int]] = defaultdict(list)
        top = (1 << len(self.cardinalities)) - 1
        for factor, scope in enumerate(self.sorted_scopes):
            if len(scope) < 2:
                continue
            mask = scope_of(scope)
            # Many ways lead down to one region of a shared graph; visited once, or their number would be exponential.
            seen, stack = {top}, [top]
            while stack:
                for left, right in self.regions.splits[stack.pop()]:
                    inside = left if mask & ~left == 0 else right if mask & ~right == 0 else None
                    if inside is None:
                        if factor not in splits[left, right]:
                            splits[left, right].append(factor)
                    elif inside not in seen:
                        seen.add(inside)
                        stack.append(inside)
        return splits

    def _require(self, region: int, part: Part) -> None:
        """Note that a region needs the conditional tables of a part, and so do the regions below it."""
        stack = [(region, part)]  # no recursion: chains are as deep as they have variables
        while stack:
            region, part = stack.pop()
            if part in self.pending[region]:
                continue
            self.pending[region].add(part)
            for left, right in self.regions.splits.get(region, {}):
                for side in (left, right):
                    inside = tuple(v for v in part if side >> v & 1)
                    if inside:
                        stack.append((side, inside))

    def _start_tables(self) -> None:
        """Reserve index tables; the indicators' tables are constant: row 1 at the value, row 0 elsewhere."""
        for region, parts in self.pending.items():
            for part in parts:
                shape = (len(self.regions.members[region]), self._size(part))
                _check_memory(part, *shape)
                self.tables[region, part] = np.zeros(shape, dtype=np.int64)
                if region.bit_count() == 1:
                    k = shape[1]
                    self.tables[region, part][:k] = np.eye(k, dtype=np.int64)

    def _by_scope(self, layer: SumLayer | ProductLayer) -> Iterator[tuple[int, np.ndarray]]:
        groups: dict[int, list[int]] = defaultdict(list)
        for row in range(layer.start, layer.stop):
            scope = self.compiled.row_scopes[row]
            if self.pending.get(scope):
                groups[scope].append(row - layer.start)
        for scope, members in groups.items():
            yield scope, np.array(members)

    def _mix_layer(self, layer: SumLayer) -> None:
        children = layer.children.positions.reshape(layer.size, layer.fan_in)
        edges = layer.first_edge + np.arange(layer.size * layer.fan_in).reshape(layer.size, layer.fan_in)
        jobs: dict[tuple[int, int, int], list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]]
        jobs = defaultdict(list)
        for region, members in self._by_scope(layer):
            child_units = self.regions.local[children[members]]
            rows = self.regions.local[members + layer.start]
            for part in sorted(self.pending[region]):
                table = self.tables[region, part]
                _check_memory(part, child_units.size, table.shape[1])
                sources = table[child_units]
                # Weights sum to one, so a mix of one and the same table is that table: rows are shared, not computed.
                same = (sources == sources[:, :1]).all(axis=(1, 2))
                table[rows[same]] = sources[same, 0]
                if same.all():
                    continue
                job = drop_zeros(*merge_equal(sources[~same], edges[members][~same]))
                jobs[job[0].shape[1], job[1].shape[2], job[0].shape[2]].append((*job, table, rows[~same]))
        # Jobs of one shape become one step, whatever their regions. Their rows are numbered only now, so that a step
        # writes one slice; that is in time, because the children of a layer stand in layers before it.
        for group in jobs.values():
            start = self.num_rows
            for sources, _, table, rows in group:
                fresh = self.num_rows + np.arange(sources.shape[0] * sources.shape[2])
                table[rows] = fresh.reshape(len(rows), -1)
                self.num_rows += fresh.size
            all_sources = Rows(np.concatenate([job[0] for job in group]))
            all_edges = Rows(np.concatenate([job[1] for job in group]))
            self.steps.append(Mix(start, self.num_rows, all_sources, all_edges))

    def _product_layer(self, layer: ProductLayer) -> None:
        lefts, rights = [], []
        start = self.num_rows
        scopes = self.compiled.row_scopes
        for region, members in self._by_scope(layer):
            groups: dict[tuple[int, int], list[int]] = defaultdict(list)
            for member in members:
                left, right = layer.left.positions[member], layer.right.positions[member]
                groups[scopes[left], scopes[right]].append(member)
            for sides, joined in groups.items():
                children = (layer.left.positions[joined], layer.right.positions[joined])
                rows = self.regions.local[np.array(joined) + layer.start]
                for part in sorted(self.pending[region]):
                    parts = [tuple(v for v in part if side >> v & 1) for side in sides]
                    found = [
                        self.tables[side, inside][self.regions.local[child]] if inside else None
                        for side, inside, child in zip(sides, parts, children, strict=True)
                    ]
                    target = self.tables[region, part]
                    if found[0] is None or found[1] is None:  # the child without any of the part sums to one
                        target[rows] = found[1] if found[0] is None else found[0]
                        continue
                    _check_memory(part, len(rows), self._size(part))
                    left_rows = found[0][:, self._project(part, parts[0])]
                    right_rows = found[1][:, self._project(part, parts[1])]
                    fresh = self.num_rows + np.arange(left_rows.size).reshape(left_rows.shape)
                    target[rows] = fresh
                    self.num_rows += fresh.size
                    lefts.append(left_rows.reshape(-1))
                    rights.append(right_rows.reshape(-1))
        if lefts:
            self.steps.append(Outer(start, self.num_rows, Rows(np.concatenate(lefts)), Rows(np.concatenate(rights))))

    def _project(self, part: Part, inside: Part) -> np.ndarray:
        """Return, for each entry of the part's table, the entry of the inner part's table that it agrees with."""
        # Entries are numbered with the last variable fastest. `grid` undoes that, a row of values for each variable, so
        # that the inner variables can be numbered again in their order.
        shape = [self.cardinalities[v] for v in part]
        grid = np.indices(shape).reshape(len(part), -1)
        inner = [self.cardinalities[v] for v in inside]
        return np.asarray(np.ravel_multi_index(tuple(grid[part.index(v)] for v in inside), inner))

    def _read_off(self, split: tuple[int, int], factors: list[int]) -> bool:
        """Use flows directly where every product of a split fixes the values of all its factors' variables."""
        left, right = split
        rows, *children = np.array(self.regions.splits[left | right][split]).T
        found: list[tuple[int, np.ndarray]] = []
        for factor in factors:
            parts = (self._inside(factor, left), self._inside(factor, right))
            tables = [
                self.tables[side, part][self.regions.local[units]]
                for side, part, units in zip(split, parts, children, strict=True)
            ]
            # Nothing but the constants, and a single 1 in each row: the unit says which values its variables take.
            if any(table.max() > 1 or (table.sum(1) != 1).any() for table in tables):
                return False
            scope = self.scopes[factor]
            width = self._size(parts[1])
            # The children count entries in increasing variables, the factor in the order of its scope: `entry_at`
            # translates, or a scope written (3, 1) would get its table transposed.
            entry_at = np.empty(self._size(scope), dtype=np.int64)
            entry_at[self._project(scope, parts[0]) * width + self._project(scope, parts[1])] = np.arange(len(entry_at))
            found.append((factor, entry_at[tables[0].argmax(1) * width + tables[1].argmax(1)]))
        start = sum(map(len, self.flow_rows))
        self.flow_rows.append(rows)
        self.contributions += [(factor, entries, start + np.arange(len(rows))) for factor, entries in found]
        return True

    def _contractions(self, splits: dict[tuple[int, int], list[int]]) -> list[Contraction]:
        """Fold splits of equal shape, and note where the entries of their factors end up."""
        jobs: dict[tuple[int, ...], list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = defaultdict(list)
        readers: dict[tuple[int, ...], list[list[tuple[int, np.ndarray]]]] = defaultdict(list)
        for (left, right), factors in splits.items():
            if not factors:
                continue
            flow, left_units, right_units = self._flow_of_split(left, right)
            for group in self._blocks(left, right, factors):
                left_parts = sorted({self._inside(factor, left) for factor in group})
                right_parts = sorted({self._inside(factor, right) for factor in group})
                left_table = np.concatenate([self.tables[left, p][left_units] for p in left_parts], axis=1)
                right_table = np.concatenate([self.tables[right, p][right_units] for p in right_parts], axis=1)
                key = (*flow.shape, left_table.shape[1], right_table.shape[1])
                jobs[key].append((flow, left_table, right_table))
                readers[key].append([(f, self._read(f, left, right, left_parts, right_parts)) for f in group])
        contractions: list[Contraction] = []
        base = sum(map(len, self.flow_rows)) + 1  # behind the flow rows stands the constant one
        for key, group in jobs.items():
            flow, left_table, right_table = (np.stack(parts) for parts in zip(*group, strict=True))
            # An index of -1 would read the last row. Row 0 is read instead, and what it holds counts nothing.
            missing = flow < 0
            flow_rows, gaps = Rows(np.where(missing, 0, flow)), missing if missing.any() else None
            contractions.append(Contraction(flow_rows, gaps, Rows(left_table), Rows(right_table)))
            for members in readers[key]:
                self.contributions += [(factor, np.arange(len(read)), base + read) for factor, read in members]
                base += key[2] * key[3]
        return contractions

    def _flow_of_split(self, left: int, right: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the product row that joins each pair of children (-1 where none), and the children's local rows."""
        triples = np.array(self.regions.splits[left | right][left, right])
        left_units, left_index = np.unique(triples[:, 1], return_inverse=True)
        right_units, right_index = np.unique(triples[:, 2], return_inverse=True)
        flow = np.full((len(left_units), len(right_units)), -1, dtype=np.int64)
        flow[left_index, right_index] = triples[:, 0]
        return flow, self.regions.local[left_units], self.regions.local[right_units]

    def _blocks(self, left: int, right: int, factors: list[int]) -> list[list[int]]:
        """Group the factors of a split: all in one block, or one each when a block would compute too much."""
        # A block holds every left part times every right part, also the pairs that belong to no factor.
        left_size = sum(self._size(p) for p in {self._inside(factor, left) for factor in factors})
        right_size = sum(self._size(p) for p in {self._inside(factor, right) for factor in factors})
        needed = sum(self._size(self.sorted_scopes[factor]) for factor in factors)
        return [factors] if left_size * right_size <= _WASTE * needed else [[factor] for factor in factors]

    def _read(self, factor: int, left: int, right: int, left_parts: list[Part], right_parts: list[Part]) -> np.ndarray:
        """Return where in a flattened block the factor's entries stand, in the order of the factor's scope."""

        def places(side: int, parts: list[Part]) -> np.ndarray:
            inside = self._inside(factor, side)
            # The parts stand side by side, each as wide as its table, so those before this one have to be passed.
            return sum(map(self._size, parts[: parts.index(inside)])) + self._project(self.scopes[factor], inside)

        return places(left, left_parts) * sum(map(self._size, right_parts)) + places(right, right_parts)

    def _entries(self) -> tuple[Rows, Rows | None]:
        sizes = [self._size(scope) for scope in self.scopes]
        first = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        one = sum(map(len, self.flow_rows))
        for factor, scope in enumerate(self.scopes):
            if len(scope) < 2:
                source = self.compiled.offsets[scope[0]] + np.arange(sizes[factor]) if scope else np.array([one])
                self.contributions.append((factor, np.arange(sizes[factor]), source))
        empty = np.empty(0, dtype=np.int64)
        target = np.concatenate([empty, *(first[factor] + entries for factor, entries, _ in self.contributions)])
        source = np.concatenate([empty, *(source for _, _, source in self.contributions)])
        # In the order of the result, contributions that come once each are a plain gather. Only entries with several
        # need an addition by index, whose order, and so whose rounding, a GPU does not fix.
        order = np.argsort(target, kind="stable")
        target, source = target[order], source[order]
        once = np.array_equal(target, np.arange(first[-1]))
        return Rows(source), None if once else Rows(target)


def _check_memory(part: Part, *shape: int) -> None:
    """Refuse a plan that would not fit into memory, before it is tried."""
    if (size := prod(shape)) > _MOST_INDICES:
        raise NotTractableError(
            f"a joint table would need {size:,} indices at once for variables {list(part)}, more than "
            f"{_MOST_INDICES:,}. Ask for variables with fewer values, or sample."
        )


def plan_tables(compiled: CompiledCircuit, scopes: tuple[Part, ...]) -> TablePlan:
    """Work out all indices for the joint tables of some scopes. Cost: linear in rows times pending parts."""
    return _Planner(compiled, scopes).plan()
