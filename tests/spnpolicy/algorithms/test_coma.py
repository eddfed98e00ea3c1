"""Counterfactual baselines against enumeration, and COMA against its formulas written out."""

import copy
import itertools

import numpy as np
import pytest
import torch

from factor_q import FactorGraph, Factors
from spnpolicy.algorithms import make_algorithm
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec
from spnpolicy.parts.counterfactual import (
    counterfactual_advantage,
    others_actions,
    with_floor,
)
from tests.spnpolicy.learning_cases import (
    CHAIN_VALUE_OF_B,
    CLIMBING,
    as_window,
    chain,
    chain_observation,
    full_batch,
    game_spec,
    learn,
    rates,
)
from tests.spnpolicy.window_cases import backward_targets, disturb, random_window


def random_factors(cardinalities, scopes, seed, batch=()):
    generator = torch.Generator().manual_seed(seed)
    graph = FactorGraph(cardinalities, scopes)
    tables = [
        torch.randn((*batch, *(cardinalities[v] for v in scope)), generator=generator, dtype=torch.float64)
        for scope in graph.scopes
    ]
    return Factors(graph, tables)


def joint_actions(cardinalities):
    return torch.tensor(list(itertools.product(*map(range, cardinalities))))


def random_probabilities(cardinalities, seed, batch=()):
    generator = torch.Generator().manual_seed(seed)
    exists = torch.arange(max(cardinalities)) < torch.tensor(cardinalities)[:, None]
    logits = torch.randn((*batch, *exists.shape), generator=generator, dtype=torch.float64)
    return logits.masked_fill(~exists, -torch.inf).softmax(-1)


def test_advantages_average_to_zero_under_the_policy():
    prob = random_probabilities((4, 2, 3), 0, batch=(5,))
    value = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    value = value.masked_fill(prob == 0, -torch.inf)
    for action in range(2):
        taken = torch.full((5, 3), action)
        found = counterfactual_advantage(value, prob.log(), taken).numpy()
        mean = (prob.numpy() * np.where(prob == 0, 0.0, value)).sum(-1)
        np.testing.assert_allclose(found, value[..., action].numpy() - mean, atol=1e-12)
    every = torch.stack([counterfactual_advantage(value, prob.log(), torch.full((5, 3), a)) for a in range(4)], -1)
    assert (prob * every.masked_fill(prob == 0, 0.0)).sum(-1).abs().max() < 1e-12


def test_the_mean_gradient_is_that_without_baseline_and_varies_less():
    cardinalities, count = (3, 3, 3), 20_000
    prob = random_probabilities(cardinalities, 0)
    payoff = random_factors(cardinalities, [(0, 1, 2)], 1).tables[0] + 3.0
    generator = torch.Generator().manual_seed(2)
    actions = torch.stack([torch.multinomial(row, count, True, generator=generator) for row in prob], -1)
    q = payoff[tuple(actions.T)]
    own = torch.stack([payoff.movedim(i, -1)[tuple(actions.T[[j for j in range(3) if j != i]])] for i in range(3)], 1)
    advantage = counterfactual_advantage(own, prob.log().expand(count, 3, 3), actions)
    # The gradient of log softmax with respect to the logits, for every sample.
    slope = torch.nn.functional.one_hot(actions, 3) - prob
    coma, plain = (
        (weight.unsqueeze(-1) * slope).flatten(1).numpy() for weight in (advantage, q[:, None].expand(-1, 3))
    )
    difference = coma - plain
    error = difference.std(0) / count**0.5
    assert (np.abs(difference.mean(0)) < 4 * error).all()
    assert coma.var(0).sum() < 0.5 * plain.var(0).sum()
    # The mean is not trivially zero, so the comparison can fail.
    assert (np.abs(coma.mean(0)) / error).max() > 10


def test_the_floor_mixes_in_the_uniform_policy_over_possible_actions():
    prob = random_probabilities((4, 2, 1), 0)
    for epsilon in (0.0, 0.3, 1.0):
        uniform = np.array([[0.25] * 4, [0.5, 0.5, 0, 0], [1, 0, 0, 0]])
        expected = (1 - epsilon) * prob.numpy() + epsilon * uniform
        np.testing.assert_allclose(with_floor(prob.log(), epsilon).exp(), expected, atol=1e-12)
    logits = torch.tensor([200.0, 0.0, -torch.inf], requires_grad=True)
    # The second action is so improbable that its share of the softmax is 0 in this precision.
    floored = with_floor(logits.log_softmax(-1), 0.1)
    floored[:2].sum().backward()
    assert logits.grad.isfinite().all()
    np.testing.assert_allclose(floored.detach()[:2].exp(), [0.95, 0.05], rtol=1e-6)


