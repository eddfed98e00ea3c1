"""Actions that are things which agents see: values follow the things, and no weight knows how many there are."""

from copy import deepcopy

import pytest
import torch

from factor_q import FactorGraph, FactorQ, StructureError
from factor_q.choices import ChoiceHead, Choices, Codes
from factor_q.congestion import Congestion
from spnpolicy import make_env
from spnpolicy.algorithms import make_algorithm
from spnpolicy.base.errors import ConfigError
from spnpolicy.base.seeding import Streams
from spnpolicy.data.entities import Entities, EntitySet
from spnpolicy.networks.agents import AgentNetwork
from spnpolicy.networks.encoders import Beside, Borrowed, Network, encoder_for, retarget
from spnpolicy.networks.features import FourierFeatures
from tests.spnpolicy.networks.test_exchangeable import awake

KINDS = ["entities", "exchangeable"]


def game(agents, tasks=None, idle=False):
    """The declaration of an assignment game."""
    return make_env("assignment_game", agents=agents, tasks=tasks, idle=idle).spec


def network_of(kind):
    return Network(kind, (8,), FourierFeatures(1), rounds=2)


def worths(spec, *batch, seed=0):
    return torch.rand(*batch, spec.num_agents, spec.observation_size, generator=torch.Generator().manual_seed(seed))


def graph_of(spec, pairs=()):
    return FactorGraph(spec.cardinalities, [(), *((agent,) for agent in range(spec.num_agents)), *pairs])


