"""Deep coordination graphs: max-plus against enumeration and an independent copy, and what learning with it gives."""

import itertools

import numpy as np
import pytest
import torch

import factor_q
from factor_q import FactorGraph, Factors
from spnpolicy.algorithms import make_algorithm
from spnpolicy.base.errors import ConfigError, EnvError
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec
from spnpolicy.parts import coordination
from spnpolicy.training.player import Player
from tests.spnpolicy.learning_cases import (
    CHAIN_VALUE_OF_B,
    CLIMBING,
    chain,
    chain_observation,
    full_batch,
    game_spec,
    learn,
    play,
    rates,
    store_for,
)

PENALTY = [[-100.0, 0.0, 10.0], [0.0, 2.0, 0.0], [10.0, 0.0, -100.0]]


def random_tables(rng, agents, actions, pairs, rows=3):
    """Normal tables for a batch of rows, forbidden actions among the single ones: unary, pairs, and the factors."""
    unary = rng.normal(size=(rows, agents, actions))
    forbidden = rng.random(unary.shape) < 0.3
    forbidden[..., 0] = False
    unary[forbidden] = -np.inf
    joint = rng.normal(size=(rows, len(pairs), actions, actions))
    graph = FactorGraph([actions] * agents, [(agent,) for agent in range(agents)] + pairs)
    flat = np.concatenate([unary.reshape(rows, -1), joint.reshape(rows, -1)], -1)
    return unary, joint, Factors.from_flat(graph, torch.tensor(flat))


def value(unary, joint, pairs, choice):
    """The value of one joint action in one row."""
    singles = sum(unary[agent, action] for agent, action in enumerate(choice))
    return singles + sum(joint[e, choice[i], choice[j]] for e, (i, j) in enumerate(pairs))


def largest(unary, joint, pairs):
    """The maximum of one row over all joint actions."""
    agents, actions = unary.shape
    return max(value(unary, joint, pairs, u) for u in itertools.product(range(actions), repeat=agents))


def decoded(unary, joint, pairs, iterations):
    """The values of what the agents choose before the first and after every iteration, one message at a time."""
    agents, actions = unary.shape
    told = {(i, j): np.zeros(actions) for pair in pairs for i, j in (pair, pair[::-1])}
    seen = []
    for _ in range(iterations + 1):
        beliefs = [
            unary[i] + sum((m for (_, to), m in told.items() if to == i), np.zeros(actions)) for i in range(agents)
        ]
        seen.append(value(unary, joint, pairs, [int(belief.argmax()) for belief in beliefs]))
        fresh = {}
        for e, (i, j) in enumerate(pairs):
            for source, target, payoff in ((i, j, joint[e]), (j, i, joint[e].T)):
                rest = beliefs[source] - told[target, source]
                message = np.array([max(rest[a] + payoff[a, b] for a in range(actions)) for b in range(actions)])
                fresh[source, target] = message - message.mean()
        told = fresh
    return seen


def test_max_plus_is_exact_on_trees(seed):
    rng = np.random.default_rng(seed)
    for _ in range(60):
        agents, actions = int(rng.integers(1, 7)), int(rng.integers(1, 5))
        # Each agent but the first hangs on an earlier one; some trees fall apart into several.
        pairs = [(int(rng.integers(agent)), agent) for agent in range(1, agents) if rng.random() < 0.9]
        unary, joint, factors = random_tables(rng, agents, actions, pairs)
        truth = [largest(u, p, pairs) for u, p in zip(unary, joint, strict=True)]
        found, best = coordination.max_plus(factors, iterations=agents, improve=False)
        np.testing.assert_allclose(found, truth, atol=1e-12)
        np.testing.assert_allclose(factors(best), truth, atol=1e-12)


