import math

import pytest
import torch

from factor_q import FactorGraph, Factors, StructureError
from factor_q.approximate import loopy_belief_propagation
from tests.factor_q import factor_oracle as oracle
from tests.factor_q.approximate.models import DOUBLE, TEMPERATURES, build, equal, random_tree, truth
from tests.seeds import first_now


def textbook(cardinalities, scopes, tables, damping, steps):
    """Flooding sum-product in plain loops over probabilities; returns Bethe log Z and the beliefs of variables."""
    pairs = [(f, v) for f, scope in enumerate(scopes) for v in scope]
    to_variable = {(f, v): [1 / cardinalities[v]] * cardinalities[v] for f, v in pairs}

    def to_factor(f, v, a):
        return math.prod(m[a] for (g, w), m in to_variable.items() if w == v and g != f)

    def weights(f):
        for u in oracle.assignments([cardinalities[v] for v in scopes[f]]):
            entry = tables[f]
            for a in u:
                entry = entry[a]
            yield dict(zip(scopes[f], u, strict=True)), math.exp(entry)

    for _ in range(steps):
        new = {}
        for f, v in pairs:
            message = [0.0] * cardinalities[v]
            for u, weight in weights(f):
                message[u[v]] += weight * math.prod(to_factor(f, w, u[w]) for w in scopes[f] if w != v)
            message = [m / sum(message) for m in message]
            mixed = [o**damping * m ** (1 - damping) for o, m in zip(to_variable[f, v], message, strict=True)]
            new[f, v] = mixed
        to_variable = new
    total, beliefs = 0.0, []
    for v, cardinality in enumerate(cardinalities):
        belief = [math.prod(m[a] for (_, w), m in to_variable.items() if w == v) for a in range(cardinality)]
        belief = [b / sum(belief) for b in belief]
        degree = sum(v in scope for scope in scopes)
        total += (1 - degree) * -sum(b * math.log(b) for b in belief if b > 0)
        beliefs.append(belief)
    for f, scope in enumerate(scopes):
        joint = [w * math.prod(to_factor(f, v, u[v]) for v in scope) for u, w in weights(f)]
        for (_, weight), b in zip(weights(f), (j / sum(joint) for j in joint), strict=True):
            total += b * (math.log(weight) - math.log(b)) if b > 0 else 0.0
    return total, beliefs


@pytest.mark.one_in(4)
@pytest.mark.parametrize("seed", first_now(range(100)))
def test_exact_on_trees(seed):
    instance, temperature = random_tree(seed), TEMPERATURES[seed % 3]
    f, (log_z, _) = build(instance), truth(instance, temperature)
    result = loopy_belief_propagation(f, temperature, damping=[0.0, 0.5][seed % 2])
    assert equal(result.log_partition_estimate, log_z)
    for row in range(instance.num_rows):
        if log_z[row] == -torch.inf:
            continue
        assert result.converged[row]
        values = oracle.all_values(instance.cardinalities, instance.scopes, instance.row(row))
        probability = oracle.boltzmann(values, temperature)
        single = torch.zeros_like(result.marginals[row])
        tables = [torch.zeros(shape, dtype=DOUBLE) for shape in f.graph.table_shapes]
        for u, p in probability.items():
            for v, a in enumerate(u):
                single[v, a] += p
            for scope, table in zip(f.scopes, tables, strict=True):
                table[tuple(u[v] for v in scope)] += p
        assert equal(result.marginals[row], single, 1e-8)
        assert equal(result.factor_marginals[row], torch.cat([table.flatten() for table in tables]), 1e-8)


@pytest.mark.parametrize("seed", range(12))
def test_equals_the_textbook_on_graphs_with_loops(seed):
    generator = torch.Generator().manual_seed(seed)
    cardinalities = [2, 3, 2, 3]
    scopes = [(0,), (0, 1), (2, 1), (2, 3), (3, 0), (1, 3, 0)]
    tables = [torch.randn([cardinalities[v] for v in s], generator=generator, dtype=DOUBLE) for s in scopes]
    f = Factors(FactorGraph(cardinalities, scopes), tables)
    result = loopy_belief_propagation(f, damping=0.3, steps=300)
    assert result.converged
    expected, beliefs = textbook(cardinalities, scopes, [table.tolist() for table in tables], 0.3, 300)
    assert result.log_partition_estimate.item() == pytest.approx(expected, abs=1e-8)
    for v, belief in enumerate(beliefs):
        assert result.marginals[v, : cardinalities[v]].tolist() == pytest.approx(belief, abs=1e-7)


@pytest.mark.parametrize("seed", first_now(range(150)))
def test_never_nan_and_minus_infinity_only_where_it_is_true(seed):
    instance = oracle.random_instance(seed)
    f, (log_z, _) = build(instance), truth(instance)
    result = loopy_belief_propagation(f, steps=60)
    for found in (result.log_partition_estimate, result.marginals, result.factor_marginals):
        assert not found.isnan().any()
    claimed = result.log_partition_estimate.flatten() == -torch.inf
    assert (log_z[claimed] == -torch.inf).all()
    sums = result.marginals.sum(-1).reshape(instance.num_rows, -1)[~claimed]
    assert equal(sums, torch.ones(()))


def test_refuses_bad_damping():
    f = Factors(FactorGraph([2], [(0,)]), [torch.zeros(2)])
    with pytest.raises(StructureError, match=r"damping is 1\.0"):
        loopy_belief_propagation(f, damping=1.0)
