import itertools
import pickle

import networkx
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import factor_q
from factor_q import FactorGraph, StructureError


def test_attributes_follow_the_order_of_each_scope():
    graph = FactorGraph([2, 3, 4], scopes=[(0,), (2, 0), (), [0, 1, 2]])
    assert graph.cardinalities == (2, 3, 4)
    assert graph.scopes == ((0,), (2, 0), (), (0, 1, 2))
    assert (graph.num_variables, graph.num_factors) == (3, 4)
    assert graph.table_shapes == ((2,), (4, 2), (), (2, 3, 4))
    assert graph.table_sizes == (2, 8, 1, 24)
    assert graph.offsets == (0, 2, 10, 11)
    assert graph.num_entries == 35


def test_numpy_integers_are_accepted():
    graph = FactorGraph(numpy.array([2, 3]), [numpy.array([1, 0])])
    assert graph == FactorGraph([2, 3], [(1, 0)])
    assert all(type(value) is int for value in graph.cardinalities + graph.scopes[0])


def test_the_empty_graph_is_legal():
    graph = FactorGraph([], [])
    assert (graph.num_variables, graph.num_factors, graph.num_entries, graph.offsets) == (0, 0, 0, ())
    assert "0 variables" in repr(graph)


@pytest.mark.parametrize(
    ("cardinalities", "scopes", "message"),
    [
        ([2, 0], [], "variable 1 has cardinality 0"),
        ([2, -3], [], "variable 1 has cardinality -3"),
        ([2, 2.5], [], r"cardinality 1 is 2\.5, but it must be an integer"),
        ([2, 2], [(0, 0.5)], r"a variable of scope 0 is 0\.5"),
        ([2, 2], [(0, 2)], r"scope \(0, 2\) names variable 2, but the variables are 0 to 1"),
        ([2, 2], [(-1,)], r"names variable -1"),
        ([2, 2], [(1, 1)], r"scope \(1, 1\) names a variable twice"),
        ([2, 2], [(0, 1), (0, 1)], "add the tables instead"),
        ([2, 2], [(0, 1), (1, 0)], r"scope \(1, 0\) covers the same variables as scope \(0, 1\)"),
        ([2, 2], [(), ()], "add the tables instead"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_broken_rules_are_named(cardinalities, scopes, message):
    with pytest.raises(StructureError, match=message):
        FactorGraph(cardinalities, scopes)


def test_graphs_are_immutable_values():
    graph, same = FactorGraph([2, 3], [(0, 1)]), FactorGraph((2, 3), [[0, 1]])
    assert graph == same
    assert hash(graph) == hash(same)
    assert graph != FactorGraph([2, 3], [(1, 0)])
    assert pickle.loads(pickle.dumps(graph)) == graph
    with pytest.raises(AttributeError):
        graph.scopes = ()


def test_repr_stays_short():
    assert repr(factor_q.complete([6] * 6)) == (
        "FactorGraph(6 variables of 6 values, 21 factors of at most 2 variables, 576 entries)"
    )
    assert "2 to 5 values" in repr(FactorGraph([2, 5]))
    assert len(repr(factor_q.complete([3] * 100))) < 120


def test_interaction_graph_joins_variables_of_one_factor():
    graph = FactorGraph([2, 3, 4, 2], [(0,), (2, 0, 1)]).to_networkx()
    assert {frozenset(edge) for edge in graph.edges} == {frozenset(p) for p in [(0, 1), (0, 2), (1, 2)]}
    assert dict(graph.nodes(data="cardinality")) == {0: 2, 1: 3, 2: 4, 3: 2}


@pytest.mark.parametrize(
    ("num_variables", "order", "groups"), [(5, 2, 10), (5, 3, 10), (2, 3, 1), (1, 2, 0), (0, 2, 0)]
)
def test_complete_has_every_group(num_variables, order, groups):
    graph = factor_q.complete([2] * num_variables, order)
    assert graph.num_factors == num_variables + groups
    assert factor_q.complete([2] * num_variables, order, unary=False).num_factors == (groups or num_variables)


def test_complete_of_order_one_has_no_double_unary_factors():
    assert factor_q.complete([2, 3], order=1).scopes == ((0,), (1,))


def test_ring():
    assert factor_q.ring([2] * 4, unary=False).scopes == ((0, 1), (1, 2), (2, 3), (0, 3))
    assert factor_q.ring([2] * 2, unary=False).scopes == ((0, 1),)
    assert factor_q.ring([2]).scopes == ((0,),)


def test_grid_matches_networkx():
    ours = factor_q.grid([2] * 12, 3, 4).to_networkx()
    theirs = networkx.convert_node_labels_to_integers(networkx.grid_2d_graph(3, 4), ordering="sorted")
    assert {frozenset(edge) for edge in ours.edges} == {frozenset(edge) for edge in theirs.edges}


def test_nearest_neighbors():
    assert factor_q.nearest_neighbors([2] * 4, 2, unary=False).scopes == ((0, 1), (0, 2), (1, 2), (1, 3), (2, 3))
    assert factor_q.nearest_neighbors([2] * 3, 0).scopes == ((0,), (1,), (2,))
    assert factor_q.elimination_width(factor_q.nearest_neighbors([2] * 9, 3)) == 3


@settings(deadline=None, max_examples=60)
@given(num_variables=st.integers(0, 12), extra=st.integers(0, 80), seed=st.integers(0, 5))
def test_random_pairs_cover_every_variable_once_chosen_without_repeats(num_variables, extra, seed):
    count = (num_variables + 1) // 2 + extra
    graph = factor_q.random_pairs([2] * num_variables, count, seed, unary=False)
    every_pair = list(itertools.combinations(range(num_variables), 2))
    assert graph.num_factors == min(count, len(every_pair))
    assert set(graph.scopes) <= set(every_pair)
    if num_variables > 1:
        assert {variable for scope in graph.scopes for variable in scope} == set(range(num_variables))
    assert graph == factor_q.random_pairs([2] * num_variables, count, seed, unary=False)


def test_random_pairs_depend_on_the_seed():
    assert factor_q.random_pairs([2] * 8, 6, seed=0) != factor_q.random_pairs([2] * 8, 6, seed=1)


def test_from_networkx_inverts_to_networkx():
    graph = factor_q.random_pairs([2, 3, 4, 2, 3], 6, seed=3)
    assert factor_q.from_networkx(graph.to_networkx(), graph.cardinalities) == graph
    directed = networkx.DiGraph([(1, 0), (0, 1)])
    assert factor_q.from_networkx(directed, [2, 2], unary=False).scopes == ((0, 1),)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: factor_q.complete([2, 2], order=0), "order is 0"),
        (lambda: factor_q.grid([2] * 5, 2, 3), "2 rows of 3 columns need 6 cardinalities, got 5"),
        (lambda: factor_q.nearest_neighbors([2, 2], -1), "reach is -1"),
        (lambda: factor_q.random_pairs([2] * 5, 2), "ask for at least 3"),
        (lambda: factor_q.from_networkx(networkx.path_graph(["a", "b"]), [2, 2]), "convert_node_labels_to_integers"),
        (lambda: factor_q.from_networkx(networkx.Graph([(0, 0)]), [2]), "node 0 has an edge to itself"),
    ],
)
def test_topologies_refuse_impossible_requests(build, message):
    with pytest.raises(StructureError, match=message):
        build()
