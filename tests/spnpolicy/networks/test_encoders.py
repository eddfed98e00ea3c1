"""What every kind of network promises, and what is asked of the one over entities: order and number do not matter."""

import json

import pytest
import torch

from circuits import structures
from factor_q import FactorGraph, FactorQ
from spnpolicy import SPNPolicy, make_env
from spnpolicy.algorithms import ALGORITHMS, config_class, make_algorithm
from spnpolicy.base.errors import ConfigError
from spnpolicy.base.seeding import Streams
from spnpolicy.data.entities import Entities, EntitySet
from spnpolicy.data.env import EnvSpec
from spnpolicy.networks.agents import AgentNetwork
from spnpolicy.networks.encoders import OVER_ENTITIES, Network, encoder_for, retarget, state_encoder_for
from spnpolicy.networks.features import FourierFeatures
from spnpolicy.networks.mixers import QMixer
from spnpolicy.training.config import RunConfig, TrainConfig
from spnpolicy.training.loop import train

KINDS = ("mlp", "recurrent", "entities", "exchangeable")
"""One row per kind of network."""


def network_of(kind, hidden=(16, 12), **options):
    return Network(kind, hidden, FourierFeatures(2), **options)


def spec_of(agents=3, goals=4, cells=4.0, rows=2):
    """An environment in which goals may be absent, others have no place, and walls have nothing but one."""
    own = EntitySet("itself", 0, 1, 3, (0, 2))
    goals_seen = EntitySet("goals", 3, goals, 4, (0, 1), presence=3, is_shared=True)
    others = EntitySet("others", goals_seen.stop, agents - 1, 2)
    walls = EntitySet("walls", others.stop, rows, 2, (1, 0))
    entities = Entities(own, (goals_seen, others, walls), cells, is_relative=True, state_is_observations=True)
    return EnvSpec((3,) * agents, walls.stop, agents * walls.stop, False, entities=entities)


SPEC = spec_of()


def observations(spec, *batch, seed=0):
    seen = torch.rand(*batch, spec.num_agents, spec.observation_size, generator=torch.Generator().manual_seed(seed))
    goals = spec.entities.sets[0]
    there = torch.rand(*batch, spec.num_agents, goals.count, generator=torch.Generator().manual_seed(seed + 1)) < 0.6
    block = seen[..., goals.start : goals.stop].unflatten(-1, (goals.count, goals.size))
    block[..., 3] = there.float()
    return seen


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [(), (5,), (2, 5)])
def test_shapes_and_independence_of_rows(kind, batch):
    torch.manual_seed(0)
    network, seen = network_of(kind), observations(SPEC, *batch)
    encoder, whole = encoder_for(network, SPEC), state_encoder_for(network, SPEC)
    codes, state = encoder(seen), seen.flatten(-2)
    assert codes.shape == (*batch, 3, encoder.out_features)
    assert whole(state).shape == (*batch, whole.out_features)
    both = encoder_for(network, SPEC, sees_state=True)
    assert both(seen, state).shape == (*batch, 3, both.out_features)
    if kind == "exchangeable":
        return  # agents hear of each other
    changed = seen.clone()
    changed[..., 1, :] += 1.0
    torch.testing.assert_close(encoder(changed)[..., 0, :], codes[..., 0, :], rtol=0, atol=1e-6)


