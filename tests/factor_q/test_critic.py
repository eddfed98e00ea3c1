import copy

import pytest
import torch

import factor_q
from factor_q import FactorGraph, FactorQ, StructureError

MIXED = FactorGraph([2, 3, 2, 4], [(3,), (), (0, 1), (2, 1), (0, 2, 3), (0,)])
MODES = [
    {},
    {"per_agent": True},
    {"per_agent": True, "agent_id": True},
    {"per_agent": True, "share_factors": False},
]


def observations(graph, batch, size, options):
    shape = (*batch, graph.num_variables, size) if options.get("per_agent") else (*batch, size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def num_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("options", MODES)
@pytest.mark.parametrize("batch", [(), (5,), (2, 3), (0,)])
def test_any_leading_shape_becomes_the_batch_shape(options, batch):
    critic = FactorQ(MIXED, observation_size=7, hidden=(16, 8), **options)
    factors = critic(observations(MIXED, batch, 7, options))
    assert factors.graph is MIXED
    assert factors.batch_shape == batch
    assert [tuple(table.shape) for _, table in factors] == [(*batch, *shape) for shape in MIXED.table_shapes]


@pytest.mark.parametrize("options", MODES)
def test_rows_of_a_batch_do_not_influence_each_other(options):
    critic = FactorQ(MIXED, observation_size=7, **options)
    batch = observations(MIXED, (4,), 7, options)
    together, alone = critic(batch).flat, torch.stack([critic(row).flat for row in batch])
    assert torch.allclose(together, alone, atol=1e-6)


@pytest.mark.parametrize("options", MODES)
def test_values_start_near_zero_and_gradient_reaches_every_parameter(options):
    torch.manual_seed(0)
    critic = FactorQ(MIXED, observation_size=7, **options)
    factors = critic(observations(MIXED, (64,), 7, options))
    assert 0 < factors.flat.abs().max() < 0.1
    factors.flat.square().sum().backward()
    for name, parameter in critic.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("topology", [factor_q.complete, factor_q.ring])
def test_shared_networks_do_not_grow_with_the_number_of_agents(topology):
    small, large = (FactorQ(topology([5] * n), 16, per_agent=True) for n in (3, 12))
    assert num_parameters(small) == num_parameters(large)
    separate = [FactorQ(topology([5] * n), 16, per_agent=True, share_factors=False) for n in (3, 12)]
    assert num_parameters(separate[0]) < num_parameters(separate[1])


def test_shared_networks_carry_over_to_another_number_of_agents():
    small, large = (FactorQ(factor_q.complete([3] * n), 4, per_agent=True) for n in (2, 5))
    large.load_state_dict(small.state_dict())
    observation = torch.randn(5, 4)
    tables = dict(large(observation))
    pair = dict(small(observation[[1, 3]]))
    assert torch.allclose(tables[(1, 3)], pair[(0, 1)], atol=1e-6)
    assert torch.allclose(tables[(3,)], pair[(1,)], atol=1e-6)


def test_a_table_sees_its_own_agents_in_scope_order():
    graph = FactorGraph([2, 2, 2], [(0, 1), (2, 1)])
    critic = FactorQ(graph, 3, per_agent=True)
    observation = torch.randn(3, 3)
    before = critic(observation).tables
    changed = observation.clone()
    changed[0] += 1
    after = critic(changed).tables
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    mirrored = critic(observation[[2, 1, 0]]).tables
    assert torch.allclose(mirrored[0], before[1], atol=1e-6)


@pytest.mark.parametrize("share_factors", [True, False])
def test_factors_whose_shapes_take_turns_keep_their_own_tables(share_factors):
    graph = FactorGraph([2, 3, 2, 3], [(0,), (1,), (2,), (0, 1), (3,), (3, 2)])
    critic = FactorQ(graph, 3, per_agent=True, share_factors=share_factors)
    generator = torch.Generator().manual_seed(0)
    observation = torch.randn(4, 3, generator=generator)
    before = critic(observation)
    for agent in range(4):
        changed = observation.clone()
        changed[agent] += torch.randn(3, generator=generator)
        for (scope, table), (_, other) in zip(before, critic(changed), strict=True):
            # Entry by entry: a table that got a part of another's entries depends on the agents of both.
            assert ((table != other) == (agent in scope)).all(), f"agent {agent}, scope {scope}"


def test_agents_with_equal_observations_differ_only_with_an_identity():
    graph = FactorGraph([4, 4], [(0,), (1,)])
    observation = torch.ones(2, 3)
    first, second = FactorQ(graph, 3, per_agent=True)(observation).tables
    assert torch.equal(first, second)
    first, second = FactorQ(graph, 3, per_agent=True, agent_id=True)(observation).tables
    assert not torch.equal(first, second)


@pytest.mark.parametrize("options", MODES)
def test_a_critic_can_be_fitted_to_a_coordination_game(options):
    torch.manual_seed(0)
    graph = factor_q.complete([3, 3])
    critic = FactorQ(graph, 2, hidden=(32,), **options)
    observation = observations(graph, (1,), 2, options)
    every_action = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    target = 10.0 * (every_action[:, 0] == every_action[:, 1])
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        (critic(observation)(every_action.unsqueeze(1)).squeeze(1) - target).square().mean().backward()
        optimizer.step()
    value, action = critic(observation).max()
    assert value.item() == pytest.approx(10, abs=0.5)
    assert action[0, 0] == action[0, 1]


def test_a_copy_serves_as_target_network():
    critic = FactorQ(MIXED, 7, per_agent=True)
    target = copy.deepcopy(critic)
    observation = torch.randn(4, 7)
    assert torch.equal(critic(observation).flat, target(observation).flat)
    assert critic.double()(observation.double()).dtype == torch.float64


def test_graphs_without_factors_give_empty_tables():
    graph = FactorGraph([2, 2], [])
    assert FactorQ(graph, 3)(torch.zeros(5, 3)).flat.shape == (5, 0)
    assert FactorQ(graph, 3, per_agent=True)(torch.zeros(5, 2, 3)).flat.shape == (5, 0)


def test_print_names_the_graph():
    assert "6 factors of at most 3 variables" in repr(FactorQ(MIXED, 7))


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({}, (5, 6), r"shape \(5, 6\), but it must end in \(7,\): \(\*batch, observation_size\)"),
        ({}, (), r"shape \(\)"),
        ({"per_agent": True}, (5, 7), r"must end in \(4, 7\): \(\*batch, agents, observation_size\)"),
        ({"per_agent": True}, (7,), r"must end in \(4, 7\)"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_observations_of_another_shape_are_refused(options, shape, message):
    critic = FactorQ(MIXED, 7, **options)
    with pytest.raises(StructureError, match=message):
        critic(torch.zeros(shape))


@pytest.mark.parametrize(
    "options",
    [{"observation_size": 0}, {"hidden": ()}, {"hidden": (8, 0)}, {"share_factors": False}, {"agent_id": True}],
)
def test_options_that_do_not_fit_are_refused(options):
    with pytest.raises(StructureError, match="FactorQ: "):
        FactorQ(MIXED, **options)
