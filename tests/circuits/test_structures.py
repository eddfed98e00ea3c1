"""Every registered structure keeps the promises of its row; the proofs agree with enumeration."""

import copy
import pickle
from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits import Circuit, CircuitBuilder, CircuitDistribution, NotTractableError, StructureError, structures
from circuits.properties import Disjointness
from tests import oracles, strategies
from tests.contracts import STRUCTURE_CASES, STRUCTURE_ROWS, Structure, structure_of


def test_every_structure_has_a_row() -> None:
    assert {row.name for row in STRUCTURE_ROWS} == set(structures.STRUCTURES)


@pytest.mark.parametrize(("row", "cards", "keywords"), STRUCTURE_CASES)
def test_a_structure_keeps_its_promises(row: Structure, cards: tuple[int, ...], keywords: dict) -> None:
    if "parents" in keywords and len(keywords["parents"]) != len(cards):
        pytest.fail("the row's parents do not fit its cardinalities")
    circuit = structure_of(row, cards, keywords)
    assert circuit.cardinalities == cards
    assert row.name in circuit.name
    expected = row.size(cards, **keywords)
    assert circuit.num_parameters <= expected
    if row.size_is_exact:
        assert circuit.num_parameters == expected
    nodes = strategies.plain_nodes(circuit)
    assert circuit.is_smooth
    assert circuit.is_decomposable
    assert circuit.is_deterministic == row.is_deterministic == (not oracles.overlapping_sums(cards, nodes))
    assert circuit.is_structured == row.is_structured == oracles.is_structured(nodes)
    # Every joint value is possible, so that a policy can learn any of them.
    pi = CircuitDistribution(circuit, torch.zeros(circuit.num_parameters, dtype=torch.float64))
    log_prob = pi.log_prob(pi.enumerate_support())
    assert torch.isfinite(log_prob).all()
    torch.testing.assert_close(log_prob.exp().sum(), torch.tensor(1.0, dtype=torch.float64))


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("markov_chain", {"order": -1}, "order is -1"),
        ("keep_set", {"labels": 0}, "labels is 0"),
        ("keep_set", {"scopes": [(0, 5)]}, "variable 5"),
        ("tree", {"parents": [-1]}, "1 parents for 2 variables"),
        ("tree", {"parents": [-1, 2]}, "variable 1 has parent 2"),
        ("tree", {"parents": [1, 0]}, "cycle"),
    ],
)
def test_wrong_options_are_refused(name: str, keywords: dict, message: str) -> None:
    with pytest.raises(StructureError, match=message):
        structures.STRUCTURES[name]([2, 3], **keywords)


@pytest.mark.parametrize("cards", [[], [2, 0], [2, -1], [2, True]])
def test_wrong_cardinalities_are_refused(cards: list) -> None:
    for name, keywords in (("mean_field", {}), ("markov_chain", {}), ("keep_set", {}), ("tree", {"parents": [-1] * 2})):
        with pytest.raises(StructureError, match="cardinalit"):
            structures.STRUCTURES[name](cards, **keywords)


@given(strategies.recipes())
@settings(max_examples=300)
def test_the_flags_agree_with_their_definitions(recipe: tuple[str, int]) -> None:
    circuit = strategies.circuit_of(*recipe)
    nodes = strategies.plain_nodes(circuit)
    assert circuit.is_structured == oracles.is_structured(nodes)
    overlapping = oracles.overlapping_sums(circuit.cardinalities, nodes)
    assert circuit.is_deterministic == (not overlapping)
    assert overlapping <= {node for node, _ in Disjointness(circuit.nodes, circuit.scopes).unproved_sums()}
    if circuit.overlap is not None:
        check_witness(circuit)


def check_witness(circuit: Circuit) -> None:
    """The named sum's two children really allow the named values."""
    overlap = circuit.overlap
    assert overlap is not None
    assert overlap.assignment is not None
    node = circuit.nodes[overlap.sum_node]
    assert {overlap.first, overlap.second} <= set(node.children)
    support = oracles.supports(circuit.cardinalities, strategies.plain_nodes(circuit))
    assert set(overlap.assignment) == {v for v in range(circuit.num_variables) if overlap.scope >> v & 1}
    shared = support[overlap.first] & support[overlap.second]
    assert any(all(x[v] == value for v, value in overlap.assignment.items()) for x in shared)


def mixture() -> Circuit:
    """Nodes 2 and 5 are products that overlap, node 6 is their sum."""
    b = CircuitBuilder([2, 2])
    return b.build(b.sum(b.product(b.input(0), b.input(1)), b.product(b.input(0, [1]), b.input(1))))


