"""Structure search on planted graphs, and its parts against plain loops, dense least squares and enumeration."""

import itertools
import math
import random

import numpy as np
import pytest
import torch
from scipy import stats

import factor_q
from circuits import structures
from circuits.errors import EvidenceError, NotTractableError, StructureError
from factor_q import FactorGraph, FactorQ, Factors
from factor_q.structure_learning.fit import TableDesign
from factor_q.structure_learning.order import agent_order, chow_liu_parents, order_cost
from factor_q.structure_learning.rescope import coupling, rescope, rescope_critic
from factor_q.structure_learning.scores import check_samples, interaction_scores
from factor_q.structure_learning.search import learn_factor_graph
from tests.seeds import first_now
from tests.statistical import LEVEL


def planted(seed, cards, scopes, samples, *, noise=0.1, actions=None):
    """Actions, returns, the tables behind them; standard normal unary terms and interactions."""
    rng = np.random.default_rng(seed)
    if actions is None:
        actions = np.stack([rng.integers(0, k, samples) for k in cards], 1)
    tables = {
        scope: rng.normal(0, 1, [cards[v] for v in scope]) for scope in [*((v,) for v in range(len(cards))), *scopes]
    }
    targets = rng.normal(0, noise, samples) if noise else np.zeros(samples)
    for scope, table in tables.items():
        targets = targets + table[tuple(actions[:, v] for v in scope)]
    return torch.from_numpy(actions), torch.from_numpy(targets), tables


def random_scopes(seed, n, order, count):
    return sorted(random.Random(seed).sample(list(itertools.combinations(range(n), order)), count))


def is_recovered(seed, cards, scopes, samples, **options):
    actions, targets, _ = planted(seed, cards, scopes, samples)
    found = learn_factor_graph(cards, actions, targets, **options)
    return sorted(found.interactions) == sorted(scopes) and found.is_converged


@pytest.mark.parametrize("seed", range(10))
def test_six_planted_pairs_are_found_exactly(seed):
    assert is_recovered(seed, [3] * 8, random_scopes(seed, 8, 2, 6), 20_000, max_factors=20)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 150))
def test_six_planted_pairs_are_found_exactly_in_fifty_of_fifty(seed):
    assert is_recovered(seed, [3] * 8, random_scopes(seed, 8, 2, 6), 20_000, max_factors=20)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_forty_pairs_among_twenty_agents_of_unequal_cardinality(seed):
    rng = random.Random(seed)
    cards = rng.sample([1, 1, *(rng.choice([2, 3, 4, 5]) for _ in range(18))], 20)
    free = [v for v, k in enumerate(cards) if k > 1]
    scopes = sorted(rng.sample(list(itertools.combinations(free, 2)), 40))
    assert is_recovered(seed, cards, scopes, 20_000, max_factors=60)


