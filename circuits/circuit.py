"""The circuit: an immutable, smooth and decomposable graph over discrete variables, without numbers."""

import operator
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NoReturn

import networkx as nx

from circuits.engine.compiler import compile_layers
from circuits.engine.layers import CompiledCircuit
from circuits.errors import StructureError
from circuits.nodes import Input, Node, Product, Sum, prune
from circuits.properties import Overlap, Properties, check_structure
from circuits.variables import check_cardinalities


class Circuit:
    """A smooth, decomposable circuit over discrete variables; it holds structure and no weights.

    Nodes are stored children first, the root last, and nothing can be changed once it is built. Its numbers are a
    tensor `logits[..., num_parameters]` of unnormalised log weights, kept outside: `CircuitDistribution(circuit,
    logits)` puts the two together.
    Logits are numbered level by level, not node by node: `parameters_of(node)` tells which belong to a node.

    Args:
        cardinalities: number of values of each variable.
        nodes: `Input`, `Product` and `Sum` nodes; children are positions of earlier nodes, the last is the root.
        name: a short word for messages and pictures.
        determinism: why the children of each sum are disjoint, in words, where the construction guarantees it; it is
            believed. None leaves the proof to the circuit.

    Raises:
        StructureError: the graph is not acyclic in the given order, not smooth or not decomposable, the root
            leaves out a variable, or a node does not reach the root. The message names the node.
    """

    cardinalities: tuple[int, ...]
    nodes: tuple[Node, ...]
    name: str
    properties: Properties

    def __init__(
        self,
        cardinalities: Iterable[int],
        nodes: Iterable[Node],
        *,
        name: str = "circuit",
        determinism: str | None = None,
    ) -> None:
        checked, given = check_cardinalities(cardinalities), tuple(nodes)
        for index, node in enumerate(given):
            if not isinstance(node, Node):
                raise StructureError(f"node {index} is a {type(node).__name__}; nodes are Input, Product or Sum.")
        properties = Properties(given, check_structure(checked, given), determinism)
        # The only way past `__setattr__`, which refuses everything.
        vars(self).update(cardinalities=checked, nodes=given, name=name, properties=properties)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"circuits are immutable, so {name!r} cannot be set; build another circuit.")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"circuits are immutable, so {name!r} cannot be deleted; build another circuit.")

    def __deepcopy__(self, memo: object) -> "Circuit":
        return self

    @property
    def scopes(self) -> tuple[int, ...]:
        """The variables below each node, as bit masks."""
        return self.properties.scopes

    @property
    def num_variables(self) -> int:
        """Number of variables."""
        return len(self.cardinalities)

    @property
    def num_nodes(self) -> int:
        """Number of input, product and sum nodes."""
        return len(self.nodes)

    @cached_property
    def num_edges(self) -> int:
        """Number of parent-child pairs."""
        return sum(len(node.children) for node in self.nodes)

    @property
    def num_parameters(self) -> int:
        """Number of logits: one per child of a sum and one per value of an input with several values."""
        return self.compiled.num_parameters

    @property
    def is_smooth(self) -> bool:
        """Whether the children of each sum have equal scopes; proved when the circuit is built."""
        return True

    @property
    def is_decomposable(self) -> bool:
        """Whether the children of each product have disjoint scopes; proved when the circuit is built."""
        return True

    @property
    def is_structured(self) -> bool:
        """Whether every scope is split in one way only, so that the splits form one tree."""
        return self.properties.second_split is None

    @property
    def is_deterministic(self) -> bool:
        """Whether at most one child of each sum can be non-zero for any joint value; True means proved."""
        return self.overlap is None

    @property
    def overlap(self) -> Overlap | None:
        """The first sum whose children were not proved disjoint, with a witness; None when deterministic."""
        return self.properties.overlap

    @cached_property
    def compiled(self) -> CompiledCircuit:
        """The folded layers that all passes run on; built once, on first use."""
        return compile_layers(self.cardinalities, self.nodes)

    def parameters_of(self, node: int) -> slice:
        """Return where the logits of a sum or input node stand in the last dimension of `logits`.

        A sum's logits follow its children, an input's follow its values. Nodes without logits give an empty slice.
        """
        if not -self.num_nodes <= node < self.num_nodes:
            raise StructureError(f"node {node} does not exist; the circuit has nodes 0 to {self.num_nodes - 1}.")
        return self.compiled.parameter_slices.get(node % self.num_nodes, slice(0, 0))

    def to_networkx(self) -> nx.DiGraph:
        """Return the graph with edges from parents to children.

        Node attributes: `kind` (input, product, sum) and for inputs `variable` and `values`; edge attribute
        `position`; graph attributes `cardinalities`, `root` and `name`. `Circuit.from_networkx` reads it back.

        Raises:
            StructureError: a sum has the same child twice, which a simple graph cannot say.
        """
        graph = nx.DiGraph(cardinalities=self.cardinalities, root=self.num_nodes - 1, name=self.name)
        for index, node in enumerate(self.nodes):
            if isinstance(node, Input):
                graph.add_node(index, kind="input", variable=node.variable, values=node.values)
            else:
                if len(set(node.children)) < len(node.children):
                    raise StructureError(f"sum node {index} has a child twice; merge the two edges to draw the graph.")
                graph.add_node(index, kind=type(node).__name__.lower())
                graph.add_edges_from((index, child, {"position": i}) for i, child in enumerate(node.children))
        return graph

    @classmethod
    def from_networkx(cls, graph: nx.DiGraph) -> "Circuit":
        """Build a circuit from a graph with the attributes that `to_networkx` writes.

        Raises:
            StructureError: the graph has a cycle, several roots, or a node without a valid `kind`.
        """
        if not nx.is_directed_acyclic_graph(graph):
            raise StructureError(f"the graph has a cycle: {nx.find_cycle(graph)}.")
        roots = [node for node in graph if graph.in_degree(node) == 0]
        if len(roots) != 1:
            raise StructureError(f"a circuit has one root, but the graph has {len(roots)}: {roots[:5]}.")
        # Children first; the position among equals keeps the order of a graph that to_networkx wrote.
        rank = {node: index for index, node in enumerate(graph)}
        order = list(nx.lexicographical_topological_sort(graph.reverse(copy=False), key=rank.__getitem__))
        new_index = {node: index for index, node in enumerate(order)}
        nodes = [_read_node(graph, node, new_index) for node in order]
        return cls(graph.graph["cardinalities"], nodes, name=graph.graph.get("name") or "circuit")

    def __repr__(self) -> str:
        kinds = [type(node).__name__.lower() for node in self.nodes]
        flags = [name for name in ("structured", "deterministic") if getattr(self, f"is_{name}")]
        return (
            f"Circuit {self.name!r}: {self.num_variables} variables, {self.num_nodes} nodes "
            f"({kinds.count('sum')} sum, {kinds.count('product')} product, {kinds.count('input')} input), "
            f"{self.num_edges} edges, {self.num_parameters} parameters; "
            + ", ".join(["smooth", "decomposable", *flags])
        )