def test_what_needs_determinism_refuses_and_names_the_node() -> None:
    circuit = mixture()
    assert not circuit.is_deterministic
    check_witness(circuit)
    assert circuit.overlap is not None
    assert circuit.overlap.sum_node == 6
    pi = CircuitDistribution(circuit, torch.zeros(circuit.num_parameters))
    for refused in (pi.entropy, lambda: pi.mode, pi.map, lambda: pi.kl_divergence(pi), pi.total_correlation):
        with pytest.raises(NotTractableError, match=r"sum node 6 .*children 2 and 5.*both allow"):
            refused()
    assert pi.entropy_lower_bound() > 0


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


@pytest.mark.parametrize("name", ["nodes", "scopes", "determinism", "overlap", "second_split", "x"])
def test_what_is_proved_of_a_circuit_cannot_be_changed(name: str) -> None:
    circuit = mixture()
    assert circuit.overlap is not None
    with pytest.raises(FrozenInstanceError, match=f"'{name}'"):
        setattr(circuit.properties, name, None)
    with pytest.raises(FrozenInstanceError, match=f"'{name}'"):
        delattr(circuit.properties, name)
    assert not circuit.is_deterministic


def test_a_circuit_is_its_own_copy_and_comes_back_from_a_pickle() -> None:
    circuit = mixture()
    assert copy.deepcopy(circuit) is circuit
    other = pickle.loads(pickle.dumps(circuit))
    assert (other.nodes, other.scopes, other.overlap) == (circuit.nodes, circuit.scopes, circuit.overlap)


def test_the_same_child_twice_is_an_overlap() -> None:
    b = CircuitBuilder([2])
    x = b.input(0)
    assert not b.build(b.sum(x, x)).is_deterministic


def test_determinism_that_only_an_exact_search_can_prove() -> None:
    """Different splits of one scope: the children differ in variable 0, which no common split shows."""
    b = CircuitBuilder([2, 2, 2])
    first = b.product(b.input(0, [0]), b.product(b.input(1), b.input(2)))
    second = b.product(b.product(b.input(1), b.input(0, [1])), b.input(2))
    circuit = b.build(b.sum(first, second))
    assert circuit.is_deterministic
    assert not circuit.is_structured


def test_a_proof_thousands_of_levels_deep_does_not_crash() -> None:
    """The children differ in the deepest variable only. Proved or not, but never a wrong answer or a crash."""
    n = 3000
    b = CircuitBuilder([2] * n)
    ends = [b.input(n - 1, [0]), b.input(n - 1, [1])]
    for variable in reversed(range(n - 1)):
        both = b.input(variable)
        ends = [b.product(both, end) for end in ends]
    circuit = b.build(b.sum(*ends))
    assert circuit.overlap is None or circuit.overlap.assignment is None


def test_lower_bound_of_a_mixture_of_equal_parts() -> None:
    """By hand: the mixture of two equal fair coins has entropy log 2, and the bound drops only the mixing weights."""
    b = CircuitBuilder([2])
    circuit = b.build(b.sum(b.input(0), b.input(0)))
    pi = CircuitDistribution(circuit, torch.zeros(circuit.num_parameters, dtype=torch.float64))
    torch.testing.assert_close(pi.entropy_lower_bound(), torch.tensor(2.0, dtype=torch.float64).log())


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


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(0, 3))
@settings(max_examples=50)
def test_a_chain_of_order_zero_is_mean_field(cards: list[int], order: int) -> None:
    chain = structures.markov_chain(cards, order=order)
    assert chain.is_deterministic
    if order == 0:
        assert chain.num_parameters == structures.mean_field(cards).num_parameters


@pytest.mark.parametrize("shape", ["auto", "balanced", "chain"])
def test_keep_set_shapes_hold_a_chain_exactly_when_labels_suffice(shape):
    """A chain of 12: a balanced region has two ends, so it needs k squared labels where a chain of regions needs k."""
    scopes = [(i, i + 1) for i in range(11)]
    circuit = structures.keep_set([3] * 12, scopes, labels=9 if shape == "balanced" else 3, shape=shape)
    # Exact means that no coupling is lost: every pair of neighbours is decided together somewhere.
    depth = len(circuit.compiled.layers)
    assert depth <= 16 if shape == "balanced" else depth >= 20
    assert circuit.is_deterministic


def test_keep_set_refuses_an_unknown_shape():
    with pytest.raises(StructureError, match="shape is 'round'"):
        structures.keep_set([2, 2], shape="round")
