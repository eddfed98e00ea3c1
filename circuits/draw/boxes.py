"""What a picture of a circuit shows: a box for each node, or for each region of a large circuit."""

from collections.abc import Sequence
from typing import NamedTuple

from circuits.circuit import Circuit
from circuits.distribution import CircuitDistribution
from circuits.draw.style import Labels, number
from circuits.nodes import Input, Product, Sum

_DIAMETER = 0.3
_CHARACTER = 0.073
"""Inches per character of the labels' font, generously."""
_LINE = 0.15
_MAX_VALUES = 8
"""Values of one input that are listed with their probabilities."""
_MAX_CELLS = 24

Numbers = tuple[list[float], list[tuple[float, ...]]]
"""Each node's probability of being used, and the weights of its edges (or values)."""


class Box(NamedTuple):
    """A node or a region."""

    kind: str
    """sum, product, input or region."""
    lines: tuple[str, ...]
    size: tuple[float, float]
    flow: float | None = None
    """Probability that it is used; None without numbers."""
    scope: str = ""
    """What the margin says about it; empty for boxes that say it themselves."""
    bars: tuple[tuple[str, float, str], ...] = ()
    """Value, probability and its text, for inputs over several values."""
    cells: tuple[float, ...] = ()
    """Probability that each unit of a region is used."""


class Edge(NamedTuple):
    """A line from a parent to a child."""

    parent: int
    child: int
    weight: float | None = None
    flow: float | None = None


def flows_and_weights(distribution: CircuitDistribution) -> Numbers:
    """Return what each node of a distribution without batch dimensions adds to the picture.

    Not read from `distribution.flows`, whose rows are shared by equal nodes.
    """
    circuit = distribution.circuit
    table = distribution.weights.detach().cpu().tolist()
    weights = [tuple(table[circuit.parameters_of(node)]) for node in range(circuit.num_nodes)]
    flows = [0.0] * circuit.num_nodes
    flows[-1] = 1.0
    for index in range(circuit.num_nodes - 1, -1, -1):
        node = circuit.nodes[index]
        if isinstance(node, Product):
            for child in node.children:
                flows[child] += flows[index]
        elif isinstance(node, Sum):
            for child, weight in zip(node.children, weights[index], strict=True):
                flows[child] += flows[index] * weight
    return flows, weights


def node_boxes(circuit: Circuit, numbers: Numbers | None, labels: Labels) -> tuple[list[Box], list[Edge]]:
    """Return a box for each node and a line for each edge."""
    boxes: list[Box] = []
    edges: list[Edge] = []
    for index, node in enumerate(circuit.nodes):
        flow = None if numbers is None else numbers[0][index]
        weights = () if numbers is None else numbers[1][index]
        if isinstance(node, Input):
            boxes.append(_input_box(node, circuit.cardinalities[node.variable], flow, weights, labels))
            continue
        kind, symbol = ("sum", "+") if isinstance(node, Sum) else ("product", "\N{MULTIPLICATION SIGN}")
        boxes.append(Box(kind, (symbol,), (_DIAMETER, _DIAMETER), flow, labels.scope(circuit.scopes[index])))
        # A child that a sum has twice gets one line.
        for child in dict.fromkeys(node.children):
            places = [place for place, other in enumerate(node.children) if other == child]
            weight = sum(weights[place] for place in places) if weights else None
            used = flow if weight is None or flow is None else flow * weight
            edges.append(Edge(index, child, weight, used))
    return boxes, edges


def _input_box(node: Input, cardinality: int, flow: float | None, weights: Sequence[float], labels: Labels) -> Box:
    name = labels.variables[node.variable]
    values = [labels.values[node.variable][value] for value in node.values]
    if len(values) > 1 and weights and len(values) <= _MAX_VALUES:
        bars = tuple((text, weight, number(weight)) for text, weight in zip(values, weights, strict=True))
        width = max(_width(name), 0.16 + _CHARACTER * max(map(len, values)) + 0.75)
        return Box("input", (name,), (width, 0.14 + _LINE * (1 + len(bars))), flow, bars=bars)
    if len(values) > _MAX_VALUES:
        text = f"{name}: {len(values)} values"
    elif len(values) == cardinality > 1:
        text = name
    else:
        text = labels.equation(node.variable, node.values)
    return Box("input", (text,), (_width(text), 0.26), flow)


