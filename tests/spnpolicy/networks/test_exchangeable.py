"""The network over edges of agents and entities: neither agents nor entities have an order or a number."""

import itertools

import pytest
import torch

from circuits import structures
from factor_q import FactorGraph, FactorQ
from spnpolicy import SPNPolicy, make_env
from spnpolicy.base.errors import ConfigError
from spnpolicy.data.entities import Entities, EntitySet
from spnpolicy.data.env import EnvSpec
from spnpolicy.networks.encoders import Network, encoder_for, retarget, state_encoder_for
from spnpolicy.networks.exchangeable import _Edges, _pooled
from spnpolicy.networks.features import FourierFeatures

AGENTS = 3
NETWORK = Network("exchangeable", (8,), FourierFeatures(1), rounds=2)


def spec_of(agents=AGENTS, goals=4, foods=2, cells=4.0, is_relative=True):
    """Two shared sets, of which foods may be absent, and the other agents, which nobody needs to read."""
    own = EntitySet("itself", 0, 1, 3, (0, 2))
    goals_seen = EntitySet("goals", own.stop, goals, 3, (0, 1), is_shared=True)
    food = EntitySet("foods", goals_seen.stop, foods, 4, (1, 2), presence=0, is_shared=True)
    others = EntitySet("others", food.stop, agents - 1, 3, (0, 1))
    entities = Entities(own, (goals_seen, food, others), cells, is_relative=is_relative, state_is_observations=True)
    return EnvSpec((5,) * agents, others.stop, agents * others.stop, False, entities=entities)


SPEC = spec_of()


def observations(spec, *batch, seed=0):
    """Random numbers; which foods are there is the same for all agents."""
    generator = torch.Generator().manual_seed(seed)
    seen = torch.rand(*batch, spec.num_agents, spec.observation_size, generator=generator)
    food = spec.entities.sets[1]
    there = torch.rand(*batch, 1, food.count, generator=generator) < 0.6
    block(seen, food)[..., 0] = there.float()
    return seen


def block(seen, part):
    """A view of a set's entities, (*batch, agents, count, size)."""
    return seen[..., part.start : part.stop].unflatten(-1, (part.count, part.size))


def awake(module):
    """Away from the start, where last layers are almost 0."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return module


def encoder_of(spec=SPEC, network=NETWORK):
    torch.manual_seed(0)
    return awake(encoder_for(network, spec))


def critic_of(spec=SPEC, encoder=None, **options):
    agents = range(spec.num_agents)
    # Pairs in both orders: 0 before 1, but 2 before 0.
    pairs = [pair if sum(pair) % 2 else pair[::-1] for pair in itertools.combinations(agents, 2)]
    graph = FactorGraph(spec.cardinalities, [(), *((agent,) for agent in agents), *pairs])
    options = {"hidden": (6,), "per_agent": True, "symmetric": True} | options
    return awake(FactorQ(graph, encoder=encoder or encoder_for(NETWORK, spec), **options))


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_permuted_agents_have_permuted_codes():
    encoder, seen = encoder_of(), observations(SPEC, 20)
    codes, units = encoder(seen), encoder.units(seen)
    assert not torch.allclose(codes[:, 0], codes[:, 1], atol=1e-2)
    for order in itertools.permutations(range(AGENTS)):
        close(encoder(seen[:, order]), codes[:, order])
        for unit, permuted in zip(units, encoder.units(seen[:, order]), strict=True):
            close(permuted, unit[:, order])
    whole = awake(state_encoder_for(NETWORK, SPEC))
    close(whole(seen[:, order].flatten(-2)), whole(seen.flatten(-2)))


def test_the_order_of_entities_does_not_matter():
    encoder, seen = encoder_of(), observations(SPEC, 20)
    changed = seen.clone()
    for part in SPEC.entities.sets:
        block(changed, part).copy_(block(seen, part).flip(-2))
    close(encoder(changed), encoder(seen))
    for unit, permuted in zip(encoder.units(seen), encoder.units(changed), strict=True):
        close(permuted, unit.flip(-2))


def by_scope(factors):
    """Tables by the set of their agents, axes in the order of the agents' numbers."""
    return {frozenset(scope): table if list(scope) == sorted(scope) else table.mT for scope, table in factors}


