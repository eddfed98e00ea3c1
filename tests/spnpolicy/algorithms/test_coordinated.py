"""Coordination graphs maximised exactly: elimination against enumeration, and what learning with it gives."""

import itertools

import numpy as np
import pytest
import torch

import factor_q
from factor_q import FactorGraph, Factors
from spnpolicy.algorithms import make_algorithm
from spnpolicy.algorithms.coordinated import LinearFactors
from spnpolicy.base.errors import ConfigError, EnvError
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.data.protocol import Batch
from spnpolicy.parts import coordination
from spnpolicy.parts.coordination import GraphSettings, coordination_graph
from tests.spnpolicy.learning_cases import (
    CHAIN_VALUE_OF_B,
    ENDINGS,
    chain,
    chain_observation,
    full_batch,
    learn,
    play,
    rates,
    store_for,
)

ROWS = 3


def random_problem(rng):
    """A random graph with tables for a batch of rows and a mask that leaves every agent something."""
    cardinalities = [int(k) for k in rng.integers(1, 5, size=rng.integers(1, 7))]
    agents = range(len(cardinalities))
    possible = [c for size in (2, 3) for c in itertools.combinations(agents, size)]
    chosen = [c for c in possible if rng.random() < (0.4 if len(c) == 2 else 0.1)]
    scopes = [(agent,) for agent in agents] + [tuple(int(a) for a in rng.permutation(c)) for c in chosen]
    tables = [rng.normal(size=(ROWS, *(cardinalities[a] for a in scope))) for scope in scopes]
    mask = rng.random((ROWS, len(cardinalities), max(cardinalities))) < 0.6
    mask &= np.arange(max(cardinalities)) < np.array(cardinalities)[:, None]
    row, agent = np.nonzero(~mask.any(-1))
    mask[row, agent, 0] = True
    return cardinalities, scopes, tables, mask


def enumerate_all(cardinalities, scopes, tables, mask):
    """The value of every joint action as one array per row, -inf where the mask forbids it."""
    total = np.zeros((ROWS, *cardinalities))
    for scope, table in zip(scopes, tables, strict=True):
        order = np.argsort(scope)
        shape = [cardinalities[a] if a in scope else 1 for a in range(len(cardinalities))]
        total = total + table.transpose(0, *(1 + order)).reshape(ROWS, *shape)
    for agent, k in enumerate(cardinalities):
        shape = [ROWS] + [k if a == agent else 1 for a in range(len(cardinalities))]
        total = total + np.where(mask[:, agent, :k], 0.0, -np.inf).reshape(shape)
    return total


def test_elimination_equals_enumeration_on_200_random_graphs(seed):
    rng = np.random.default_rng(seed)
    for _ in range(200):
        cardinalities, scopes, tables, mask = random_problem(rng)
        truth = enumerate_all(cardinalities, scopes, tables, mask)
        axes = tuple(range(1, truth.ndim))
        factors = Factors(FactorGraph(cardinalities, scopes), [torch.tensor(table) for table in tables])
        allowed = coordination.allow(factors, torch.tensor(mask))
        best = coordination.eliminate(allowed)
        assert [tuple(row) for row in best.tolist()] == [np.unravel_index(t.argmax(), t.shape) for t in truth]
        np.testing.assert_allclose(allowed(best), truth.max(axes), atol=1e-12)
        largest = truth.max(axes)
        np.testing.assert_allclose(
            allowed.log_partition(), largest + np.log(np.exp(truth.T - largest).T.sum(axes)), atol=1e-10
        )
        found = allowed.max_marginals()
        for agent, k in enumerate(cardinalities):
            others = tuple(axis for axis in axes if axis != agent + 1)
            np.testing.assert_allclose(found[:, agent, :k], truth.max(others), atol=1e-10)


def ring_maximum(unary, pairs):
    """The maximum of a ring by a max-plus product of transfer matrices; pairs[i] joins i and i + 1."""
    product = None
    for own, pair in zip(unary, pairs, strict=True):
        step = own[:, None] + pair
        product = step if product is None else (product[:, :, None] + step[None]).max(1)
    return np.trace(product, 0), np.diagonal(product).max()


