"""Congestion against sums over all joint actions and all pairs, and its independent policies against assignments."""

from itertools import combinations, product

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from circuits.engine import native
from factor_q import FactorGraph, Factors, StructureError
from factor_q.congestion import Congestion, turns

AGENTS, THINGS = 4, 3


def some(actions=THINGS + 1, batch=(2,), seed=0, rank=2, some_of=None):
    """Congestion among four agents who are shown three things, all the same or each some of more; the last action
    chooses none of them."""
    generator = torch.Generator().manual_seed(seed)
    graph = FactorGraph([actions] * AGENTS, [(), *((i,) for i in range(AGENTS))])
    flat = torch.randn(*batch, graph.num_entries, generator=generator, dtype=torch.double)
    rivalry = torch.randn(*batch, AGENTS, THINGS, rank, generator=generator, dtype=torch.double)
    things = None
    if some_of is not None:
        things = torch.rand(*batch, AGENTS, some_of, generator=generator).argsort(-1)[..., :THINGS]
    return Congestion(Factors.from_flat(graph, flat), rivalry, things)


def thing_of(q, row, agent, action):
    if action >= THINGS:
        return None
    return action if q.things is None else int(q.things[row, agent, action])


def by_hand(q, row, actions):
    """Q of one joint action, pair by pair."""
    total = q.own.flat[row, 0] + sum(
        q.own.flat[row, 1 + agent * (len(q.own.flat[row]) - 1) // AGENTS + action]
        for agent, action in enumerate(actions)
    )
    for first, second in combinations(range(AGENTS), 2):
        meets = thing_of(q, row, first, actions[first])
        if meets is not None and meets == thing_of(q, row, second, actions[second]):
            total = total - q.rivalry[row, first, actions[first]] @ q.rivalry[row, second, actions[second]]
    return total


@pytest.mark.parametrize("some_of", [None, THINGS, 5])
@pytest.mark.parametrize("actions", [THINGS, THINGS + 1])
def test_values_are_sums_over_all_pairs(actions, some_of):
    q = some(actions, some_of=some_of)
    for joint in product(range(actions), repeat=AGENTS):
        values = q(torch.tensor([joint, joint]))
        for row in range(2):
            assert float(values[row]) == pytest.approx(float(by_hand(q, row, joint)), abs=1e-12)


@pytest.mark.parametrize("some_of", [None, 5])
@pytest.mark.parametrize("actions", [THINGS, THINGS + 1])
def test_what_pairs_take_is_the_mean_over_all_joint_actions(actions, some_of):
    q = some(actions, some_of=some_of)
    chosen = torch.rand(2, AGENTS, actions, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    chosen = chosen / chosen.sum(-1, keepdim=True)
    expected = torch.zeros(2, dtype=torch.double)
    for joint in product(range(actions), repeat=AGENTS):
        probability = torch.stack([chosen[:, agent, action] for agent, action in enumerate(joint)]).prod(0)
        expected += probability * (q.own(torch.tensor(joint)) - q(torch.tensor([joint, joint])))
    torch.testing.assert_close(q.of_pairs(chosen), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("some_of", [None, 5])
def test_gradients(some_of):
    q = some(some_of=some_of)
    chosen = torch.rand(2, AGENTS, THINGS + 1, dtype=torch.double, requires_grad=True)
    rivalry = q.rivalry.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda p, r: q._replace(rivalry=r).of_pairs(p), (chosen, rivalry))
    actions = torch.tensor([[0, 0, 3, 1], [2, 2, 2, 2]])
    assert torch.autograd.gradcheck(lambda r: q._replace(rivalry=r)(actions), (rivalry,))
    q.detach()(actions)
    assert not q._replace(rivalry=rivalry).detach().rivalry.requires_grad


def objective(q, chosen, temperature):
    """E[Q] + temperature * H of independent agents."""
    tables = torch.stack([table for scope, table in q.own if scope], -2)
    entropy = -torch.special.xlogy(chosen, chosen).sum((-1, -2))
    allowed = tables.where(chosen > 0, 0.0)
    return (chosen * allowed).sum((-1, -2)) - q.of_pairs(chosen) + temperature * entropy


@pytest.mark.parametrize("some_of", [None, 5])
def test_no_agent_alone_can_do_better_than_its_independent_policy(some_of):
    q, temperature = some(batch=(50,), some_of=some_of), 0.3
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


@pytest.mark.skipif(turns._library is None, reason="no C compiler when the package was installed")
@pytest.mark.parametrize("some_of", [None, 6])
@pytest.mark.parametrize("rank", [3, 8])
@pytest.mark.parametrize("temperature", [1.0, 0.05])
def test_machine_code_takes_the_same_turns_as_tensors(temperature, rank, some_of):
    q = some(batch=(3, 4), rank=rank, some_of=some_of)
    q = q._replace(own=Factors.from_flat(q.graph, q.own.flat.float()), rivalry=q.rivalry.float())
    available = torch.ones(3, 4, AGENTS, THINGS + 1, dtype=torch.bool)
    available[..., 1, 0] = available[..., 2, THINGS] = False
    given = q.own.flat.clone(), q.rivalry.clone()
    found = q.independent(temperature, available, sweeps=7)
    with native.disabled():
        torch.testing.assert_close(found, q.independent(temperature, available, sweeps=7), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.sum(-1), torch.ones(3, 4, AGENTS))
    assert torch.equal(q.own.flat, given[0])
    assert torch.equal(q.rivalry, given[1])
    # In double precision it is always tensors that take them.
    exact = q._replace(own=Factors.from_flat(q.graph, given[0].double()), rivalry=given[1].double())
    other = exact.independent(temperature, available, sweeps=7)
    torch.testing.assert_close(found.double(), other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("cardinalities", "scopes"),
    [
        ([3, 3], [(0,), (1,), (0, 1)]),
        ([3, 4], [(0,), (1,)]),
        ([3, 3], [(), (1,)]),
        ([3, 3], [(1,), (0,)]),
        ([3, 3], [(0,), (), (1,)]),
    ],
    ids=["pair", "unequal", "missing", "turned round", "constant between"],
)
def test_independent_policies_of_what_they_do_not_count_are_refused(cardinalities, scopes):
    graph = FactorGraph(cardinalities, scopes)
    q = Congestion(Factors.from_flat(graph, torch.zeros(1, graph.num_entries)), torch.zeros(1, 2, 3, 1))
    with pytest.raises(StructureError, match=r"approximate\.mean_field"):
        q.independent(0.1, torch.ones(1, 2, max(cardinalities), dtype=torch.bool), sweeps=1)