@pytest.mark.parametrize("sees_state", [False, True])
def test_permuted_agents_have_permuted_tables(sees_state):
    critic = critic_of(encoder=encoder_for(NETWORK, SPEC, sees_state=sees_state))
    seen = observations(SPEC, 20)

    def tables(rows):
        return by_scope(critic(rows, rows.flatten(-2)) if sees_state else critic(rows))

    before = tables(seen)
    assert (before[frozenset({0, 1})] - before[frozenset({0, 1})].mT).abs().max() > 0.01
    for order in itertools.permutations(range(AGENTS)):
        after = tables(seen[:, order])
        close(after[frozenset()], before[frozenset()])
        for i, j in itertools.product(range(AGENTS), repeat=2):
            there = before[frozenset({order[i], order[j]})]
            is_turned = i < j and order[i] > order[j]
            if i <= j:
                close(after[frozenset({i, j})], there.mT if is_turned else there)


def test_without_symmetry_the_order_of_a_pair_matters():
    seen = observations(SPEC, 5)
    for symmetric in (True, False):
        tables = []
        for pair in ((0, 1), (1, 0)):
            graph, encoder = FactorGraph(SPEC.cardinalities, [pair]), encoder_for(NETWORK, SPEC)
            critic = FactorQ(graph, encoder=encoder, hidden=(6,), per_agent=True, symmetric=symmetric)
            reference = critic if not tables else reference
            critic.load_state_dict(reference.state_dict())
            with torch.no_grad():
                for parameter in critic.heads.parameters():
                    parameter.copy_(torch.rand(parameter.shape, generator=torch.Generator().manual_seed(0)) - 0.5)
            tables.append(dict(critic(seen))[pair])
        assert torch.allclose(tables[0], tables[1].mT, atol=1e-6) is symmetric


def test_symmetric_tables_are_the_mean_over_both_orders():
    graph = FactorGraph((2, 2, 3), [(0, 1), (2, 0)])
    options = {"hidden": (6,), "per_agent": True}
    for share in (True, False):
        symmetric, plain = (FactorQ(graph, 4, share_factors=share, symmetric=x, **options) for x in (True, False))
        plain.load_state_dict(awake(symmetric).state_dict())
        seen = torch.randn(7, 3, 4)
        (_, there), (_, other) = plain(seen)
        (_, back), _ = plain(seen[:, [1, 0, 2]])
        (_, mean), (_, same) = symmetric(seen)
        close(mean, (there + back.mT) / 2)
        close(same, other)


def test_relations_are_offsets_in_cells_and_reach_the_tables():
    encoder = encoder_of()
    seen = observations(SPEC, 5)
    first, second = torch.tensor([0, 2]), torch.tensor([1, 0])
    place = seen[..., [0, 2]] * 4.0
    offset = (place[:, [1, 0]] - place[:, [0, 2]]) / 10
    close(encoder.relations(seen, first, second), torch.cat([offset, offset.abs()], -1))
    assert encoder.relations(20.0 * seen, first, second).abs().max() <= 2.0
    # Where goals and foods lie as before, only the relation says that agent 0 is elsewhere.
    critic, moved = critic_of(encoder=encoder), seen.clone()
    moved[:, 0, 0] += 0.5
    close(encoder(moved), encoder(seen))
    for scope, table in critic(moved):
        changed = (table - dict(critic(seen))[scope]).abs().max() > 1e-4
        assert changed == (len(scope) == 2 and 0 in scope)
    placeless = spec_of().entities
    own = EntitySet("itself", 0, 1, 3)
    hidden = SPEC._replace(entities=Entities(own, placeless.sets, is_relative=True))
    assert critic_of(hidden).encoder.relation_features == 0
    assert critic_of(hidden)(seen).flat.isfinite().all()


def test_positions_from_the_same_origin_mean_the_same_as_relative_ones():
    seen, absolute = observations(SPEC, 5), spec_of(is_relative=False)
    shown = seen.clone()
    for part in SPEC.entities.sets:
        block(shown, part)[..., list(part.positions)] += seen[..., None, [0, 2]]
    codes = [encoder_of(spec)(rows) for spec, rows in ((SPEC, seen), (absolute, shown))]
    close(codes[1], codes[0])


@pytest.mark.parametrize("other", [spec_of(2, 1, 0), spec_of(5, 7, 3, cells=9.0), spec_of(2, 3, 1)])
def test_the_same_weights_serve_other_boards_and_numbers(other):
    trained, larger = critic_of(), critic_of(other)
    larger.load_state_dict(trained.state_dict())
    assert larger(observations(other, 4)).flat.isfinite().all()
    encoder = encoder_of()
    retarget(encoder, other)
    assert encoder(observations(other, 4)).shape == (4, other.num_agents, encoder.out_features)