def critic_of(spec, kind="exchangeable", pairs=(), rivalry=0, output_scale=1.0):
    torch.manual_seed(0)
    encoder = encoder_for(network_of(kind), spec)
    options = {"hidden": (8,), "per_agent": True, "symmetric": True, "output_scale": output_scale}
    return FactorQ(graph_of(spec, pairs), encoder=encoder, rivalry=rivalry, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("idle", [False, True])
def test_values_of_an_agents_network_go_where_the_things_go(kind, idle):
    spec = game(3, 5, idle)
    torch.manual_seed(0)
    network = awake(AgentNetwork(spec, network_of(kind), output_gain=1.0))
    seen, order = worths(spec, 4), torch.tensor([3, 0, 4, 1, 2])
    values, moved = network(seen), network(seen[..., order])
    assert values.shape == (4, 3, 5 + idle)
    torch.testing.assert_close(moved[..., :5], values[..., :5][..., order])
    torch.testing.assert_close(moved[..., 5:], values[..., 5:])
    assert float(values[..., :5].detach().std(-1).min()) > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_one_network_serves_any_number_of_things(kind):
    small, large = game(3), game(6)
    network = AgentNetwork(small, network_of(kind))
    sizes = [tuple(parameter.shape) for parameter in network.parameters()]
    retarget(network, large)
    assert network(worths(large, 2)).shape == (2, 6, 6)
    assert sizes == [tuple(each.shape) for each in AgentNetwork(large, network_of(kind)).parameters()]


def test_tables_of_agents_and_pairs_go_where_things_and_agents_go():
    spec = game(3, 4, idle=True)
    critic = awake(critic_of(spec, pairs=[(0, 1), (2, 1)]))
    seen, order = worths(spec, 2), torch.tensor([2, 0, 3, 1])
    every = torch.tensor([*order.tolist(), 4])
    before, after = dict(critic(seen)), dict(critic(seen[..., order]))
    torch.testing.assert_close(after[()], before[()])
    for agent in range(3):
        torch.testing.assert_close(after[agent,], before[agent,][:, every])
    for pair in ((0, 1), (2, 1)):
        torch.testing.assert_close(after[pair], before[pair][:, every][:, :, every])
    # Agents 0 and 2 change places: so do their tables, and what stands in a pair's table on the other side.
    swapped = dict(critic(seen[:, [2, 1, 0]]))
    torch.testing.assert_close(swapped[0,], before[2,])
    torch.testing.assert_close(swapped[0, 1], before[2, 1])
    assert float((before[0, 1] - before[0, 1].mT).detach().abs().max()) > 1e-3


def test_rows_of_a_pairs_table_are_the_actions_of_its_first_agent():
    spec = game(2, 4)
    heads = awake(critic_of(spec, pairs=[(0, 1)])).heads
    codes = Codes(torch.randn(1, 2, 8), torch.randn(1, 2, 4, 8))
    before = heads(codes, None)[0, -16:].view(4, 4)
    codes.choices[0, 0, 2] += 1.0  # what agent 0 sees of thing 2
    changed = (heads(codes, None)[0, -16:].view(4, 4) - before).abs() > 1e-6
    assert changed[2].all()
    assert not changed[[0, 1, 3]].any()


def test_a_pairs_table_sees_whether_both_choose_the_same_thing():
    spec = game(2, 3)
    critic = awake(critic_of(spec, pairs=[(0, 1)]))
    alike = torch.full((1, 2, 3), 0.5)
    table = dict(critic(alike))[0, 1][0].detach()
    apart = table[~torch.eye(3, dtype=torch.bool)]
    assert float(apart.std()) < 1e-6
    assert float((table.diagonal() - apart[0]).abs().min()) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("idle", [False, True])
def test_things_in_an_order_of_each_agents_own_are_valued_alike(kind, idle):
    """Tables go where the things go, and two agents meet at a thing, not at a place in their orders."""
    tasks, pairs = 4, [(0, 2)]
    spec = game(3, tasks, idle)
    other = make_env("assignment_game", agents=3, tasks=tasks, shown=tasks, idle=idle).spec
    critic, by_number = (awake(critic_of(each, kind, pairs, rivalry=3)) for each in (spec, other))
    by_number.load_state_dict(critic.state_dict())
    worth = worths(spec, 5)
    order = torch.rand(5, 3, tasks, generator=torch.Generator().manual_seed(1)).argsort(-1)
    shown = torch.stack([worth.gather(-1, order), order.float()], -1).flatten(-2)
    q, moved = critic(worth), by_number(shown)
    joint = torch.tensor([[0, 1, 2], [3, 3, 3], [2, 0, 2], [tasks + idle - 1] * 3, [1, 2, tasks + idle - 1]])
    actions = torch.where(
        joint < tasks, order.argsort(-1).gather(-1, joint.clamp_max(tasks - 1)[..., None])[..., 0], joint
    )
    torch.testing.assert_close(moved(actions), q(joint))
    assert moved.things is not None
    pair, other_pair = dict(q.own)[0, 2], dict(moved.own)[0, 2]
    more = torch.arange(tasks, tasks + idle).expand(5, -1)
    rows, columns = (torch.cat([order[:, agent], more], -1) for agent in (0, 2))
    expected = pair[torch.arange(5)[:, None, None], rows[:, :, None], columns[:, None, :]]
    torch.testing.assert_close(other_pair, expected)


@pytest.mark.parametrize("rivalry", [0, 3])
def test_a_critic_is_led_to_more_agents_and_gradients_reach_every_weight(rivalry):
    small, large = game(3), game(5)
    critic = critic_of(small, pairs=[(0, 1)], rivalry=rivalry)
    retarget(critic, large)
    critic.retarget(graph_of(large, [(0, 4), (1, 2)]))
    q = critic(worths(large, 64))
    assert isinstance(q, Congestion) == (rivalry > 0)
    values = q(torch.randint(5, (64, 5), generator=torch.Generator().manual_seed(1)))
    (values - torch.rand(64)).square().mean().backward()
    assert all(float(parameter.grad.abs().sum()) > 0 for parameter in critic.parameters())
    again = critic_of(large, pairs=[(0, 4), (1, 2)], rivalry=rivalry)
    again.load_state_dict(critic.state_dict())
    before, after = ((each.own if rivalry else each).flat for each in (q, again(worths(large, 64))))
    torch.testing.assert_close(after, before)


def test_tables_begin_at_zero_where_a_correction_must_and_can_leave_it():
    spec = game(3)
    critic = critic_of(spec, pairs=[(0, 1)], output_scale=0.0)
    factors = critic(worths(spec, 8))
    assert not bool(factors.flat.any())
    dict(factors)[0, 1].sum().backward()
    assert float(critic.heads.groups[2].weight.grad.abs().sum()) > 0.0


def test_what_one_agent_gives_is_its_share_of_the_mean_over_agents():
    """The same weights give tables that fall with the number of agents, as their parts of a mean reward do."""
    torch.manual_seed(0)
    head = ChoiceHead(4, 4, 8, 0, 1.0)
    codes = Codes(torch.randn(2, 3, 4), torch.randn(2, 3, 5, 4))
    assert head(codes).shape == (2, 3, 5, 1)
    small, large = game(2, 4), game(4, 4)
    critic = critic_of(small)
    seen = torch.full((1, 4, 4), 0.3)
    few = dict(critic(seen[:, :2]))[0,]
    retarget(critic, large)
    critic.retarget(graph_of(large))
    torch.testing.assert_close(dict(critic(seen))[0,] * 2, few)


def test_a_borrower_has_the_choices_of_its_lender():
    spec = game(3)
    lender = encoder_for(network_of("exchangeable"), spec)
    borrower = Borrowed(lender, 8)
    assert borrower.choices == lender.choices == Choices(3, 8)
    codes = lender.encode(worths(spec, 2))
    assert borrower.encode(worths(spec, 2), codes) is codes
    torch.testing.assert_close(borrower(worths(spec, 2), codes), codes.agents)
    assert not list(borrower.parameters())
    copy, larger = deepcopy(borrower), game(5)
    retarget(copy, larger)
    assert copy.choices == Choices(5, 8)


@pytest.mark.parametrize("potentials", ["own", "residual"])
def test_copies_that_play_are_led_to_a_larger_team_as_well(potentials):
    """The copy of a policy that borrows its critic's codes has no way back to the encoder that they come from."""
    small, large = game(3), game(5)
    learner = make_algorithm(
        "mean_field", small, Streams(0), rivalry=2, num_pairs=0, potentials=potentials, plays_by="target",
        shares_encoder=potentials == "residual", network={"kind": "exchangeable", "hidden": [8]},
    )  # fmt: skip
    if potentials == "own":
        with pytest.raises(ConfigError, match="potentials"):
            learner.retarget(large)
        return
    learner.retarget(large)
    step = make_env("assignment_game", agents=5, num_envs=4).reset(seed=0)
    assert learner.act(step, explore=False).shape == (4, 5)
    assert learner.learner.target_actor.correction.encoder.choices == Choices(5, 8)


@pytest.mark.parametrize("state", ["none", "critic"])
def test_a_critic_that_sees_the_state_beside_agents_chooses_among_the_same_things(state):
    spec = game(3)
    torch.manual_seed(0)
    encoder = encoder_for(network_of("exchangeable"), spec, sees_state=state == "critic")
    critic = FactorQ(graph_of(spec), encoder=encoder, hidden=(8,), per_agent=True, output_scale=1.0)
    assert isinstance(encoder, Beside) == (state == "critic")
    seen, order = worths(spec, 4), torch.tensor([2, 0, 1])
    # The state is all observations, and shows the things in their order too; it stands still here.
    context = (seen.flatten(1),) if state == "critic" else ()
    own, moved = (dict(critic(each, *context))[0,] for each in (seen, seen[..., order]))
    torch.testing.assert_close(moved, own[..., order])
    assert float(own.detach().std(-1).min()) > 1e-4


def test_what_does_not_fit_is_refused():
    spec = game(3)
    with pytest.raises(StructureError, match="of two, with an action for every thing"):
        critic_of(spec, pairs=[(0, 1, 2)])
    with pytest.raises(StructureError, match="of two, with an action for every thing"):
        critic_of(spec._replace(cardinalities=(2, 2, 2)))
    coverage = make_env("coverage", size=4, agents=2).spec
    with pytest.raises(StructureError, match="rivalry is for agents that choose among things"):
        critic_of(coverage, rivalry=2)
    with pytest.raises(ConfigError, match=r"entities\.actions"):
        Entities(EntitySet("itself", 0, 1, 0), (EntitySet("tasks", 0, 3, 1),), actions="task")
    with pytest.raises(ConfigError, match="independent agents only"):
        make_algorithm("spn_ac", spec, Streams(0), rivalry=2, num_pairs=0)
    with pytest.raises(ConfigError, match="critics"):
        make_algorithm("mean_field", spec, Streams(0), rivalry=2, num_pairs=0, critics=2)
    with pytest.raises(ConfigError, match="rivalry"):
        make_algorithm("mean_field", coverage, Streams(0), rivalry=2, num_pairs=0)
    with pytest.raises(ConfigError, match="num_pairs"):
        make_algorithm("mean_field", spec, Streams(0), rivalry=2)
    with pytest.raises(ConfigError, match="pairs"):
        make_algorithm("mean_field", spec, Streams(0), rivalry=2, num_pairs=0, pairs=((0, 1),))