def test_max_plus_keeps_the_best_joint_action_that_messages_ever_led_to(seed):
    rng = np.random.default_rng(seed)
    gained = exact = 0
    for _ in range(25):
        agents = int(rng.integers(3, 6))
        pairs = list(itertools.combinations(range(agents), 2))
        unary, joint, factors = random_tables(rng, agents, 3, pairs)
        iterates = np.array([decoded(u, p, pairs, 8) for u, p in zip(unary, joint, strict=True)])
        for count in (0, 1, 8):
            found, _ = coordination.max_plus(factors, iterations=count, improve=False)
            np.testing.assert_allclose(found, iterates[:, : count + 1].max(-1), atol=1e-12)
        better, best = coordination.max_plus(factors, iterations=8)
        truth = np.array([largest(u, p, pairs) for u, p in zip(unary, joint, strict=True)])
        assert (better.numpy() >= iterates.max(-1) - 1e-12).all()
        assert (better.numpy() <= truth + 1e-12).all()
        torch.testing.assert_close(factors(best), better)
        gained += int((better.numpy() > iterates[:, 0] + 1e-9).sum())
        exact += int((better.numpy() > truth - 1e-9).sum())
    # Of 75 complete graphs, messages helped in 58 and found the maximum in 72 when this was written.
    assert gained > 40
    assert exact > 60


def test_agreement_with_the_general_max_plus_on_a_ring():
    rng = np.random.default_rng(0)
    pairs = [*((i, i + 1) for i in range(11)), (0, 11)]
    _, _, factors = random_tables(rng, 12, 4, pairs, rows=40)
    ours, _ = coordination.max_plus(factors, iterations=12)
    theirs = factor_q.max_plus(factors, steps=50, generator=torch.Generator().manual_seed(0)).value
    exact = factors.max()[0]
    assert (ours <= exact + 1e-9).all()
    assert (ours >= exact - 1e-9).double().mean() >= (theirs >= exact - 1e-9).double().mean() - 0.1


def test_agents_that_cannot_tell_two_optima_apart_are_saved_by_the_last_round():
    table = torch.tensor(PENALTY)
    graph = factor_q.complete((3, 3))
    factors = Factors(graph, [torch.zeros(3), torch.zeros(3), table])
    assert coordination.max_plus(factors, improve=False)[0] == -100.0
    found, best = coordination.max_plus(factors)
    assert found == 10.0
    assert best.tolist() in ([0, 2], [2, 0])


def test_other_tables_than_singles_and_pairs_are_refused():
    zeros = Factors.from_flat(g := FactorGraph((2, 2), [(0,), (0, 1)]), torch.zeros(g.num_entries))
    with pytest.raises(ValueError, match="max_plus needs a table of each agent, then pairs"):
        coordination.max_plus(zeros)
    with pytest.raises(ConfigError, match="dcg has payoffs of pairs only"):
        make_algorithm("dcg", EnvSpec((2,) * 4, 3, 3, False), Streams(0), graph="scopes", scopes=((0, 1, 2),))


def values_of(algorithm, observation, state):
    """The largest Q of each observation, by elimination."""
    factors = algorithm.critic(algorithm.critic.encoder(observation))
    return (factors.max()[0] + algorithm.critic.offset(state)).detach()


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("options", "most"), [({}, 0.01), ({"rank": 3}, 0.3)])
@pytest.mark.parametrize(("payoff", "best"), [(CLIMBING, 11.0), (PENALTY, 10.0)])
def test_pair_payoffs_represent_two_player_games(payoff, best, options, most):
    batch = full_batch(payoff)
    options = {"network": {"hidden": (32,)}, "critic": {"learning_rate": 1e-2}} | options
    algorithm = make_algorithm("dcg", game_spec(payoff), Streams(0), **options)
    for _ in range(150):
        loss = algorithm.update(batch, progress=0.0)["critic_loss"]
    table = np.array(payoff)
    additive = table.mean(1, keepdims=True) + table.mean(0, keepdims=True) - table.mean()
    # Sums of products wobble longer on their way to 0, but no sum of single values comes near.
    assert loss < most * ((table - additive) ** 2).mean()
    step = chain("terminated", num_envs=1, cardinalities=(3, 3), has_action_masks=False).reset(seed=0)
    step = step._replace(observation=np.ones((1, 2, 1), np.float32), state=np.ones((1, 1), np.float32))
    assert table[tuple(algorithm.act(step, explore=False)[0])] == best