def test_what_lies_equally_far_in_cells_has_the_same_edges_on_a_larger_board():
    encoder = encoder_of(small := make_env("coverage", agents=2, size=5).spec)
    large = make_env("coverage", agents=2, size=9)
    agents, goals, units = [[0, 1], [1, 3]], [[2, 2], [4, 1]], []
    for size, env in ((5, make_env("coverage", agents=2, size=5)), (9, large)):
        cells = [torch.tensor([[row * size + column for row, column in places]]).numpy() for places in (agents, goals)]
        retarget(encoder, env.spec)
        units += encoder.units(torch.tensor(env.set_layout(*cells).observation))
    close(units[0], units[1])
    assert encoder_for(NETWORK, small).relation_features == 4


def test_what_is_absent_has_no_influence_and_none_at_all_is_no_nan():
    encoder, seen = encoder_of(), observations(SPEC, 30)
    food = SPEC.entities.sets[1]
    changed = seen.clone()
    there = block(seen, food)[..., :1]
    block(changed, food)[..., 1:] += 9.0 * (1.0 - there)
    assert (changed != seen).any()
    close(encoder(changed), encoder(seen))
    assert (encoder.units(seen)[1][there[..., 0] == 0.0] == 0.0).all()
    # As if there were none of it: a set of foods that are all absent is like an empty one.
    block(changed, food)[..., 0] = 0.0
    codes = encoder(changed)
    fewer = spec_of(foods=0)
    empty = torch.cat([changed[..., : food.start], changed[..., food.stop :]], -1)
    retarget(encoder, fewer)
    close(encoder(empty), codes)


@pytest.mark.parametrize("rounds", [0, 1])
def test_agents_hear_of_each_other_in_rounds_only(rounds):
    encoder = encoder_of(network=Network("exchangeable", (8,), FourierFeatures(1), rounds=rounds))
    seen = observations(SPEC, 5)
    goals, changed = SPEC.entities.sets[0], seen.clone()
    block(changed, goals)[:, 1, :, :2] += 0.3
    difference = (encoder(changed) - encoder(seen)).abs().amax((0, 2))
    assert difference[1] > 1e-3
    assert (difference[0] > 1e-3) == (rounds > 0)


@pytest.mark.parametrize("has_absent", [False, True])
@pytest.mark.parametrize("axes", [(0, 1), (1,)])
def test_pools_and_their_gradients_are_those_of_means_and_maxima(axes, has_absent):
    torch.manual_seed(0)
    units = torch.rand(3, 4, 5, 2, dtype=torch.float64)
    units[0, 1] = units[2, 1] = units[2, 3] = 2.0  # the largest twice
    is_there = torch.rand(3, 4, 5) < 0.7 if has_absent else None
    if is_there is not None:
        is_there[[0, 2], 1] = True
        is_there[2, 3] = True
        is_there[1, :, 0] = is_there[:, 2, 1] = False
        units *= is_there.unsqueeze(-1)
    weight = torch.ones(3, 4, 5, 1) if is_there is None else is_there.unsqueeze(-1)
    units.requires_grad_()
    pooled = _pooled(_Edges(units, is_there), axes)
    expected = [torch.cat([units.sum(axis) / weight.sum(axis).clamp_min(1), units.amax(axis)], -1) for axis in axes]
    weights = [torch.rand(x.shape, dtype=torch.float64) for x in expected]
    grads = []
    for results in (pooled, expected):
        for one, other in zip(results, expected, strict=True):
            torch.testing.assert_close(one, other)
        loss = sum((x * w).sum() for x, w in zip(results, weights, strict=True))
        grads.append(torch.autograd.grad(loss, units)[0])
    torch.testing.assert_close(grads[0], grads[1])