def test_the_critic_sees_the_others_actions_and_not_the_agents_own():
    np.testing.assert_array_equal(others_actions(torch.tensor([1, 2]), 3), [[0, 0, 0, 0, 0, 1], [0, 1, 0, 0, 0, 0]])
    spec = EnvSpec((2, 3), 4, 5, False)
    learner = make_algorithm("coma", spec, Streams(0), network={"hidden": (16,)})
    disturb(learner.critic)
    batch = random_window(spec, 3, 4, 0)
    before = learner.critic(batch.observation, batch.state, batch.actions)
    changed = batch.actions.clone()
    changed[..., 1] = (changed[..., 1] + 1) % 3
    after = learner.critic(batch.observation, batch.state, changed)
    torch.testing.assert_close(before[..., 1, :], after[..., 1, :])
    assert (before[..., 0, :2] != after[..., 0, :2]).all()


@pytest.mark.parametrize("trace", [0.0, 0.7, 1.0])
@pytest.mark.parametrize(("cardinalities", "truncates"), [((3,), True), ((2, 3), False)])
def test_the_target_equals_the_formula_number_by_number(cardinalities, truncates, trace):
    # With one agent nothing is drawn where an episode is cut; with two no episode is cut.
    spec = EnvSpec(cardinalities, 3, 4, True)
    learner = make_algorithm(
        "coma", spec, Streams(0), network={"hidden": (16,)}, trace=trace, exploration={"start": 0.2, "end": 0.2}
    )
    disturb(learner.actor, learner.critic, learner.target_critic)
    batch = random_window(spec, 7, 12, 3, truncates=truncates)
    with torch.no_grad():
        following = learner.actor(batch.next_observation).masked_fill(~batch.next_available_actions, -torch.inf)
        prob = 0.8 * following.softmax(-1) + 0.2 * batch.next_available_actions / batch.next_available_actions.sum(
            -1, keepdim=True
        )
        next_actions = torch.cat([batch.actions[1:], torch.zeros_like(batch.actions[:1])])
        value = learner.target_critic(batch.next_observation, batch.next_state, next_actions)
        taken = value.gather(-1, next_actions.unsqueeze(-1)).squeeze(-1)
        mean = (prob * value.masked_fill(prob == 0, 0.0)).sum(-1)
        found = learner._target(batch, prob.log())
    reward = batch.reward.mean(-1, keepdim=True).expand_as(batch.reward)
    expected = backward_targets(batch, reward, 0.95, trace, mean, taken)
    np.testing.assert_allclose(found[batch.valid], expected[batch.valid], atol=1e-5)


def test_behind_a_time_limit_the_others_are_drawn_and_right_on_average():
    spec, count = EnvSpec((2, 3, 2), 2, 2, False), 4000
    learner = make_algorithm(
        "coma", spec, Streams(0), network={"hidden": (16,)}, exploration={"start": 0.1, "end": 0.1}
    )
    disturb(learner.actor, learner.critic, learner.target_critic)
    one = random_window(spec, 1, 1, 5, fails=False)
    yes = torch.ones(1, 1, dtype=torch.bool)
    one = one._replace(terminated=~yes, ended=yes)
    copies = {
        name: value.expand(1, count, *value.shape[2:]) for name, value in one._asdict().items() if name != "memory"
    }
    batch = one._replace(**copies)
    with torch.no_grad():
        prob = with_floor(learner.actor(batch.next_observation).log_softmax(-1), 0.1).exp()
        drawn = learner._target(batch, prob.log())[0].double().numpy()
        joint = joint_actions(spec.cardinalities)
        seen = batch.next_observation[0, :1].expand(len(joint), -1, -1)
        value = learner.target_critic(seen, batch.next_state[0, :1].expand(len(joint), -1), joint)
        weight = prob[0, 0].expand(len(joint), -1, -1).gather(-1, joint.unsqueeze(-1)).squeeze(-1).prod(-1)
        mean = (weight.unsqueeze(-1) * value.gather(-1, joint.unsqueeze(-1)).squeeze(-1)).sum(0)
    expected = (one.reward.mean() + 0.95 * mean).numpy()
    error = drawn.std(0) / count**0.5
    assert (error > 0).all()
    assert (np.abs(drawn.mean(0) - expected) < 4 * error).all()


@pytest.mark.parametrize("options", [{}, {"network": {"kind": "recurrent", "hidden": (8,)}, "share_parameters": False}])
def test_the_gradient_of_the_actors_is_the_counterfactual_one(options):
    spec = EnvSpec((2, 3), 3, 4, True)
    epsilon, weight = 0.3, 0.05
    learner = make_algorithm(
        "coma", spec, Streams(0), max_gradient_norm=1e9, critic={"learning_rate": 0.1},
        exploration={"start": epsilon, "end": epsilon}, entropy={"start": weight, "end": weight},
        normalize_advantage=False,
        **({"network": {"hidden": (8,)}} | options),
    )  # fmt: skip
    disturb(learner.actor, learner.critic, learner.target_critic)
    batch = random_window(spec, 5, 6, 1, memory=learner.needs.memory_size)
    actors, critic = copy.deepcopy(learner.actor), copy.deepcopy(learner.critic)
    learner.update(batch, progress=0.0)
    logits = actors.now(batch).masked_fill(~batch.available_actions, -torch.inf)
    floor = batch.available_actions / batch.available_actions.sum(-1, keepdim=True)
    prob = (1 - epsilon) * logits.softmax(-1) + epsilon * floor
    value = critic(batch.observation, batch.state, batch.actions).detach()
    value = value.masked_fill(~batch.available_actions, 0.0)
    chosen = batch.actions.unsqueeze(-1)
    advantage = value.gather(-1, chosen).squeeze(-1) - (prob.detach() * value).sum(-1)
    entropy = -(prob * prob.clamp_min(1e-30).log()).sum(-1)
    gain = advantage * prob.gather(-1, chosen).squeeze(-1).log() + weight * entropy
    (-gain[batch.valid].mean()).backward()
    for found, expected in zip(learner.actor.parameters(), actors.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, atol=1e-5, rtol=1e-4)