def _read_node(graph: nx.DiGraph, node: object, new_index: dict[object, int]) -> Node:
    attributes = graph.nodes[node]
    kind = attributes.get("kind")
    if kind == "input":
        return Input(int(attributes["variable"]), tuple(int(value) for value in attributes["values"]))
    children = sorted(graph.out_edges(node, data="position", default=0), key=lambda edge: edge[2])
    positions = tuple(new_index[child] for _, child, _ in children)
    if kind == "product":
        return Product(positions)
    if kind == "sum":
        return Sum(positions)
    raise StructureError(f"node {node!r} has kind {kind!r}; it must be 'input', 'product' or 'sum'.")


class CircuitBuilder:
    """Build a circuit by hand, children first.

    Example:
        >>> b = CircuitBuilder([2, 2])
        >>> same = [b.product(b.input(0, [v]), b.input(1, [v])) for v in (0, 1)]
        >>> b.build(b.sum(*same)).is_deterministic
        True
    """

    def __init__(self, cardinalities: Iterable[int], *, name: str = "circuit") -> None:
        self.cardinalities = check_cardinalities(cardinalities)
        self.name = name
        self._nodes: list[Node] = []

    def input(self, variable: int, values: Sequence[int] | int | None = None) -> int:
        """Add an input node over `values` of `variable` (all values when None) and return its handle."""
        variable = operator.index(variable)
        if not 0 <= variable < len(self.cardinalities):
            raise StructureError(f"variable {variable!r} does not exist; there are {len(self.cardinalities)} (from 0).")
        if values is None:
            values = range(self.cardinalities[variable])
        return self._add(
            Input(variable, tuple(map(operator.index, values if isinstance(values, Iterable) else [values])))
        )

    def product(self, *children: int) -> int:
        """Add a product node over children of disjoint scopes and return its handle."""
        return self._add(Product(self._check_children("product", children)))

    def sum(self, *children: int) -> int:
        """Add a sum node over children of equal scope and return its handle."""
        return self._add(Sum(self._check_children("sum", children)))

    def build(self, root: int, *, determinism: str | None = None) -> Circuit:
        """Return the circuit below `root`; nodes that `root` does not reach are left out.

        Args:
            root: handle of the topmost node.
            determinism: as in `Circuit`.

        Raises:
            StructureError: the graph breaks a rule; the message names the node.
        """
        self._check_children("root", (root,))
        nodes, _ = prune(self._nodes, root)
        return Circuit(self.cardinalities, nodes, name=self.name, determinism=determinism)

    def _add(self, node: Node) -> int:
        self._nodes.append(node)
        return len(self._nodes) - 1

    def _check_children(self, kind: str, children: tuple[int, ...]) -> tuple[int, ...]:
        for child in children:
            if not isinstance(child, int) or not 0 <= child < len(self._nodes):
                raise StructureError(
                    f"{kind}: child {child!r} does not exist yet; pass handles of input, product or sum."
                )
        return children
