"""Congestion against sums over all joint actions and all pairs, and its independent policies against assignments."""

from itertools import combinations, product

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from factor_q import FactorGraph, Factors, StructureError
from factor_q.congestion import Congestion

AGENTS, THINGS = 4, 3


def some(actions=THINGS + 1, batch=(2,), seed=0, rank=2):
    """Congestion among four agents and three things; the last action chooses none of them."""
    generator = torch.Generator().manual_seed(seed)
    graph = FactorGraph([actions] * AGENTS, [(), *((i,) for i in range(AGENTS))])
    flat = torch.randn(*batch, graph.num_entries, generator=generator, dtype=torch.double)
    rivalry = torch.randn(*batch, AGENTS, THINGS, rank, generator=generator, dtype=torch.double)
    return Congestion(Factors.from_flat(graph, flat), rivalry)


def by_hand(q, row, actions):
    """Q of one joint action, pair by pair."""
    total = q.own.flat[row, 0] + sum(
        q.own.flat[row, 1 + agent * (len(q.own.flat[row]) - 1) // AGENTS + action]
        for agent, action in enumerate(actions)
    )
    for first, second in combinations(range(AGENTS), 2):
        if actions[first] == actions[second] < THINGS:
            total = total - q.rivalry[row, first, actions[first]] @ q.rivalry[row, second, actions[first]]
    return total


@pytest.mark.parametrize("actions", [THINGS, THINGS + 1])
def test_values_are_sums_over_all_pairs(actions):
    q = some(actions)
    for joint in product(range(actions), repeat=AGENTS):
        values = q(torch.tensor([joint, joint]))
        for row in range(2):
            assert float(values[row]) == pytest.approx(float(by_hand(q, row, joint)), abs=1e-12)


@pytest.mark.parametrize("actions", [THINGS, THINGS + 1])
def test_what_pairs_take_is_the_mean_over_all_joint_actions(actions):
    q = some(actions)
    chosen = torch.rand(2, AGENTS, actions, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    chosen = chosen / chosen.sum(-1, keepdim=True)
    expected = torch.zeros(2, dtype=torch.double)
    for joint in product(range(actions), repeat=AGENTS):
        probability = torch.stack([chosen[:, agent, action] for agent, action in enumerate(joint)]).prod(0)
        expected += probability * (q.own(torch.tensor(joint)) - q(torch.tensor([joint, joint])))
    torch.testing.assert_close(q.of_pairs(chosen), expected, rtol=1e-10, atol=1e-12)


def test_gradients():
    q = some()
    chosen = torch.rand(2, AGENTS, THINGS + 1, dtype=torch.double, requires_grad=True)
    rivalry = q.rivalry.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda p, r: Congestion(q.own, r).of_pairs(p), (chosen, rivalry))
    actions = torch.tensor([[0, 0, 3, 1], [2, 2, 2, 2]])
    assert torch.autograd.gradcheck(lambda r: Congestion(q.own, r)(actions), (rivalry,))
    q.detach()(actions)
    assert not Congestion(q.own, rivalry).detach().rivalry.requires_grad


def objective(q, chosen, temperature):
    """E[Q] + temperature * H of independent agents."""
    tables = torch.stack([table for scope, table in q.own if scope], -2)
    entropy = -torch.special.xlogy(chosen, chosen).sum((-1, -2))
    allowed = tables.where(chosen > 0, 0.0)
    return (chosen * allowed).sum((-1, -2)) - q.of_pairs(chosen) + temperature * entropy


def test_no_agent_alone_can_do_better_than_its_independent_policy():
    q, temperature = some(batch=(50,)), 0.3
    available = torch.ones(50, AGENTS, THINGS + 1, dtype=torch.bool)
    available[::2, 1, 0] = False
    available[:, 3, 1:] = False
    chosen = q.independent(temperature, available, sweeps=200)
    torch.testing.assert_close(chosen.sum(-1), torch.ones(50, AGENTS, dtype=torch.double))
    assert not bool((chosen > 0)[~available].any())
    best = objective(q, chosen, temperature)
    generator = torch.Generator().manual_seed(2)
    for agent in range(AGENTS):
        for _ in range(20):
            other = chosen.clone()
            drawn = torch.rand(50, THINGS + 1, dtype=torch.double, generator=generator).pow(4) * available[:, agent]
            other[:, agent] = 0.9 * chosen[:, agent] + 0.1 * drawn / drawn.sum(-1, keepdim=True)
            assert bool((objective(q, other, temperature) <= best + 1e-4).all())


def test_even_a_single_sweep_ends_at_the_temperature_that_is_asked_for():
    worth = torch.tensor([[0.0, 1.0, 3.0]], dtype=torch.double)
    q = Congestion(Factors.from_flat(FactorGraph([3], [(0,)]), worth), torch.zeros(1, 1, 3, 1, dtype=torch.double))
    for sweeps in (1, 3):
        chosen = q.independent(0.5, torch.ones(1, 1, 3, dtype=torch.bool), sweeps=sweeps)
        torch.testing.assert_close(chosen[0], (worth / 0.5).softmax(-1))


@pytest.mark.parametrize("agents", [5, 30])
def test_independent_policies_divide_things_nearly_as_well_as_the_best_assignment(agents):
    """Where two on one thing always lose, the best joint action is the assignment of most worth."""
    random = np.random.default_rng(0)
    worth = random.random((20, agents, agents))
    graph = FactorGraph([agents] * agents, [(i,) for i in range(agents)])
    q = Congestion(Factors.from_flat(graph, torch.tensor(worth).flatten(1)), torch.ones(20, agents, agents, 1).double())
    chosen = q.independent(0.01, torch.ones(20, agents, agents, dtype=torch.bool), sweeps=20).argmax(-1)
    found = q(chosen)
    best = [float(table[linear_sum_assignment(table, maximize=True)].sum()) for table in worth]
    share = found / torch.tensor(best, dtype=torch.double)
    assert float(share.max()) <= 1.0 + 1e-9
    assert float(share.mean()) > 0.97


@pytest.mark.parametrize(
    ("cardinalities", "scopes"), [([3, 3], [(0,), (1,), (0, 1)]), ([3, 4], [(0,), (1,)])], ids=["pair", "unequal"]
)
def test_independent_policies_of_what_they_do_not_count_are_refused(cardinalities, scopes):
    graph = FactorGraph(cardinalities, scopes)
    q = Congestion(Factors.from_flat(graph, torch.zeros(1, graph.num_entries)), torch.zeros(1, 2, 3, 1))
    with pytest.raises(StructureError, match=r"approximate\.mean_field"):
        q.independent(0.1, torch.ones(1, 2, max(cardinalities), dtype=torch.bool), sweeps=1)