def scattered(spec, seen, order):
    """The same observations, in which every agent sees the entities of each set in an order of its own, by number."""
    own, sets, blocks, stop = spec.entities.own, [], [seen[..., : spec.entities.own.stop]], spec.entities.own.stop
    for part in spec.entities.shared:
        whole, where = block(seen, part), order[..., : part.count].argsort(-1)
        moved = whole.gather(-2, where.unsqueeze(-1).expand_as(whole))
        blocks.append(torch.cat([moved, where.unsqueeze(-1).to(seen.dtype)], -1).flatten(-2))
        sets.append(
            EntitySet(part.name, stop, part.count, part.size + 1, part.positions, part.presence, identity=part.size)
        )
        stop = sets[-1].stop
    entities = Entities(own, tuple(sets), spec.entities.cells, is_relative=True, state_is_observations=True)
    spec = EnvSpec(spec.cardinalities, stop, spec.num_agents * stop, False, entities=entities)
    return spec, torch.cat(blocks, -1)


@pytest.mark.parametrize("rounds", [0, 2])
def test_things_that_every_agent_sees_in_an_order_of_its_own_are_told_apart_by_number(rounds):
    network = Network("exchangeable", (8,), FourierFeatures(1), rounds=rounds)
    encoder, seen = encoder_of(network=network).double(), observations(SPEC, 6).double()
    order = torch.rand(6, AGENTS, 4, generator=torch.Generator().manual_seed(3))
    spec, moved = scattered(SPEC, seen, order)
    other = encoder_of(spec, network).double()
    other.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(other(moved), encoder(seen))
    weight = torch.rand(encoder(seen).shape, dtype=torch.double)
    for of_one, of_other in zip(
        torch.autograd.grad((encoder(seen) * weight).sum(), tuple(encoder.parameters())),
        torch.autograd.grad((other(moved) * weight).sum(), tuple(other.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(of_other, of_one)


def test_agents_who_see_different_things_do_not_hear_of_each_other():
    """Numbers that no two agents share: as if everyone were alone, whatever the order in which things stand."""
    spec, moved = scattered(SPEC, observations(SPEC, 5), torch.rand(5, AGENTS, 4))
    for part in spec.entities.sets:
        numbers = block(moved, part)[..., -1]
        numbers += (part.count * torch.arange(AGENTS)).unsqueeze(-1)
    encoder, changed = encoder_of(spec), moved.clone()
    block(changed, spec.entities.sets[0])[:, 1, :, :2] += 0.3
    difference = (encoder(changed) - encoder(moved)).abs().amax((0, 2))
    assert difference[1] > 1e-3
    assert difference[0] < 1e-6


def test_the_gradient_is_that_of_finite_differences():
    encoder, seen = encoder_of().double(), observations(SPEC, 2).double()
    parameters = dict(encoder.named_parameters())
    loss = encoder(seen).square().sum()
    grads = torch.autograd.grad(loss, list(parameters.values()))
    for (name, parameter), grad in zip(parameters.items(), grads, strict=True):
        direction = torch.randn_like(parameter)
        ends = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                parameter.add_(step * direction)
                ends.append(encoder(seen).square().sum())
                parameter.sub_(step * direction)
        torch.testing.assert_close((grad * direction).sum(), (ends[0] - ends[1]) / 2e-6, rtol=1e-4, atol=1e-4, msg=name)


def test_a_policy_takes_it_with_relations():
    circuit = structures.keep_set(SPEC.cardinalities)
    options = {"hidden": (6,), "per_agent": True, "agent_id": False}
    policy = awake(SPNPolicy(circuit, encoder=encoder_for(NETWORK, SPEC), symmetric=True, **options))
    seen = observations(SPEC, 4)
    policy(seen).entropy().sum().backward()
    assert all((parameter.grad != 0).any() for parameter in policy.parameters())
    with pytest.raises(ConfigError, match="pairs and symmetric need per_agent"):
        SPNPolicy(circuit, 4, symmetric=True)


def test_without_shared_sets_it_is_refused_with_the_way_out():
    own = EntitySet("itself", 0, 1, 2, (0, 1))
    entities = Entities(own, (EntitySet("goals", 2, 2, 2, (0, 1)),), is_relative=True)
    with pytest.raises(ConfigError, match=r"none of the sets \['goals'\].*EntitySet.is_shared.*kind 'entities'"):
        encoder_for(NETWORK, EnvSpec((2,), 6, 6, False, entities=entities))
    with pytest.raises(ConfigError, match="network.kind is 'exchangeable', but the environment does not declare"):
        encoder_for(NETWORK, EnvSpec((2,), 6, 6, False))
    with pytest.raises(ConfigError, match="an observation has 5 numbers"):
        encoder_of()(torch.zeros(3, 5))