@pytest.mark.parametrize("seed", range(4))
def test_planted_triples_are_found_beside_pairs(seed):
    cards, scopes = [3, 2, 3, 2, 4, 3], [*random_scopes(seed, 6, 2, 3), *random_scopes(seed, 6, 3, 3)]
    actions, targets, _ = planted(seed, cards, scopes, 20_000)
    found = learn_factor_graph(cards, actions, targets, max_factors=20, max_order=3)
    wanted = [scope for scope in scopes if not any(set(scope) < set(other) for other in scopes)]
    assert sorted(found.maximal_interactions) == sorted(wanted)
    parts = {part for scope in scopes for size in (2, 3) for part in itertools.combinations(scope, size)}
    assert set(found.interactions) <= parts
    compact = rescope(found.factors, FactorGraph(cards, [(), *((v,) for v in range(6)), *found.maximal_interactions]))
    assert torch.allclose(compact(actions), found.factors(actions), atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_a_triple_without_pairs_is_found_alone(seed):
    """Parity of three agents: every pair of them is balanced."""
    actions = torch.from_numpy(np.random.default_rng(seed).integers(0, 2, (4_000, 6)))
    noise = torch.from_numpy(np.random.default_rng(50 + seed).normal(0, 1, 4_000))
    targets = 0.3 * (-1.0) ** (actions[:, 0] + actions[:, 2] + actions[:, 5]) + noise
    found = learn_factor_graph([2] * 6, actions, targets, max_factors=5, max_order=3)
    assert found.interactions == ((0, 2, 5),)
    assert abs(found.strengths[0, 2, 5] - 0.09) < 0.05


def test_fitted_tables_equal_the_planted_ones_up_to_noise():
    cards, scopes = [3, 4, 2, 3], [(0, 1), (2, 3)]
    actions, targets, tables = planted(5, cards, scopes, 40_000)
    found = learn_factor_graph(cards, actions, targets, max_factors=5)
    points = np.array(list(itertools.product(*map(range, cards))))
    truth = sum(table[tuple(points[:, v] for v in scope)] for scope, table in tables.items())
    assert np.abs(found.factors(torch.from_numpy(points)).numpy() - truth).max() < 0.02
    assert abs(found.noise_variance / 0.01 - 1) < 6 * math.sqrt(2 / 40_000)
    for scope, strength in found.strengths.items():
        table = tables[scope]
        pure = table - table.mean(0, keepdims=True) - table.mean(1, keepdims=True) + table.mean()
        assert abs(strength / (pure**2).mean() - 1) < 0.02
    for scope, table in found.factors:
        for axis in range(len(scope)):
            assert table.sum(axis).abs().max() < 1e-9
    assert [*found.strengths.values()] == sorted(found.strengths.values(), reverse=True)


@pytest.mark.parametrize("is_weighted", [False, True])
def test_the_fit_is_the_least_squares_solution(is_weighted):
    """Against dense least squares on one-hot columns."""
    cards, scopes = [3, 2, 4], [(0, 1), (1, 2)]
    actions, targets, _ = planted(3, cards, scopes, 3_000)
    rng = np.random.default_rng(8)
    weights = rng.uniform(0.2, 3.0, 3_000) if is_weighted else np.ones(3_000)
    given = torch.from_numpy(weights) if is_weighted else None
    found = learn_factor_graph(cards, actions, targets, max_factors=5, weights=given, ridge=1e-9)
    assert sorted(found.interactions) == scopes
    columns = [
        (actions[:, list(scope)].numpy() == cell).all(1)
        for scope in found.graph.scopes
        for cell in itertools.product(*(range(cards[v]) for v in scope))
    ]
    design = np.stack(columns, 1).astype(float) * np.sqrt(weights)[:, None]
    solution = np.linalg.lstsq(design, targets.numpy() * np.sqrt(weights), rcond=None)[0]
    expected = np.stack(columns, 1) @ solution
    np.testing.assert_allclose(found.factors(actions).numpy(), expected, atol=1e-7)


def plain_score(cards, actions, residuals, scope, weights):
    """Explained variance by plain loops over cells and dense least squares, minus its expectation under noise."""
    residuals = residuals - np.average(residuals, weights=weights)
    variance = (weights**2 * residuals**2).sum() / (weights**2).sum()
    size = weights.sum() ** 2 / (weights**2).sum()
    variance *= size / (size - 1)
    cells, smaller = list(itertools.product(*(range(cards[v]) for v in scope))), []
    for axes in itertools.combinations(range(len(scope)), len(scope) - 1):
        for values in itertools.product(*(range(cards[scope[a]]) for a in axes)):
            smaller.append([all(cell[a] == x for a, x in zip(axes, values, strict=True)) for cell in cells])
    inside = [(actions[:, list(scope)] == cell).all(1) for cell in cells]
    mass = np.array([weights[rows].sum() for rows in inside])
    means = np.array([np.average(residuals[rows], weights=weights[rows]) for rows in inside])
    noise = np.array([variance * (weights[rows] ** 2).sum() / weights[rows].sum() ** 2 for rows in inside])
    root = np.sqrt(mass / mass.sum())
    basis = np.array(smaller, dtype=float).T * root[:, None]
    projector = np.eye(len(cells)) - basis @ np.linalg.pinv(basis)
    left = projector @ (root * means)
    return (left**2).sum() - (np.diag(projector) * root**2 * noise).sum()


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("order", [2, 3])
def test_scores_equal_plain_loops(is_weighted, order):
    cards = [3, 2, 4, 3]
    actions, targets, _ = planted(1, cards, [(0, 1), (1, 2, 3)], 2_000, noise=1.0)
    rng = np.random.default_rng(2)
    weights = rng.uniform(0.1, 2.0, 2_000) if is_weighted else np.ones(2_000)
    given = torch.from_numpy(weights) if is_weighted else None
    found = interaction_scores(cards, actions, targets, order=order, weights=given)
    assert found.scopes == tuple(itertools.combinations(range(4), order))
    normal = weights / weights.mean()
    expected = [plain_score(cards, actions.numpy(), targets.numpy(), scope, normal) for scope in found.scopes]
    np.testing.assert_allclose(found.scores.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_scores_follow_the_candidates_that_are_given():
    cards = [3, 2, 4]
    actions, targets, _ = planted(1, cards, [(0, 2)], 1_000)
    everything = interaction_scores(cards, actions, targets)
    few = interaction_scores(cards, actions, targets, candidates=[(2, 0), (0, 1, 2), (0, 1)])
    assert few.scopes == ((2, 0), (0, 1, 2), (0, 1))
    np.testing.assert_allclose(few.scores[[0, 2]], everything.scores[[1, 0]], rtol=1e-9)
    assert few.p_values.argmin() == 0


def test_unary_effects_are_projected_out():
    """Large row and column effects, and behaviour that prefers some cells: no interaction, so no score."""
    rng = np.random.default_rng(4)
    cell = rng.choice(9, 30_000, p=np.array([8, 1, 1, 2, 6, 1, 1, 3, 7]) / 30)
    actions = torch.from_numpy(np.stack([cell // 3, cell % 3], 1))
    effects = np.array([0.0, 5.0, -3.0])[cell // 3] + np.array([1.0, -4.0, 2.0])[cell % 3]
    noise = rng.normal(0, 0.01, 30_000)
    score = interaction_scores([3, 3], actions, torch.from_numpy(effects + noise)).scores
    assert score.abs().item() < 1e-3 * effects.var()


def false_alarms(seeds, significance, **options):
    """How many of pure-noise data sets give an interaction; unary effects are there."""
    count = 0
    for seed in seeds:
        actions, targets, _ = planted(seed, [3, 2, 4, 3, 2, 3], [], 1_500, noise=2.0)
        found = learn_factor_graph(
            [3, 2, 4, 3, 2, 3], actions, targets, max_factors=10, significance=significance, **options
        )
        count += bool(found.interactions)
    return count


@pytest.mark.full
@pytest.mark.parametrize("max_order", first_now([2, 3], 0.5))
def test_noise_gives_interactions_at_the_stated_rate(max_order):
    """150 searches at 10 percent: at most as many alarms as the level allows, and not none. False alarm: 2e-6."""
    count = false_alarms(range(150), 0.1, max_order=max_order)
    assert stats.binom.sf(count - 1, 150, 0.1) > LEVEL
    assert stats.binom.cdf(count, 150, 0.095) > LEVEL


def test_p_values_of_noise_are_uniform_with_weights_too():
    """28 pairs in each of 40 noise data sets, weights from 0.2 to 5; Kolmogorov-Smirnov. False alarm: 1e-6."""
    p_values = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        actions = torch.from_numpy(rng.integers(0, 3, (3_000, 8)))
        weights = torch.from_numpy(np.exp(rng.uniform(-1.6, 1.6, 3_000)))
        found = interaction_scores([3] * 8, actions, torch.from_numpy(rng.normal(0, 1, 3_000)), weights=weights)
        p_values += found.p_values.tolist()
        assert abs(float(found.scores.mean())) < 6 * float(found.scores.std()) / math.sqrt(28)
    assert stats.kstest(p_values, "uniform").pvalue > LEVEL


@pytest.mark.parametrize("is_weighted", [False, True])
def test_p_values_of_fitted_tables_are_uniform_where_no_table_is_needed(is_weighted):
    """Three superfluous tables in each of 150 fits to noise; Kolmogorov-Smirnov. False alarm: 1e-6."""
    cards, scopes, p_values = [3, 2, 4], [(0, 1), (1, 2), (0, 1, 2)], []
    for seed in range(150):
        actions, targets, _ = planted(seed, cards, [], 1_000, noise=1.0)
        weights = np.exp(np.random.default_rng(seed).uniform(-1.6, 1.6, 1_000))
        given = torch.from_numpy(weights) if is_weighted else None
        fit = TableDesign(cards, check_samples(cards, actions, targets, given), ridge=1e-6).fit(scopes)
        p_values += fit.p_values.values()
    assert stats.kstest(p_values, "uniform").pvalue > LEVEL


def test_tables_that_come_and_go_leave_no_trace():
    cards = [3, 2, 4, 3]
    actions, targets, _ = planted(2, cards, [(0, 1), (1, 2, 3)], 1_000)
    weights = torch.from_numpy(np.random.default_rng(0).uniform(0.5, 2.0, 1_000))
    samples = check_samples(cards, actions, targets, weights)
    walked = TableDesign(cards, samples, ridge=1e-3)
    for scopes in ([], [(0, 1), (2, 3)], [(2, 3)], [(1, 2, 3), (2, 3), (0, 2)], [(0, 2), (0, 1), (1, 2, 3)]):
        walk = walked.fit(scopes)
        fresh = TableDesign(cards, samples, ridge=1e-3).fit(scopes)
        assert torch.allclose(walk.factors.flat, fresh.factors.flat, atol=1e-10)
        assert walk.p_values == pytest.approx(fresh.p_values)


def correlated(seed, samples):
    """Behaviour in which agent 1 copies agent 0 in most rows, and 1 / its probability."""
    rng = np.random.default_rng(seed)
    actions = rng.integers(0, 3, (samples, 5))
    copies = rng.random(samples) < 0.7
    actions[copies, 1] = actions[copies, 0]
    same = actions[:, 0] == actions[:, 1]
    return actions, np.where(same, 1 / (0.7 + 0.1), 1 / 0.1)


@pytest.mark.parametrize("seed", range(4))
def test_correlated_behaviour(seed):
    """(0, 2) shows in (1, 2) when 1 copies 0: without weights in the first scores, with weights not at all."""
    cards, samples = [3] * 5, 20_000
    actions, weights = correlated(seed, samples)
    actions, targets, _ = planted(seed, cards, [(0, 2), (3, 4)], samples, actions=actions)
    given = torch.from_numpy(weights)
    plain = interaction_scores(cards, actions, targets)
    corrected = interaction_scores(cards, actions, targets, weights=given)
    place = plain.scopes.index((1, 2))
    assert plain.p_values[place] < 1e-12
    assert corrected.p_values[place] > 1e-6
    for chosen in (None, given):
        found = learn_factor_graph(cards, actions, targets, max_factors=6, weights=chosen)
        assert sorted(found.interactions) == [(0, 2), (3, 4)]


def test_number_and_width_are_kept():
    cards, scopes = [2] * 5, list(itertools.combinations(range(5), 2))
    actions, targets, tables = planted(2, cards, scopes, 20_000)

    def pure(scope):
        t = tables[scope]
        return float(abs(t[0, 0] - t[0, 1] - t[1, 0] + t[1, 1]))

    ranked = sorted(scopes, key=pure, reverse=True)
    everything = learn_factor_graph(cards, actions, targets, max_factors=20)
    assert sorted(everything.interactions) == scopes
    few = learn_factor_graph(cards, actions, targets, max_factors=3)
    assert sorted(few.interactions) == sorted(ranked[:3])
    narrow = learn_factor_graph(cards, actions, targets, max_factors=20, max_width=1)
    assert factor_q.elimination_width(narrow.graph) == 1
    assert len(narrow.interactions) == 4
    assert narrow.is_converged
    none = learn_factor_graph(cards, actions, targets, max_factors=20, max_width=0)
    assert none.interactions == ()
    assert none.graph.scopes == ((), *((v,) for v in range(5)))


def test_a_superfluous_pair_is_dropped_again():
    """A copy of agent 0 makes (1, 2) significant at first; the search takes it back when (0, 2) is there."""
    cards, samples = [3] * 3, 5_000
    rng = np.random.default_rng(0)
    actions = rng.integers(0, 3, (samples, 3))
    copies = rng.random(samples) < 0.9
    actions[copies, 1] = actions[copies, 0]
    actions, targets, _ = planted(0, cards, [(0, 2)], samples, actions=actions)
    found = learn_factor_graph(cards, actions, targets, max_factors=3)
    assert found.interactions == ((0, 2),)
    assert interaction_scores(cards, actions, targets).p_values[2] < 1e-12


def test_targets_without_noise_are_explained_exactly():
    cards, scopes = [3, 2, 3, 4], [(0, 1), (0, 2)]
    actions, targets, _ = planted(6, cards, scopes, 3_000, noise=0.0)
    found = learn_factor_graph(cards, actions, targets, max_factors=6)
    assert sorted(found.interactions) == scopes
    assert (found.factors(actions) - targets).abs().max() < 1e-4
    constant = learn_factor_graph(cards, actions, torch.ones(3_000), max_factors=6)
    assert constant.interactions == ()
    assert constant.factors(actions[:1]).item() == pytest.approx(1.0)


def test_values_that_never_occur_are_settled_by_the_ridge():
    cards = [4, 3, 3]
    actions, targets, _ = planted(7, cards, [(0, 1)], 4_000)
    seen = (actions[:, 0] < 3) & ~((actions[:, 0] == 1) & (actions[:, 1] == 2))
    found = learn_factor_graph(cards, actions[seen], targets[seen], max_factors=3)
    assert found.interactions == ((0, 1),)
    assert abs(found.noise_variance / 0.01 - 1) < 0.2
    with pytest.raises(EvidenceError, match="positive ridge"):
        learn_factor_graph(cards, actions[seen], targets[seen], max_factors=3, ridge=0.0)


def test_search_repeats_itself_and_tells_its_rounds():
    cards, scopes = [3] * 5, [(0, 3), (1, 2)]
    actions, targets, _ = planted(9, cards, scopes, 5_000)
    first, second = (learn_factor_graph(cards, actions, targets, max_factors=5) for _ in range(2))
    assert first.interactions == second.interactions
    assert torch.equal(first.factors.flat, second.factors.flat)
    assert {scope for step in first.history for scope in step.added} >= set(scopes)
    assert first.history[-1].variance == pytest.approx(first.noise_variance)
    short = learn_factor_graph(cards, actions, targets, max_factors=5, rounds=1)
    assert not short.is_converged


def test_learned_factors_answer_elimination():
    cards, scopes = [3] * 4, [(0, 1), (1, 2)]
    actions, targets, tables = planted(3, cards, scopes, 20_000)
    found = learn_factor_graph(cards, actions, targets, max_factors=4)
    points = np.array(list(itertools.product(*map(range, cards))))
    truth = sum(table[tuple(points[:, v] for v in scope)] for scope, table in tables.items())
    assert found.factors.max()[1].tolist() == points[truth.argmax()].tolist()


BAD = [
    ({"max_factors": -1}, StructureError, "max_factors"),
    ({"max_order": 1}, StructureError, "max_order"),
    ({"max_width": -1}, StructureError, "max_width"),
    ({"significance": 0.0}, StructureError, "significance"),
    ({"significance": 1.0}, StructureError, "significance"),
    ({"rounds": 0}, StructureError, "rounds"),
    ({"ridge": -1.0}, StructureError, "ridge"),
    ({"ridge": math.nan}, StructureError, "ridge"),
    ({"weights": torch.ones(3)}, EvidenceError, "weights"),
    ({"weights": -torch.ones(200)}, EvidenceError, "weight"),
    ({"targets": torch.full((200,), math.nan)}, EvidenceError, "target of row 0"),
    ({"targets": torch.ones(199)}, EvidenceError, "targets have shape"),
    ({"targets": torch.ones(200, dtype=torch.long)}, EvidenceError, "floating-point"),
    ({"actions": torch.full((200, 3), 2)}, EvidenceError, "actions row 0"),
    ({"actions": torch.full((200, 3), -1)}, EvidenceError, "missing"),
    ({"actions": torch.zeros(200, 2, dtype=torch.long)}, EvidenceError, "actions has shape"),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD)
def test_bad_input_is_refused(change, error, text, without_type_checks):
    actions, targets, _ = planted(0, [2] * 3, [], 200)
    arguments = {"actions": actions, "targets": targets, "max_factors": 2, **change}
    with pytest.raises(error, match=text):
        learn_factor_graph([2] * 3, **arguments)


def test_too_little_data_and_too_large_a_fit_are_refused():
    actions, targets, _ = planted(0, [4] * 5, [], 15)
    with pytest.raises(EvidenceError, match="cannot fit 16 numbers"):
        learn_factor_graph([4] * 5, actions, targets, max_factors=2)
    weights = torch.tensor([1.0] + [1e-6] * 14)
    with pytest.raises(EvidenceError, match="effective"):
        learn_factor_graph([2] * 5, actions % 2, targets, max_factors=2, weights=weights)
    actions, targets, _ = planted(0, [20] * 30, [], 50)
    with pytest.raises(NotTractableError, match="most is 20,000"):
        learn_factor_graph([20] * 30, actions, targets, max_factors=200)
    for candidates in ([(0,)], [(0, 30)], [(0, 1), (1, 0)], [(0, 0)]):
        with pytest.raises(StructureError):
            interaction_scores([20] * 30, actions, targets, candidates=candidates)
    with pytest.raises(StructureError, match="at least 2"):
        interaction_scores([20] * 30, actions, targets, order=1)


def dense(factors):
    """The value of every assignment by the oracle's loops."""
    cards = factors.cardinalities
    values = [
        sum(table[..., *(u[v] for v in scope)] if scope else table for scope, table in factors)
        for u in itertools.product(*map(range, cards))
    ]
    return torch.stack(values, -1)


def indicator_design(graph):
    """One column per table entry, one row per assignment."""
    points = list(itertools.product(*map(range, graph.cardinalities)))
    cells = [(s, c) for s in graph.scopes for c in itertools.product(*(range(graph.cardinalities[v]) for v in s))]
    return np.array([[all(u[v] == x for v, x in zip(s, c, strict=True)) for s, c in cells] for u in points], float)


def random_factors(seed, cards, scopes, batch=()):
    generator = torch.Generator().manual_seed(seed)
    graph = FactorGraph(cards, scopes)
    return Factors.from_flat(graph, torch.randn(*batch, graph.num_entries, generator=generator, dtype=torch.float64))


OLD = [(2, 0), (1,), (1, 2, 3), (0, 3), ()]
NEW = [
    [(0,), (1,), (2,), (3,), ()],
    [(0, 2), (3, 1), (2,)],
    [(3, 2, 1, 0)],
    [(0, 2), (2, 1, 3), (3, 0), (1, 0)],
    [(0, 1), (2, 3)],
    [(1,)],
    [()],
    [],
]


@pytest.mark.parametrize("new", NEW)
@pytest.mark.parametrize("batch", [(), (2,)])
def test_rescope_is_the_closest_function_on_the_new_graph(new, batch):
    """Against dense least squares over all joint assignments."""
    old = random_factors(0, [2, 3, 2, 4], OLD, batch)
    graph = FactorGraph([2, 3, 2, 4], new)
    found = rescope(old, graph)
    assert found.graph is graph
    assert found.batch_shape == batch
    target = dense(old).reshape(-1, 48).numpy().T
    design = indicator_design(graph) if new else np.zeros((48, 1))
    expected = design @ np.linalg.lstsq(design, target, rcond=None)[0]
    values = dense(found).reshape(-1, 48).numpy().T if new else np.zeros_like(target)
    np.testing.assert_allclose(values, expected, atol=1e-10)


def test_rescope_carries_whole_tables_as_they_are():
    old = random_factors(1, [2, 3, 2, 4], [(2, 0), (1,)])
    tables = list(old.tables)
    tables[0] = tables[0].masked_fill(torch.eye(2, dtype=torch.bool), -math.inf)
    old = Factors(old.graph, tables)
    found = rescope(old, FactorGraph([2, 3, 2, 4], [(0, 2), (1,), (3, 1)]))
    assert torch.equal(found.tables[0], tables[0].T)
    assert torch.equal(found.tables[1], tables[1])
    assert found.tables[2].eq(0).all()
    with pytest.raises(StructureError, match="not finite"):
        rescope(old, FactorGraph([2, 3, 2, 4], [(0,), (1,)]))
    with pytest.raises(StructureError, match="cardinalities"):
        rescope(old, FactorGraph([2, 3, 2], [(0,)]))


def test_rescope_has_gradients():
    old = random_factors(2, [2, 3, 2], [(0, 1), (1, 2)])
    graph = FactorGraph([2, 3, 2], [(0,), (1, 2), ()])
    flat = old.flat.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: rescope(Factors.from_flat(old.graph, x), graph).flat, (flat,))


def test_a_rescoped_critic_starts_where_the_old_one_stands():
    torch.manual_seed(0)
    old_graph = FactorGraph([2, 3, 2], [(0,), (0, 1), (2, 1)])
    graph = FactorGraph([2, 3, 2], [(), (0,), (1,), (2,), (1, 0), (0, 2)])
    critic = FactorQ(old_graph, observation_size=4, hidden=(8, 5)).double()
    for parameter in critic.parameters():
        torch.nn.init.normal_(parameter)
    state = torch.randn(6, 4, dtype=torch.float64)
    new = rescope_critic(critic, graph)
    assert torch.allclose(new(state).flat, rescope(critic(state), graph).flat, atol=1e-12)
    assert new(state).tables[-1].eq(0).all()
    new(state).flat.sum().backward()
    assert all(parameter.grad is None for parameter in critic.parameters())
    with pytest.raises(StructureError, match="per agent"):
        rescope_critic(FactorQ(old_graph, 4, per_agent=True), graph)


def test_replay_residuals_show_what_a_critic_misses():
    """A critic that knows (0, 1) but not (1, 2): its residuals on replay name (1, 2)."""
    cards = [3, 3, 3]
    actions, targets, tables = planted(4, cards, [(0, 1), (1, 2)], 5_000)
    known = FactorGraph(cards, [(0,), (1,), (2,), (0, 1)])
    critic = Factors(known, [torch.from_numpy(tables[scope]) for scope in known.scopes])
    found = learn_factor_graph(cards, actions, targets - critic(actions), max_factors=3)
    assert found.interactions == ((1, 2),)
    union = rescope(critic, (critic + found.factors).graph) + found.factors
    assert (union(actions) - targets).square().mean() < 0.011


def test_coupling_is_the_variance_of_the_interactions():
    cards, factors = [2, 3, 2], random_factors(3, [2, 3, 2], [(1, 0), (0, 1, 2), (2,), ()], (2,))
    values = dense(factors).reshape(2, *cards).numpy()
    found = coupling(factors).numpy()
    part = {}
    for size in range(4):
        for scope in itertools.combinations(range(3), size):
            others = tuple(a + 1 for a in range(3) if a not in scope)
            own = values.mean(others, keepdims=True) if others else values
            part[scope] = own - sum(x for s, x in part.items() if set(s) < set(scope))
    for first, second in itertools.permutations(range(3), 2):
        wanted = sum((x**2).mean((1, 2, 3)) for s, x in part.items() if {first, second} <= set(s))
        np.testing.assert_allclose(found[:, first, second], wanted, atol=1e-12)
    assert (found[:, range(3), range(3)] == 0).all()


def strengths(seed, n, density=0.5):
    rng = np.random.default_rng(seed)
    weights = np.triu(rng.random((n, n)) * (rng.random((n, n)) < density), 1)
    return torch.from_numpy(weights + weights.T)


def plain_cost(weights, order):
    place = {agent: i for i, agent in enumerate(order)}
    pairs = itertools.combinations(range(len(order)), 2)
    return sum(float(weights[a, b]) * abs(place[a] - place[b]) for a, b in pairs)


@pytest.mark.parametrize("n", range(1, 8))
@pytest.mark.parametrize("seed", range(3))
def test_small_orders_are_the_best_there_are(n, seed):
    weights = strengths(seed, n)
    order = agent_order(weights)
    best = min(plain_cost(weights, other) for other in itertools.permutations(range(n)))
    assert plain_cost(weights, order) == pytest.approx(best, abs=1e-12)
    assert order_cost(weights, order) == pytest.approx(best, abs=1e-12)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(5))
def test_large_orders_beat_random_ones_and_every_single_move(seed):
    n = 25
    weights = strengths(seed, n, 0.2)
    order = agent_order(weights)
    cost = plain_cost(weights, order)
    rng = random.Random(seed)
    assert all(cost < plain_cost(weights, rng.sample(range(n), n)) for _ in range(200))
    assert cost <= plain_cost(weights, range(n))
    for agent in range(n):
        rest = [other for other in order if other != agent]
        for place in range(n):
            assert plain_cost(weights, [*rest[:place], agent, *rest[place:]]) >= cost - 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_refinement_never_makes_a_good_order_worse(seed):
    """0, 1, 2, ... is best for a chain with strong links; the search must not leave it."""
    n = 40
    weights = torch.zeros(n, n)
    for i in range(n - 1):
        weights[i, i + 1] = weights[i + 1, i] = 1.0 + seed
    assert order_cost(weights, agent_order(weights)) == pytest.approx((1 + seed) * (n - 1))


@pytest.mark.parametrize("reach", [1, 3])
def test_a_hidden_band_is_found(reach):
    n, rng = 50, random.Random(1)
    hidden = rng.sample(range(n), n)
    pairs = [(hidden[i], hidden[i + d]) for d in range(1, reach + 1) for i in range(n - d)]
    assert agent_order(FactorGraph([2] * n, pairs)) in (tuple(hidden), tuple(hidden[::-1]))


@pytest.mark.parametrize("seed", range(3))
def test_a_hidden_strip_is_as_good_as_column_by_column(seed):
    """A grid of 3 rows and 30 columns: single moves alone end at more than twice the cost (measured)."""
    rows, columns = 3, 30
    hidden = random.Random(seed).sample(range(rows * columns), rows * columns)
    cells = [[hidden[c * rows + r] for r in range(rows)] for c in range(columns)]
    down = [pair for column in cells for pair in itertools.pairwise(column)]
    across = [pair for one, two in itertools.pairwise(cells) for pair in zip(one, two, strict=True)]
    graph = FactorGraph([2] * len(hidden), [*down, *across])
    assert order_cost(graph, agent_order(graph)) <= order_cost(graph, tuple(hidden))


@pytest.mark.parametrize("seed", range(5))
def test_chow_liu_parents_span_the_most_strength(seed):
    n = 5
    weights = strengths(seed, n, 0.7)
    parents = chow_liu_parents(weights)
    structures.tree([2] * n, parents)
    pairs = [pair for pair in itertools.combinations(range(n), 2) if weights[pair] > 0]

    def is_forest(chosen):
        root = list(range(n))
        for a, b in chosen:
            if root[a] == root[b]:
                return False
            root = [root[a] if r == root[b] else r for r in root]
        return True

    subsets = (chosen for size in range(n) for chosen in itertools.combinations(pairs, size))
    best = max(sum(float(weights[pair]) for pair in chosen) for chosen in subsets if is_forest(chosen))
    assert sum(float(weights[v, p]) for v, p in enumerate(parents) if p >= 0) == pytest.approx(best)


def test_learned_couplings_lead_to_an_order_and_a_tree():
    n, hidden = 6, [3, 0, 5, 1, 4, 2]
    chain = sorted(tuple(sorted(pair)) for pair in itertools.pairwise(hidden))
    actions, targets, _ = planted(0, [3] * n, chain, 20_000)
    found = learn_factor_graph([3] * n, actions, targets, max_factors=10)
    parents = chow_liu_parents(coupling(found.factors))
    assert sorted(tuple(sorted((v, p))) for v, p in enumerate(parents) if p >= 0) == chain
    assert agent_order(found.graph) in (tuple(hidden), tuple(hidden[::-1]))


def test_bad_strengths_are_refused(without_type_checks):
    for bad in (torch.ones(2, 3), torch.ones(2, 2, 2), torch.tensor([[0.0, 1.0], [2.0, 0.0]])):
        with pytest.raises(StructureError):
            agent_order(bad)
    for entry in (-1.0, math.nan, math.inf):
        with pytest.raises(StructureError, match="agents 0 and 1"):
            chow_liu_parents(torch.tensor([[0.0, entry], [entry, 0.0]]))
    with pytest.raises(StructureError, match="each of 3 agents"):
        order_cost(torch.zeros(3, 3), (0, 1, 1))