@pytest.mark.parametrize(
    ("ending", "options"),
    [
        pytest.param("terminated", {}, marks=pytest.mark.slow),
        ("truncated", {}),
        pytest.param("truncated", {"state_value": True, "double_q": False}, marks=pytest.mark.slow),
    ],
)
def test_time_limits_bootstrap_and_ends_do_not(ending, options):
    algorithm = learn(
        "dcg", chain(ending), updates=250, batch_size=64, discount=0.8, network={"hidden": (32,)}, embedding=32,
        critic={"learning_rate": 2e-3}, target={"rate": 0.2}, **options,
    )  # fmt: skip
    of_b = CHAIN_VALUE_OF_B[ending]
    np.testing.assert_allclose(values_of(algorithm, *chain_observation()), [0.8 * of_b, of_b], rtol=0.01)


@pytest.mark.slow
def test_agents_with_memories_and_weights_of_their_own_learn_the_chain():
    algorithm = learn(
        "dcg", chain("terminated"), updates=250, batch_size=32, discount=0.8, embedding=16,
        network={"kind": "recurrent", "hidden": (16,)}, **rates(critic=1e-2), target={"rate": 0.1}, sequence_length=2,
        share_parameters=False,
    )  # fmt: skip
    seen, _ = chain_observation()
    hidden, found = torch.zeros(1, 2, 16), []
    for step in range(2):
        embedding, hidden = algorithm.critic.encoder.advance(seen[step : step + 1], hidden)
        found.append(algorithm.critic(embedding).max()[0].item())
    np.testing.assert_allclose(found, [0.8, 1.0], rtol=0.01)