def readers(network):
    """Everything that reads observations or states through an encoder, each with what it is given."""
    seen = observations(SPEC, 32)
    state, circuit = seen.flatten(-2), structures.keep_set(SPEC.cardinalities)
    graph = FactorGraph(SPEC.cardinalities, [(0,), (1,), (2,), (0, 1)])
    options = {"hidden": network.hidden, "per_agent": True, "agent_id": network.tells_agents_apart}
    whole = {"hidden": network.hidden}
    return [
        (lambda: FactorQ(graph, encoder=encoder_for(network, SPEC), **options), (seen,)),
        (lambda: SPNPolicy(circuit, encoder=encoder_for(network, SPEC), **options), (seen,)),
        (lambda: SPNPolicy(circuit, encoder=state_encoder_for(network, SPEC), **whole), (state,)),
        (lambda: AgentNetwork(SPEC, network, recurrent=False, sees_state=True), (seen, state)),
        (lambda: QMixer(3, SPEC.state_size, encoder=state_encoder_for(network, SPEC)), (torch.rand(32, 3), state)),
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", range(5))
def test_gradients_reach_every_parameter_and_weights_come_back(kind, place):
    make, inputs = readers(network_of(kind))[place]
    torch.manual_seed(1)
    module, fresh = make(), make()
    with torch.no_grad():  # away from the start, where last layers are almost 0
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    out = numbers(module(*inputs))
    out.square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name
    fresh.load_state_dict(module.state_dict())
    torch.testing.assert_close(numbers(fresh(*inputs)), out, rtol=0, atol=0)


def numbers(output):
    """The tensor of a network's output, be it factors or a policy."""
    return output if isinstance(output, torch.Tensor) else getattr(output, "flat", getattr(output, "logits", None))


@pytest.mark.parametrize("kind", KINDS)
def test_equal_seeds_give_equal_networks(kind):
    first, second = [], []
    for parts in (first, second):
        torch.manual_seed(3)
        parts += AgentNetwork(SPEC, network_of(kind)).state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def entity_encoder(spec=SPEC, **options):
    torch.manual_seed(0)
    return encoder_for(network_of("entities", **options), spec)


def shuffled(spec, seen, order):
    """The same observations with the entities of each set in another order."""
    result = seen.clone()
    for part in spec.entities.sets:
        block = seen[..., part.start : part.stop].unflatten(-1, (part.count, part.size))
        result[..., part.start : part.stop] = block[..., order(part.count), :].flatten(-2)
    return result


def test_order_does_not_matter():
    encoder, seen = entity_encoder(), observations(SPEC, 50)
    backwards = shuffled(SPEC, seen, lambda count: list(reversed(range(count))))
    assert (backwards != seen).any()
    torch.testing.assert_close(encoder(backwards), encoder(seen), rtol=0, atol=1e-6)
    for units, permuted in zip(encoder.units(seen), encoder.units(backwards), strict=True):
        torch.testing.assert_close(permuted, units.flip(-2), rtol=0, atol=1e-6)
    agents = [2, 0, 1]
    torch.testing.assert_close(encoder(seen[:, agents]), encoder(seen)[:, agents], rtol=0, atol=1e-6)
    whole = state_encoder_for(network_of("entities"), SPEC)
    torch.testing.assert_close(whole(seen[:, agents].flatten(-2)), whole(seen.flatten(-2)), rtol=0, atol=1e-6)
    network = AgentNetwork(SPEC, network_of("entities"))
    torch.testing.assert_close(network(seen[:, agents]), network(seen)[:, agents], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", OVER_ENTITIES)
def test_with_agent_id_agents_that_see_the_same_may_differ(kind):
    seen = observations(SPEC, 5)[:, :1].expand(-1, 3, -1)
    for agent_id in (False, True):
        network = AgentNetwork(SPEC, network_of(kind, agent_id=agent_id), output_gain=1.0)
        values = network(seen)
        assert torch.allclose(values[:, 0], values[:, 1]) is not agent_id


def test_what_is_absent_has_no_influence_and_none_at_all_is_no_nan():
    encoder, seen = entity_encoder(), observations(SPEC, 50)
    goals = SPEC.entities.sets[0]
    changed = seen.clone()
    block = changed[..., goals.start : goals.stop].unflatten(-1, (goals.count, goals.size))
    absent = block[..., 3] == 0.0
    block[..., :3] += 9.0 * absent.unsqueeze(-1)
    torch.testing.assert_close(encoder(changed), encoder(seen), rtol=0, atol=1e-6)
    assert (encoder.units(seen)[0][absent] == 0.0).all()
    block[..., 3] = 0.0
    changed.requires_grad_()
    code = encoder(changed)
    code.sum().backward()
    assert code.isfinite().all()
    assert changed.grad.isfinite().all()


def test_absent_entities_count_like_none():
    larger, seen = spec_of(goals=6), observations(SPEC, 9)
    goals, more = SPEC.entities.sets[0], larger.entities.sets[0]
    padded = torch.cat(
        [seen[..., : goals.stop], torch.zeros(9, 3, more.stop - goals.stop), seen[..., goals.stop :]], -1
    )
    encoder = entity_encoder()
    expected = encoder(seen)
    retarget(encoder, larger)
    torch.testing.assert_close(encoder(padded), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("other", [spec_of(agents=5, goals=7, rows=1), spec_of(agents=1, goals=0, rows=0)])
@pytest.mark.parametrize("kind", OVER_ENTITIES)
def test_one_set_of_weights_serves_every_number_of_agents_and_entities(kind, other):
    network = network_of(kind)
    for make in (
        lambda spec: AgentNetwork(spec, network),
        lambda spec: FactorQ(
            FactorGraph(spec.cardinalities, [(i,) for i in range(spec.num_agents)]),
            encoder=encoder_for(network, spec), hidden=(8,), per_agent=True,
        ),
        lambda spec: state_encoder_for(network, spec),
    ):  # fmt: skip
        torch.manual_seed(0)
        trained, larger = make(SPEC), make(other)
        larger.load_state_dict(trained.state_dict())
        seen = observations(other, 4)
        result = numbers(larger(seen.flatten(-2) if hasattr(larger, "agents") else seen))
        assert result.isfinite().all()


def test_a_larger_board_means_the_same_in_cells():
    """The same goals two cells further, on a board twice as large, seen by a network that was retargeted."""
    small, large = (make_env("coverage", agents=2, size=size, num_envs=1) for size in (5, 9))
    torch.manual_seed(0)
    encoder = encoder_for(Network("entities", (8,), FourierFeatures(0)), small.spec)
    agents, goals = [[0, 0], [1, 3]], [[2, 2], [4, 1]]
    codes = []
    for env, size in ((small, 5), (large, 9)):
        cells = [torch.tensor([[row * size + column for row, column in places]]).numpy() for places in (agents, goals)]
        retarget(encoder, env.spec)
        codes.append(encoder.units(torch.tensor(env.set_layout(*cells).observation)))
    # Agent 0 stands in the corner, so that its own numbers, shares of the board, agree as well.
    for unit, other in zip(*codes, strict=True):
        torch.testing.assert_close(unit[:, 0], other[:, 0], rtol=0, atol=1e-5)
    with pytest.raises(ConfigError, match="the network reads"):
        retarget(encoder, SPEC)


def test_where_nothing_is_declared_entities_are_refused_with_the_way_out():
    spec = EnvSpec((2, 2), 3, 6, False)
    with pytest.raises(ConfigError, match=r"does not declare.*EnvSpec\.entities.*option entities"):
        make_algorithm("vdn", spec, Streams(0), network={"kind": "entities"})
    short = SPEC._replace(observation_size=SPEC.observation_size + 1)
    with pytest.raises(ConfigError, match="the parts end at column"):
        encoder_for(network_of("entities"), short)
    hidden_state = SPEC.entities.__class__(SPEC.entities.own, SPEC.entities.sets, is_relative=True)
    with pytest.raises(ConfigError, match="state_is_observations"):
        state_encoder_for(network_of("entities"), SPEC._replace(entities=hidden_state))
    with pytest.raises(ConfigError, match="an observation has 5 numbers"):
        entity_encoder()(torch.zeros(3, 5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": ()}, r"network.hidden is \(\)"),
        ({"hidden": (8, 0)}, r"^hidden\[1\] is 0, but must be between 1 and"),
        ({"rounds": -1}, "^rounds is -1, but must be between 0 and"),
        ({"rounds": 3}, "network.rounds is 3, but must be left alone"),
        ({"agent_id": True}, "network.agent_id is True, but must be left alone"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Network(**options)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_takes_the_kinds_that_it_declares_and_refuses_others_by_name(name):
    env = make_env("coverage", agents=2, size=3)
    declared = config_class(name).network_kinds
    for kind in KINDS:
        options = {"network": {"kind": kind, "hidden": (8,)}}
        if kind in OVER_ENTITIES and hasattr(config_class(name), "share_parameters"):
            with pytest.raises(ConfigError, match="share_parameters is False, but must be True"):
                make_algorithm(name, env.spec, Streams(0), share_parameters=False, **options)
            options["share_parameters"] = True
        if kind in declared:
            step = env.reset(seed=0)
            algorithm = make_algorithm(name, env.spec, Streams(0), **options)
            if kind != "recurrent":
                assert algorithm.act(step, explore=True).shape == (1, 2)
        else:
            with pytest.raises(ConfigError, match=f"network.kind is '{kind}', but {name} takes"):
                make_algorithm(name, env.spec, Streams(0), **options)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("spn_ac", 0.7), ("qmix", 0.7)])
def test_networks_over_entities_learn_small_coverage(name, least, tmp_path):
    """4x4, 2 agents, 585 updates, share of the optimum: 0.86 and 0.88 when written; kind mlp 0.90 and 0.62."""
    settings = TrainConfig(
        steps=38_400, num_envs=64, batch_size=256, updates=1, evaluate_every=38_400, evaluation_episodes=128,
        log_every=38_400, checkpoint_every=10**7,
    )  # fmt: skip
    options = {"network": {"kind": "entities", "hidden": [32, 32]}, "critic": {"learning_rate": 1e-3}}
    task = {"agents": 2, "size": 4, "episode_limit": 30}
    train(RunConfig(name, "coverage", options, task, settings), tmp_path / "run")
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["fraction_of_optimum"] for record in records if record["kind"] == "evaluation"][-1] >= least