def test_a_ring_of_30_agents_is_maximised_exactly(seed):
    rng = np.random.default_rng(seed)
    unary, pairs = rng.normal(size=(4, 30, 4)), rng.normal(size=(4, 30, 4, 4))
    graph = coordination_graph(GraphSettings("ring"), (4,) * 30, 0)
    tables = {(agent,): unary[:, agent] for agent in range(30)}
    tables |= {(agent, agent + 1): pairs[:, agent] for agent in range(29)}
    tables[0, 29] = pairs[:, 29].transpose(0, 2, 1)
    factors = Factors(graph, [torch.tensor(tables[scope]) for scope in graph.scopes])
    expected = [ring_maximum(*row)[1] for row in zip(unary, pairs, strict=True)]
    np.testing.assert_allclose(factors(coordination.eliminate(factors)), expected, atol=1e-10)


@pytest.mark.parametrize(
    ("settings", "pairs"),
    [
        (GraphSettings("complete"), set(itertools.combinations(range(6), 2))),
        (GraphSettings("ring"), {(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (0, 5)}),
        (GraphSettings("chain"), {(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)}),
        (GraphSettings("grid"), {(0, 1), (1, 2), (3, 4), (4, 5), (0, 3), (1, 4), (2, 5)}),
        (GraphSettings("scopes", scopes=((2, 0, 4), (1,), (3, 5))), {(2, 0, 4), (3, 5)}),
        (GraphSettings("scopes"), set()),
    ],
)
def test_graphs_by_name(settings, pairs):
    graph = coordination_graph(settings, (2, 3, 2, 3, 2, 3), 0)
    assert graph.scopes[:6] == tuple((agent,) for agent in range(6))
    assert set(graph.scopes[6:]) == pairs


def test_random_graphs_follow_the_seed_and_bad_graphs_are_refused():
    first, again, other = (coordination_graph(GraphSettings("random", 5), (2,) * 8, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert len(first.scopes) == 8 + 5
    with pytest.raises(ConfigError, match="scopes are given, but graph is 'ring'"):
        coordination_graph(GraphSettings(scopes=((0, 1),)), (2, 2), 0)
    with pytest.raises(ConfigError, match=r"induced width 11.*max_entries is 1,048,576.*or dcg, which"):
        make_algorithm("coordinated", EnvSpec((4,) * 12, 3, 3, False), Streams(0), graph="complete")


def test_many_rows_are_maximised_in_parts_that_fit(monkeypatch):
    graph = factor_q.complete((3,) * 6)
    factors = Factors.from_flat(graph, torch.randn(50, graph.num_entries, generator=torch.Generator().manual_seed(0)))
    whole = factors.max()[1]
    sizes = []
    original = Factors.max
    monkeypatch.setattr(Factors, "max", lambda f, **o: sizes.append(f.batch_shape[0]) or original(f, **o))
    # Elimination itself refuses a part that is larger than this.
    monkeypatch.setattr(coordination, "DEFAULT_MAX_ENTRIES", 10_000)
    assert torch.equal(coordination.eliminate(factors), whole)
    assert len(sizes) > 3
    assert sum(sizes) == 50


def linear_case():
    """An algorithm with linear factors on a ring of four, random weights, and a batch of one row."""
    spec = EnvSpec((2, 3, 2, 3), 2, 8, False)
    algorithm = make_algorithm(
        "coordinated", spec, Streams(0), factors="linear", network={"features": {"frequencies": 0}}, discount=0.9
    )
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in (*algorithm.critic.parameters(), *algorithm.target_critic.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    seen, following = torch.randn(2, 1, 4, 2, generator=generator)
    mask = torch.arange(3) < torch.tensor(spec.cardinalities)[:, None]
    actions, reward = torch.tensor([[1, 2, 0, 1]]), torch.tensor([[1.0, 2.0, 3.0, 6.0]])
    ended = torch.zeros(1, dtype=torch.bool)
    batch = Batch(
        seen, seen.flatten(1), actions, reward, ended, mask[None], following, following.flatten(1), mask[None]
    )
    return algorithm, batch


def test_linear_factors_move_along_their_features_by_one_global_error():
    algorithm, batch = linear_case()
    values = algorithm.joint_factors(batch.observation).detach().tables
    joint = list(itertools.product(range(2), range(3), range(2), range(3)))
    best = max(float(algorithm.target_critic(batch.next_observation)(torch.tensor([u]))) for u in joint)
    scopes, actions = algorithm.graph.scopes, batch.actions[0].tolist()
    chosen = [float(table[0][tuple(actions[a] for a in scope)]) for scope, table in zip(scopes, values, strict=True)]
    delta = 3.0 + 0.9 * best - sum(chosen)
    algorithm.critic.zero_grad()
    # A huge learning rate cannot hide the direction: what is compared is the gradient before Adam.
    object.__setattr__(algorithm.config, "max_gradient_norm", 1e9)
    assert algorithm.update(batch, progress=0.0)["critic_loss"] == pytest.approx(delta**2, rel=1e-4)
    place = 0
    for run in algorithm.critic.runs:
        for row in range(len(run.agents)):
            scope = scopes[place]
            features = np.concatenate([[1.0], *(batch.observation[0, agent].numpy() for agent in scope)])
            one_hot = np.zeros([(2, 3, 2, 3)[agent] for agent in scope])
            one_hot[tuple(actions[agent] for agent in scope)] = 1.0
            found = np.concatenate([run.bias.grad[row][None], run.weight.grad[row]])
            expected = -2.0 * np.outer(features, one_hot.ravel())
            np.testing.assert_allclose(found, delta * expected, rtol=1e-3, atol=1e-4)
            # Not the error of its own table, which would be another algorithm.
            assert not np.allclose(found, (delta + sum(chosen) - chosen[place]) * expected, rtol=0.01)
            place += 1
    assert place == len(scopes)


def test_linear_factors_take_a_constant_and_any_scope():
    graph = FactorGraph((2, 3, 2), [(), (0,), (2, 1), (0, 1, 2)])
    encoder = torch.nn.Identity()
    encoder.out_features = 4
    network = LinearFactors(graph, encoder)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(0))
    seen = torch.randn(5, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    factors = network(seen)
    assert factors.batch_shape == (5, 2)
    constant, single, pair, _ = network.runs
    expected = constant.bias.sum() + single.bias[0, 1] + seen[3, 1, 0] @ single.weight[0, :, 1]
    without_pairs = [factors.tables[i][3, 1] for i in (0, 1)]
    torch.testing.assert_close(without_pairs[0] + without_pairs[1][1], expected)
    both = torch.cat([seen[3, 1, 2], seen[3, 1, 1]])
    torch.testing.assert_close(factors.tables[2][3, 1].flatten(), pair.bias[0] + both @ pair.weight[0])


BITS = np.array(list(itertools.product((0, 1), repeat=4)))
PLACES = np.array([8, 4, 2, 1])


def machines(samples=8):
    """Four machines on a ring, up or down; rebooting one brings it up, costs 0.3, and 0.3 more beside another reboot.

    A machine that is up stays up if its neighbour is, otherwise with probability 0.75. Each is worth 1 while it is up.
    Every state and joint action is seen `samples` times; the empirical model is the task to solve.
    """
    rng = np.random.default_rng(3)
    state = np.repeat(BITS, 16 * samples, 0)
    action = np.repeat(np.tile(BITS, (16, 1)), samples, 0)
    stays = np.where(np.roll(state, 1, -1) == 1, 1.0, 0.75)
    up = np.where(action == 1, 1.0, state * stays)
    following = (rng.random(state.shape) < up).astype(int)
    beside = action * np.roll(action, 1, -1)
    reward = (state - 0.3 * action - 0.3 * beside).sum(-1)
    return state, action, reward, following


def value_iteration(state, action, reward, following, discount):
    """Q of the empirical model, shape (16, 16)."""
    index = state @ PLACES, action @ PLACES
    moves, pay = np.zeros((16, 16, 16)), np.zeros((16, 16))
    np.add.at(moves, (*index, following @ PLACES), 1.0)
    moves /= moves.sum(-1, keepdims=True)
    pay[index] = reward
    q = np.zeros((16, 16))
    for _ in range(200):
        q = pay + discount * moves @ q.max(-1)
    return q


def largest_regret(name, updates, batch_size=None, **options):
    """What the worst choice of the learned greedy policy loses, over all states."""
    state, action, reward, following = machines()
    q = value_iteration(state, action, reward, following, 0.7)

    def seen(bits):
        return torch.eye(16)[torch.tensor(bits @ PLACES)][:, None].expand(-1, 4, 16)

    now, later, count = seen(state), seen(following), len(state)
    mask, ended = torch.ones(count, 4, 2, dtype=torch.bool), torch.zeros(count, dtype=torch.bool)
    reward = torch.tensor(reward, dtype=torch.float32)[:, None].expand(-1, 4)
    batch = Batch(now, now[:, 0], torch.tensor(action), reward, ended, mask, later, later[:, 0], mask)
    options = {"discount": 0.7, "target": {"rate": 0.1}, "network": {"features": {"frequencies": 0}}} | options
    algorithm = make_algorithm(name, EnvSpec((2,) * 4, 16, 16, False), Streams(0), **options)
    generator = torch.Generator().manual_seed(0)
    for _ in range(updates):
        rows = torch.randint(count, (batch_size,), generator=generator) if batch_size else slice(None)
        drawn = {field: value[rows] for field, value in batch._asdict().items() if value is not None}
        algorithm.update(Batch(**drawn), progress=0.0)
    nothing, never = np.zeros((16, 4), np.float32), np.zeros(16, bool)
    observation, everything = seen(BITS).numpy(), np.ones((16, 4, 2), bool)
    step = Step(
        observation, observation[:, 0], nothing, never, never, everything, observation, observation[:, 0], everything
    )
    greedy = algorithm.act(step, explore=False) @ PLACES
    return float((q.max(-1) - q[np.arange(16), greedy]).max())


@pytest.mark.slow
def test_the_greedy_policy_on_a_ring_of_machines_is_that_of_value_iteration():
    linear = {"factors": "linear", "critic": {"learning_rate": 0.05}}
    assert largest_regret("coordinated", 120, **linear) == 0.0
    # Tables of single agents cannot tell that neighbours should not reboot together.
    assert largest_regret("coordinated", 120, graph="scopes", **linear) > 0.2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coordinated", "dcg"])
def test_networks_learn_the_policy_of_value_iteration_too(name):
    regret = largest_regret(name, 2000, batch_size=256, graph="ring", network={"hidden": (64,)}, **rates(critic=3e-3))
    assert regret == 0.0


@pytest.mark.parametrize(
    "options",
    [
        {"factors": "linear", "network": {"features": {"frequencies": 0}}, "critic": {"learning_rate": 2e-2}},
        pytest.param({"double_q": True, "share_factors": False}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("ending", ENDINGS)
def test_time_limits_bootstrap_and_ends_do_not(ending, options):
    options = {"discount": 0.8, "network": {"hidden": (32,)}, **rates(critic=2e-3), "target": {"rate": 0.2}} | options
    algorithm = learn("coordinated", chain(ending), updates=250, batch_size=64, **options)
    values = algorithm.joint_factors(chain_observation()[0]).max()[0].detach()
    of_b = CHAIN_VALUE_OF_B[ending]
    np.testing.assert_allclose(values, [0.8 * of_b, of_b], rtol=0.01)


def scrambled(seed=0, **options):
    """An algorithm of three agents with weights large enough to have opinions, and its environment."""
    env = chain("terminated", num_envs=60, cardinalities=(2, 4, 3))
    algorithm = make_algorithm("coordinated", env.spec, Streams(seed), network={"hidden": (16,)}, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (*algorithm.critic.parameters(), *algorithm.target_critic.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    return algorithm, env


@pytest.mark.parametrize("factors", ["neural", "linear"])
def test_greedy_play_is_the_best_available_joint_action(factors):
    algorithm, env = scrambled(factors=factors)
    joint = np.array(list(itertools.product(range(2), range(4), range(3))))
    before = algorithm._generator.bit_generator.state
    for seed in range(3):
        step = env.reset(seed=seed)
        table = algorithm.joint_factors(torch.tensor(step.observation))
        values = np.stack([table(torch.tensor(u).expand(60, 3)).detach() for u in joint], -1)
        legal = step.available_actions[:, np.arange(3), joint].all(-1)
        expected = joint[np.where(legal, values, -np.inf).argmax(-1)]
        np.testing.assert_array_equal(algorithm.act(step, explore=False), expected)
    assert algorithm._generator.bit_generator.state == before


def test_all_agents_of_an_environment_explore_together_and_only_as_masks_allow():
    algorithm, env = scrambled(exploration={"start": 0.5, "end": 0.5})
    store = store_for(algorithm, env.spec)
    _, step = play(algorithm, env, store, 40)  # asserts that everything was available
    same, envs = 0, 0
    single = np.zeros(3)
    for _ in range(100):
        greedy, taken = algorithm.act(step, explore=False), algorithm.act(step, explore=True)
        differs = greedy != taken
        same += (~differs.any(-1)).sum()
        envs += len(differs)
        single += differs.sum(0)
        step = env.step(taken)
    # Masks leave few choices, so a random joint action is often the greedy one.
    assert same / envs > 0.5
    assert (single > 0).all()
    free = chain("terminated", num_envs=4000, cardinalities=(4,) * 6, has_action_masks=False)
    algorithm = make_algorithm("coordinated", free.spec, Streams(0), exploration={"start": 0.5, "end": 0.5})
    step = free.reset(seed=0)
    differs = algorithm.act(step, explore=True) != algorithm.act(step, explore=False)
    share = differs.any(-1).mean()
    assert 0.46 < share < 0.54
    assert differs[differs.any(-1)].mean() == pytest.approx(0.75, abs=0.02)


def test_an_agent_that_may_do_nothing_is_named_and_what_leads_there_is_worth_its_reward():
    algorithm, env = scrambled()
    step = env.reset(seed=0)
    step.available_actions[7, 1] = False
    with pytest.raises(EnvError, match="env 7: agent 1 has no available action"):
        algorithm.act(step, explore=False)
    store = store_for(algorithm, env.spec)
    play(algorithm, env, store, 5)
    batch = store.draw(40)
    stuck = batch.next_available_actions.clone()
    stuck[5, 2] = False
    values = algorithm._next_value(batch._replace(next_available_actions=stuck))
    assert values[5] == 0.0
    assert (values[:5] != 0.0).all()


def test_double_q_chooses_with_the_online_tables_and_values_with_the_target():
    joint = torch.tensor(list(itertools.product(range(2), range(4), range(3))))
    differ = 0
    for double_q in (False, True):
        algorithm, env = scrambled(double_q=double_q)
        store = store_for(algorithm, env.spec)
        play(algorithm, env, store, 5)
        batch = store.draw(60)
        legal = batch.next_available_actions[:, torch.arange(3), joint].all(-1)
        seen = batch.next_observation
        online, target = (
            torch.stack([net(seen)(u.expand(60, 3)) for u in joint], -1).detach()
            for net in (algorithm.critic, algorithm.target_critic)
        )
        chooser = online if double_q else target
        choice = chooser.masked_fill(~legal, -torch.inf).argmax(-1, keepdim=True)
        expected = target.gather(-1, choice).squeeze(-1)
        torch.testing.assert_close(algorithm._next_value(batch), expected)
        differ += int((expected < target.masked_fill(~legal, -torch.inf).amax(-1) - 0.01).any())
    assert differ == 1


def test_a_linear_table_of_all_agents_learns_any_payoff():
    payoff = np.random.default_rng(0).normal(size=(2, 3, 2)).tolist()
    batch = full_batch(payoff)
    algorithm = make_algorithm(
        "coordinated", EnvSpec((2, 3, 2), 1, 1, False), Streams(0), factors="linear", critic={"learning_rate": 0.05},
        graph="scopes", scopes=((0, 1, 2),),
    )  # fmt: skip
    for _ in range(200):
        loss = algorithm.update(batch, progress=0.0)["critic_loss"]
    assert loss < 1e-4