def _width(text: str) -> float:
    return 0.14 + _CHARACTER * len(text)


def region_boxes(
    circuit: Circuit, numbers: Numbers | None, labels: Labels, *, most: int
) -> tuple[list[Box], list[Edge]]:
    """Return a box for each scope, and lines from each to the scopes that it is made of.

    With more than `most` regions only those nearest to the root are kept; their boxes count what is left out below.
    """
    regions = _Regions(circuit)
    kept = regions.nearest(most)
    place = {scope: position for position, scope in enumerate(reversed(kept))}
    boxes = [_region_box(regions, scope, place, numbers, labels) for scope in reversed(kept)]
    edges = [
        Edge(place[scope], place[part], flow=None if numbers is None else regions.use(part, numbers[0]))
        for scope in kept
        for part in regions.parts[scope]
        if part in place
    ]
    return boxes, edges


class _Regions:
    """The nodes of a circuit grouped by scope."""

    def __init__(self, circuit: Circuit) -> None:
        self.edges: dict[int, int] = {}
        self.parts: dict[int, dict[int, None]] = {}
        outside = {circuit.num_nodes - 1}
        for index, node in enumerate(circuit.nodes):
            scope = circuit.scopes[index]
            parts = self.parts.setdefault(scope, {})
            count = len(node.values if isinstance(node, Input) else node.children)
            self.edges[scope] = self.edges.get(scope, 0) + count
            for child in node.children:
                if circuit.scopes[child] != scope:
                    parts[circuit.scopes[child]] = None
                    outside.add(child)
        self.root = circuit.scopes[-1]
        self.units: dict[int, list[int]] = {scope: [] for scope in self.parts}
        """Nodes of each region that other regions see, and the root."""
        for index in sorted(outside):
            self.units[circuit.scopes[index]].append(index)

    def nearest(self, most: int) -> list[int]:
        """Return scopes from the root down, larger ones first among those reached."""
        reached, order = {self.root}, [self.root]
        for scope in order:
            new = [part for part in self.parts[scope] if part not in reached]
            reached.update(new)
            order.extend(new)
        # An edge is drawn downwards, to a lower number. Larger scopes first is an order in which parents precede their
        # parts, whatever the paths.
        return sorted(order[:most], key=lambda scope: (-scope.bit_count(), order.index(scope)))

    def use(self, scope: int, flows: Sequence[float]) -> float:
        """Return the probability that some unit of a region is used."""
        return min(1.0, sum(flows[unit] for unit in self.units[scope]))


def _region_box(regions: _Regions, scope: int, place: dict[int, int], numbers: Numbers | None, labels: Labels) -> Box:
    units, edges = len(regions.units[scope]), regions.edges[scope]
    name = labels.scope(scope)
    noun = "edge" if scope.bit_count() > 1 else "value"
    lines = [name, f"{units} unit{'s' * (units > 1)}, {edges:,} {noun}{'s' * (edges > 1)}"]
    left_out = [part for part in regions.parts[scope] if part not in place]
    if left_out:
        lines.append(f"+ {len(left_out)} regions below" if len(left_out) > 1 else "+ 1 region below")
    cells: tuple[float, ...] = ()
    if numbers is not None and units <= _MAX_CELLS:
        cells = tuple(numbers[0][unit] for unit in regions.units[scope])
    # Text is measured by its characters: the sizes of the font are known only when the picture is painted.
    width = max(*(_width(line) for line in lines), 0.2 + 0.1 * len(cells))
    flow = None if numbers is None else regions.use(scope, numbers[0])
    return Box("region", tuple(lines), (width, 0.14 + 0.16 * len(lines) + 0.2 * bool(cells)), flow, cells=cells)