def test_what_stands_in_a_failed_row_has_no_influence():
    spec = EnvSpec((2, 3), 3, 4, False)
    batch = random_window(spec, 6, 8, 2)
    assert not batch.valid.all()
    assert batch.cut[-1].all()
    spoilt = batch.reward.where(batch.valid.unsqueeze(-1), 1e6)
    first, second = (make_algorithm("coma", spec, Streams(0), network={"hidden": (8,)}) for _ in range(2))
    ours = first.update(batch, progress=0.1)
    assert ours == second.update(batch._replace(reward=spoilt), progress=0.1)


@pytest.mark.slow
def test_in_a_one_step_game_the_critic_learns_the_payoff():
    batch = as_window(full_batch(CLIMBING))
    learner = make_algorithm(
        "coma",
        game_spec(CLIMBING),
        Streams(0),
        network={"hidden": (32,)},
        actor={"learning_rate": 1e-9},
        critic={"learning_rate": 1e-2},
    )
    with torch.no_grad():
        target = learner._target(batch, torch.full((1, 9, 2, 3), 1 / 3).log())
    assert torch.equal(target, batch.reward)
    for _ in range(400):
        loss = learner.update(batch, progress=0.0)["critic_loss"]
    assert loss < 0.01


@pytest.mark.one_in(2)
@pytest.mark.parametrize("ending", CHAIN_VALUE_OF_B)
def test_time_limits_bootstrap_and_ends_do_not(ending):
    learner = learn(
        "coma", chain(ending), updates=150, rollout=3, discount=0.8, network={"hidden": (32,)}, **rates(actor=5e-3),
        critic={"learning_rate": 1e-2}, target={"rate": 0.5},
    )  # fmt: skip
    seen, state = chain_observation()
    in_a, in_b = 0.8 * CHAIN_VALUE_OF_B[ending], CHAIN_VALUE_OF_B[ending]
    for joint in joint_actions((2, 3)):
        values = learner.critic(seen, state, joint.expand(2, -1)).detach()
        for agent, k in enumerate((2, 3)):
            np.testing.assert_allclose(values[:, agent, :k], [[in_a] * k, [in_b] * k], rtol=0.01)


def test_exploring_play_follows_the_floored_policy_and_greedy_play_the_best():
    spec = EnvSpec((3, 2), 1, 1, True)
    learner = make_algorithm(
        "coma", spec, Streams(0), network={"hidden": (8,)}, exploration={"start": 0.6, "end": 0.0, "share": 1.0}
    )
    disturb(learner.actor, scale=1.0)
    step = chain("terminated", num_envs=20_000).reset(seed=0)
    mask = np.broadcast_to(np.array([[True, False, True], [True, True, False]]), (20_000, 2, 3))
    step = step._replace(observation=np.ones((20_000, 2, 1), np.float32), available_actions=mask)
    softmax = learner.actor(torch.ones(2, 1)).masked_fill(~torch.tensor(mask[0]), -torch.inf).softmax(-1)
    for progress in (0.0, 0.5):
        epsilon = 0.6 * (1 - progress)
        expected = (1 - epsilon) * softmax.detach().numpy() + epsilon * mask[0] / 2
        actions = learner.act(step, explore=True, progress=progress)
        shares = np.stack([np.bincount(actions[:, i], minlength=3) for i in range(2)]) / 20_000
        assert (np.abs(shares - expected) < 4 * np.sqrt(expected * (1 - expected) / 20_000) + 1e-12).all()
    assert (learner.act(step, explore=False) == softmax.argmax(-1).numpy()).all()


def test_the_critic_does_its_steps_on_every_rollout_and_the_actors_one():
    batch = as_window(full_batch(CLIMBING))
    errors = []
    for steps in (1, 4):
        learner = make_algorithm("coma", game_spec(CLIMBING), Streams(0), network={"hidden": (8,)}, critic_steps=steps)
        for _ in range(3):
            learner.update(batch, progress=1.0)
        for part, expected in (("actor", 3), ("critic", 3 * steps)):
            states = getattr(learner, f"{part}_optimizer").state_dict()["state"].values()
            assert {int(state["step"]) for state in states} == {expected}
        assert learner.num_updates == 3
        errors.append(learner.update(batch, progress=1.0)["critic_loss"])
    assert errors[1] < errors[0]