def scrambled(seed=0, **options):
    """An algorithm of three agents with weights large enough to have opinions, and its environment."""
    env = chain("terminated", num_envs=60, cardinalities=(2, 4, 3))
    algorithm = make_algorithm("dcg", env.spec, Streams(seed), network={"hidden": (16,)}, embedding=8, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (*algorithm.critic.parameters(), *algorithm.target_critic.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    return algorithm, env


def joint_values(network, observation):
    """Q of every joint action, shape (batch, 24), and the joint actions."""
    joint = torch.tensor(list(itertools.product(range(2), range(4), range(3))))
    factors = network(network.encoder(observation)).detach()
    return torch.stack([factors(u.expand(len(observation), 3)) for u in joint], -1), joint


@pytest.mark.parametrize("graph", ["complete", "chain"])
def test_greedy_play_is_available_and_on_a_chain_the_best_there_is(graph):
    algorithm, env = scrambled(graph=graph)
    _, step = play(algorithm, env, store_for(algorithm, env.spec), 40)  # asserts that everything was available
    before = algorithm._generator.bit_generator.state
    values, joint = joint_values(algorithm.critic, torch.tensor(step.observation))
    legal = torch.tensor(step.available_actions)[:, torch.arange(3), joint].all(-1)
    values = values.masked_fill(~legal, -torch.inf)
    taken = (torch.tensor(algorithm.act(step, explore=False))[:, None] == joint).all(-1)
    assert (legal & taken).any(-1).all()
    if graph == "chain":
        torch.testing.assert_close(values[taken], values.amax(-1))
    assert algorithm._generator.bit_generator.state == before
    step.available_actions[7, 1] = False
    with pytest.raises(EnvError, match="env 7: agent 1 has no available action"):
        algorithm.act(step, explore=False)


def test_agents_explore_each_on_its_own():
    env = chain("terminated", num_envs=4000, cardinalities=(4, 4, 4), has_action_masks=False)
    algorithm = make_algorithm("dcg", env.spec, Streams(0), exploration={"start": 0.5, "end": 0.5})
    step = env.reset(seed=0)
    differs = algorithm.act(step, explore=True) != algorithm.act(step, explore=False)
    assert differs.mean() == pytest.approx(0.375, abs=0.02)
    assert differs.any(-1).mean() == pytest.approx(1 - 0.625**3, abs=0.04)


def test_double_q_chooses_with_the_online_tables_and_values_with_the_target():
    for double_q in (False, True):
        algorithm, env = scrambled(graph="chain", double_q=double_q, state_value=True)
        store = store_for(algorithm, env.spec)
        play(algorithm, env, store, 5)
        batch = store.draw(60)
        stuck = batch.next_available_actions.clone()
        stuck[5, 2] = False
        batch = batch._replace(next_available_actions=stuck)
        (online, joint), (target, _) = (
            joint_values(network, batch.next_observation) for network in (algorithm.critic, algorithm.target_critic)
        )
        legal = stuck[:, torch.arange(3), joint].all(-1)
        choice = (online if double_q else target).masked_fill(~legal, -torch.inf).argmax(-1, keepdim=True)
        expected = target.gather(-1, choice).squeeze(-1) + algorithm.target_critic.offset(batch.next_state).detach()
        expected[5] = 0.0
        y = batch.reward.mean(-1) + 0.95 * expected * ~batch.terminated
        now, _ = joint_values(algorithm.critic, batch.observation)
        taken = (batch.actions * torch.tensor([12, 3, 1])).sum(-1, keepdim=True)
        value = now.gather(-1, taken).squeeze(-1) + algorithm.critic.offset(batch.state).detach()
        found = algorithm.update(batch, progress=0.0)["critic_loss"]
        assert found == pytest.approx((value - y).square().mean().item(), rel=1e-4)


def test_equal_agents_have_symmetric_payoffs_and_tables_are_means():
    spec = EnvSpec((3,) * 4, 5, 20, False)
    network = make_algorithm("dcg", spec, Streams(0), network={"hidden": (16,)}).critic
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(len(parameter)))
        network.encoder.agent_offset.copy_(network.encoder.agent_offset[:1].expand(4, -1))
    seen = torch.randn(6, 4, 5, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([2, 0, 3, 1])
    original, swapped = (network(network.encoder(rows)).detach() for rows in (seen, seen[:, order]))
    actions = torch.randint(3, (6, 4), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(swapped(actions[:, order]), original(actions), rtol=1e-4, atol=1e-3)
    told = network.encoder(seen).relu()
    torch.testing.assert_close(original.tables[1], (network.utility(told)[:, 1] / 4).detach())
    one, two = network.first(told), network.second(told)
    there = network.payoff((one[:, 0] + two[:, 2]).relu()).unflatten(-1, (3, 3))
    back = network.payoff((one[:, 2] + two[:, 0]).relu()).unflatten(-1, (3, 3)).transpose(-1, -2)
    place = original.scopes.index((0, 2))
    torch.testing.assert_close(original.tables[place], ((there + back) / 2 / 6).detach(), rtol=1e-4, atol=1e-3)


def test_low_rank_payoffs_have_that_rank_and_full_ones_do_not():
    for rank, expected in ((2, 4), (0, 5)):
        spec = EnvSpec((5, 5), 3, 6, False)
        network = make_algorithm("dcg", spec, Streams(0), network={"hidden": (16,)}, rank=rank).critic.double()
        seen = torch.randn(4, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        table = network(network.encoder(seen)).tables[-1]
        # Both directions are averaged, so two products each way make four.
        assert torch.linalg.matrix_rank(table).tolist() == [expected] * 4


def test_one_agent_and_graphs_without_pairs_work():
    for cardinalities, options in (((3,), {}), ((2, 3), {"graph": "scopes", "share_parameters": False})):
        env = chain("terminated", cardinalities=cardinalities)
        algorithm = make_algorithm("dcg", env.spec, Streams(0), network={"hidden": (16,)}, **options)
        store = store_for(algorithm, env.spec)
        play(algorithm, env, store, 5)
        assert all(map(np.isfinite, algorithm.update(store.draw(64), progress=0.5).values()))


def test_windows_with_failed_steps_count_only_the_rest():
    env = chain("terminated", num_envs=8)
    algorithm = make_algorithm(
        "dcg", env.spec, Streams(0), network={"kind": "recurrent", "hidden": (16,)}, sequence_length=3
    )
    store = store_for(algorithm, env.spec)
    play(algorithm, env, store, 6, player=Player(algorithm))
    batch = store.draw(18)
    valid = torch.ones(3, 6, dtype=torch.bool)
    valid[1, 2] = False
    reward = batch.reward.clone()
    reward[1, 2] = torch.nan
    assert np.isfinite(algorithm.update(batch._replace(reward=reward, valid=valid), progress=0.5)["critic_loss"])
    assert np.isnan(algorithm.update(batch._replace(reward=reward), progress=0.5)["critic_loss"])
