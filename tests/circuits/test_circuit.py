"""Circuits and their builder: what is refused at construction, parameters by node, networkx."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings

from circuits import Circuit, CircuitBuilder, CircuitDistribution, StructureError, structures
from tests import strategies


def mixture() -> Circuit:
    """Nodes 2 and 5 are products that overlap, node 6 is their sum."""
    b = CircuitBuilder([2, 2])
    return b.build(b.sum(b.product(b.input(0), b.input(1)), b.product(b.input(0, [1]), b.input(1))))


def test_smoothness_decomposability_and_scope_are_checked_by_node() -> None:
    b = CircuitBuilder([2, 2, 2])
    x, y, z = (b.input(v) for v in range(3))
    with pytest.raises(StructureError, match=r"sum node 2 is not smooth: child 0 covers variables \{0\}, child 1"):
        b.build(b.sum(x, y))
    with pytest.raises(StructureError, match=r"product node 2 is not decomposable: child 0 shares variables \{0\}"):
        b.build(b.product(x, y, x))
    with pytest.raises(StructureError, match=r"leaves out variables \{2\}"):
        b.build(b.product(x, y))
    with pytest.raises(StructureError, match="no children"):
        b.build(b.product())
    assert b.build(b.product(x, y, z)).num_nodes == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((2, [0]), "variable 2"), ((0, [2]), "value 2"), ((0, []), "not empty"), ((0, [1, 1]), "distinct"), ((-1,), "-1")],
)
def test_wrong_inputs_are_refused(arguments: tuple, message: str) -> None:
    b = CircuitBuilder([2, 2])
    with pytest.raises(StructureError, match=message):
        b.build(b.input(*arguments))


def test_handles_that_do_not_exist_are_refused() -> None:
    b = CircuitBuilder([2])
    for call in (b.sum, b.product, b.build):
        with pytest.raises(StructureError, match="child 3 does not exist"):
            call(3)


def test_the_builder_drops_what_the_root_does_not_reach() -> None:
    b = CircuitBuilder([2, 2])
    b.product(b.input(1, [0]), b.input(0, [1]))
    root = b.product(b.input(0), b.input(1))
    b.sum(root, root)
    circuit = b.build(root)
    assert [type(node).__name__ for node in circuit.nodes] == ["Input", "Input", "Product"]


def test_circuit_refuses_nodes_out_of_order_and_unused_ones() -> None:
    nodes = mixture().nodes
    with pytest.raises(StructureError, match="children must be earlier"):
        Circuit([2, 2], nodes[::-1])
    with pytest.raises(StructureError, match="node 2 does not reach the root"):
        Circuit([2, 2], nodes[:6])
    with pytest.raises(StructureError, match="at least one node"):
        Circuit([2, 2], [])


@pytest.mark.parametrize(
    "name",
    [
        "cardinalities",
        "nodes",
        "name",
        "properties",
        "scopes",
        "overlap",
        "is_deterministic",
        "compiled",
        "num_edges",
        "x",
    ],
)
def test_a_circuit_cannot_be_changed(name: str) -> None:
    """`circuit.overlap = None` would switch "exact or refused" off."""
    circuit = mixture()
    with pytest.raises(AttributeError, match=f"circuits are immutable, so '{name}' cannot be set"):
        setattr(circuit, name, None)
    with pytest.raises(AttributeError, match=f"circuits are immutable, so '{name}' cannot be deleted"):
        delattr(circuit, name)
    assert not circuit.is_deterministic


def test_a_circuit_is_its_own_copy_and_comes_back_from_a_pickle() -> None:
    circuit = mixture()
    assert copy.deepcopy(circuit) is circuit
    other = pickle.loads(pickle.dumps(circuit))
    assert (other.nodes, other.scopes, other.overlap) == (circuit.nodes, circuit.scopes, circuit.overlap)


def test_parameters_of_covers_every_logit_once() -> None:
    for seed in range(20):
        circuit = strategies.circuit_of("hand_built_mixture", seed)
        slices = [circuit.parameters_of(index) for index in range(circuit.num_nodes)]
        covered = sorted(i for where in slices for i in range(where.start, where.stop))
        assert covered == list(range(circuit.num_parameters))
    with pytest.raises(StructureError, match="does not exist"):
        circuit.parameters_of(circuit.num_nodes)


@given(strategies.recipes())
@settings(max_examples=100)
def test_networkx_round_trip(recipe: tuple[str, int]) -> None:
    circuit = strategies.circuit_of(*recipe)
    sums = [node.children for node in circuit.nodes if type(node).__name__ == "Sum"]
    if any(len(set(children)) < len(children) for children in sums):
        with pytest.raises(StructureError, match="has a child twice"):
            circuit.to_networkx()
        return
    back = Circuit.from_networkx(circuit.to_networkx())
    assert back.nodes == circuit.nodes
    assert (back.cardinalities, back.name) == (circuit.cardinalities, circuit.name)


def test_networkx_reads_only_circuits() -> None:
    graph = mixture().to_networkx()
    assert graph.number_of_edges() == mixture().num_edges == 6
    assert graph.nodes[3] == {"kind": "input", "variable": 0, "values": (1,)}
    assert graph.nodes[2] == {"kind": "product"}
    graph.nodes[6]["kind"] = "maximum"
    with pytest.raises(StructureError, match="'maximum'"):
        Circuit.from_networkx(graph)
    graph.add_node("alone", kind="input", variable=0, values=(0,))
    with pytest.raises(StructureError, match="2"):
        Circuit.from_networkx(graph)
    graph.add_edge(0, 6)
    with pytest.raises(StructureError, match="cycle"):
        Circuit.from_networkx(graph)


def test_repr_shows_sizes_and_properties() -> None:
    text = repr(structures.markov_chain([2, 3]))
    for part in ("markov_chain", "2 variables", "8 parameters", "structured", "deterministic", "smooth", "edges"):
        assert part in text
    assert "deterministic" not in repr(mixture())
    pi = CircuitDistribution(mixture(), torch.zeros(4, mixture().num_parameters))
    assert "batch_shape=(4,)" in repr(pi)
