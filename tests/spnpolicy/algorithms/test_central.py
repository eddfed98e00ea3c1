"""What central Q-learning and central A2C are known to learn, and how joint actions are numbered and masked."""

import copy
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from spnpolicy.algorithms import make_algorithm
from spnpolicy.base.errors import ConfigError, EnvError
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.data.protocol import Batch
from spnpolicy.data.stores import Trajectories
from spnpolicy.envs import make_env
from spnpolicy.parts.joint_actions import joint_index, joint_mask, split_index
from tests.spnpolicy.learning_cases import (
    CHAIN_VALUE_OF_B,
    as_window,
    chain,
    chain_observation,
    full_batch,
    game_spec,
    learn,
    play,
    rates,
    store_for,
)

GAMES = {name: {"game": name} for name in ("climbing", "penalty", "linear", "monotonic", "bad_basin", "diagonal")} | {
    "stag_hunt": {"payoff": [[4.0, 1.5], [1.5, 2.0]]},
    "qtran": {"payoff": [[8.0, -12.0, -12.0], [-12.0, 0.0, 0.0], [-12.0, 0.0, 0.0]]},
}
ANNEALED = {"entropy": {"start": 5.0, "end": 0.01}, "critic": {"learning_rate": 0.02}}
FAST = {"network": {"hidden": (16,)}, "critic": {"learning_rate": 1e-2}, "discount": 0.8, "target": {"rate": 0.2}}


def step_like(state, available):
    """What a batch of environments shows in these states."""
    envs, agents = available.shape[:2]
    seen, state = np.zeros((envs, agents, 1), np.float32), np.asarray(state, np.float32)
    no = np.zeros(envs, bool)
    return Step(seen, state, np.zeros((envs, agents)), no, no, available, seen, state, available)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("name", ["central_q", "central_a2c"])
def test_small_games_end_in_a_best_joint_action(name, game):
    env = make_env("matrix_game", num_envs=64, **GAMES[game])
    if name == "central_q":
        algorithm = learn(name, env, updates=80, batch_size=32, network={"hidden": (32,)}, **rates(critic=0.02))
    else:
        options = {"network": {"hidden": (32,)}, "actor": {"learning_rate": 0.02}, "rollout": 1} | ANNEALED
        algorithm = learn(name, env, updates=100, progress=lambda share: share, **options)
    actions = algorithm.act(env.reset(seed=0), explore=False)
    np.testing.assert_array_equal(env.step(actions).reward, env.optimum)


@pytest.mark.parametrize("double_q", [True, False])
def test_central_q_equals_value_iteration(double_q, generator):
    states, joint, samples, discount = 3, 4, 4, 0.8
    reward = torch.rand(states, joint, generator=generator)
    following = torch.randint(states, (states, joint, samples), generator=generator)
    ends = torch.rand(states, joint, samples, generator=generator) < 0.2
    expected = np.zeros((states, joint))
    for _ in range(200):
        best = expected.max(-1)[following.numpy()]
        expected = reward.numpy() + discount * (np.where(ends.numpy(), 0.0, best)).mean(-1)
    state, chosen, sample = torch.cartesian_prod(*map(torch.arange, following.shape)).unbind(-1)
    one_hot, next_state = torch.eye(states)[state], torch.eye(states)[following[state, chosen, sample]]
    count, mask = len(state), torch.ones(len(state), 2, 2, dtype=torch.bool)
    actions = torch.stack([chosen // 2, chosen % 2], -1)
    # The agents' rewards differ: the mean of the two is what counts.
    rewards = reward[state, chosen].unsqueeze(-1) + torch.tensor([-1.0, 1.0])
    seen, over = torch.zeros(count, 2, 1), ends[state, chosen, sample]
    batch = Batch(seen, one_hot, actions, rewards, over, mask, seen, next_state, mask)
    algorithm = make_algorithm("central_q", EnvSpec((2, 2), 1, states, False), Streams(0), double_q=double_q, **FAST)
    for _ in range(400):
        algorithm.update(batch, progress=0.0)
    np.testing.assert_allclose(algorithm.joint_values(torch.eye(states)).detach(), expected, atol=0.02)


def test_central_q_with_one_agent_is_double_dqn(generator):
    options = {
        "discount": 0.9,
        "critic": {"learning_rate": 1e-3},
        "network": {"hidden": (16,), "features": {"frequencies": 0}},
        "target": {"rate": 0.05},
        "max_gradient_norm": 0.1,
    }
    algorithm = make_algorithm("central_q", EnvSpec((4,), 3, 3, True), Streams(3), **options)
    online, target = copy.deepcopy(algorithm.critic), copy.deepcopy(algorithm.critic)
    optimizer = torch.optim.Adam(online.parameters(), lr=1e-3)
    for _ in range(20):
        state, next_state = torch.randn(2, 50, 3, generator=generator).unbind()
        action, reward = torch.randint(4, (50,), generator=generator), torch.randn(50, generator=generator)
        over = torch.rand(50, generator=generator) < 0.3
        available = torch.rand(50, 4, generator=generator) < 0.6
        available[:, 0] = True
        with torch.no_grad():
            choice = torch.stack(
                [q.masked_fill(~m, -1e9).argmax() for q, m in zip(online(next_state), available, strict=True)]
            )
            y = reward + 0.9 * (1 - over.float()) * target(next_state)[torch.arange(50), choice]
        loss = ((online(state)[torch.arange(50), action] - y) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(online.parameters(), 0.1)
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(target.parameters(), online.parameters(), strict=True):
                slow.copy_(0.95 * slow + 0.05 * fast)
        seen, mask = torch.zeros(50, 1, 3), torch.ones(50, 1, 4, dtype=torch.bool)
        batch = Batch(seen, state, action[:, None], reward[:, None], over, mask, seen, next_state, available[:, None])
        numbers = algorithm.update(batch, progress=0.0)
        assert numbers["critic_loss"] == pytest.approx(loss.item(), rel=1e-4)
    for ours, theirs in ((algorithm.critic, online), (algorithm.target_critic, target)):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["central_q", "central_a2c", "rbm"])
def test_targets_of_one_step_games_are_the_rewards(name, generator):
    payoff = [[8.0, -12.0, 3.0], [1.0, 0.0, -5.0]]
    algorithm = make_algorithm(name, game_spec(payoff), Streams(0))
    for part in vars(algorithm).values():
        if isinstance(part, torch.nn.Module):  # values far from zero, that would show in a bootstrap
            for parameter in part.parameters():
                parameter.data += torch.randn(parameter.shape, generator=generator)
    batch = full_batch(payoff)
    targets = algorithm._targets(batch, 0.0) if name == "rbm" else algorithm._targets(batch)
    assert torch.equal(targets, batch.reward.mean(-1))
    going_on = batch._replace(terminated=torch.zeros_like(batch.terminated))
    following = algorithm._targets(going_on, 0.0) if name == "rbm" else algorithm._targets(going_on)
    assert ((following - targets).abs() > 0.01).all()


@pytest.mark.one_in(3)
@pytest.mark.parametrize("ending", CHAIN_VALUE_OF_B)
@pytest.mark.parametrize("options", [{"double_q": True}, {"double_q": False}, {"trace": 0.5, "sequence_length": 4}])
def test_central_q_bootstraps_at_time_limits_and_not_at_ends(ending, options):
    algorithm = learn("central_q", chain(ending), updates=250, **FAST, **options)
    values = algorithm.joint_values(chain_observation()[1]).amax(-1).detach()
    best = CHAIN_VALUE_OF_B[ending]
    np.testing.assert_allclose(values, [0.8 * best, best], rtol=0.01)


@pytest.mark.parametrize(
    ("ending", "trace"), [pytest.param("terminated", 0.0, marks=pytest.mark.slow), ("truncated", 1.0)]
)
def test_central_a2c_bootstraps_at_time_limits_and_not_at_ends(ending, trace):
    env = chain(ending, num_envs=8)
    options = FAST | {"target": {"rate": 0.5}, **rates(actor=1e-2, critic=1e-2), "rollout": 4, "trace": trace}
    algorithm = learn("central_a2c", env, updates=300, **options)
    best = CHAIN_VALUE_OF_B[ending]
    np.testing.assert_allclose(
        algorithm.critic(chain_observation()[1]).squeeze(-1).detach(), [0.8 * best, best], rtol=0.01
    )


def test_central_a2c_gradient_is_that_of_the_entropy_regularised_objective(generator):
    payoff = torch.randn(2, 3, generator=generator)
    algorithm = make_algorithm("central_a2c", game_spec(payoff), Streams(0), entropy={"start": 0.3, "end": 0.3})
    logits = torch.randn(6, generator=generator)
    last = algorithm.actor[-1][-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(logits)
    batch = full_batch(payoff.tolist())
    # Every joint action as often as the policy takes it: the mean over the batch is then the exact expectation.
    weights = torch.tensor([8, 4, 2, 1, 1, 16])
    with torch.no_grad():
        last.bias.copy_(weights.log())
    rows = torch.repeat_interleave(torch.arange(6), weights)
    batch = as_window(Batch(*(None if column is None else column[rows] for column in batch)))
    free = weights.log().clone().requires_grad_()
    p = free.exp() / free.exp().sum()
    ((p * payoff.flatten()).sum() - 0.3 * (p * p.log()).sum()).backward()
    algorithm.config = replace(algorithm.config, normalize_advantage=False, max_gradient_norm=1e9)
    algorithm.update(batch, progress=0.0)
    torch.testing.assert_close(last.bias.grad, -free.grad, rtol=1e-4, atol=1e-5)


def test_joint_actions_are_numbered_like_rows_of_a_table():
    cardinalities = (2, 3, 4)
    table = torch.tensor(list(itertools.product(*map(range, cardinalities))))
    assert torch.equal(joint_index(table, cardinalities), torch.arange(24))
    assert torch.equal(split_index(torch.arange(24).view(4, 6), cardinalities), table.view(4, 6, 3))


def test_joint_masks_and_play_never_allow_what_an_agent_may_not_do(generator):
    cardinalities = (2, 3, 4)
    available = torch.rand(200, 3, 4, generator=generator) < 0.4
    available[..., 0] |= ~(available & (torch.arange(4) < torch.tensor(cardinalities)[:, None])).any(-1)
    expected = [
        [
            all(row[agent][action] for agent, action in enumerate(joint))
            for joint in itertools.product(*map(range, (2, 3, 4)))
        ]
        for row in available.tolist()
    ]
    assert joint_mask(available, cardinalities).tolist() == expected
    step = step_like(torch.randn(200, 2, generator=generator), available.numpy())
    for name in ("central_q", "central_a2c", "rbm"):
        options = {"sweeps": 5} if name == "rbm" else {}
        algorithm = make_algorithm(name, EnvSpec(cardinalities, 1, 2, True), Streams(0), **options)
        for explore, progress in ((True, 0.0), (True, 1.0), (False, 1.0)):
            for actions in (algorithm.act(step, explore=explore, progress=progress) for _ in range(5)):
                assert (actions < cardinalities).all()
                assert np.take_along_axis(step.available_actions, actions[..., None], -1).all()
        step_without = step_like(np.zeros((2, 2)), np.array([np.ones((3, 4), bool), np.eye(4, dtype=bool)[[0, 1, 2]]]))
        step_without.available_actions[1, 2] = False
        with pytest.raises(EnvError, match="env 1: agent 2 has no available action"):
            algorithm.act(step_without, explore=True)


def test_exploration_is_of_joint_actions():
    """With a random joint action in half the steps, either all agents play their best or all play at random."""
    env = make_env("matrix_game", payoff=[[1.0, 0.0], [0.0, 0.0]], num_envs=20_000)
    algorithm = make_algorithm("central_q", env.spec, Streams(0), exploration={"start": 0.5})
    with torch.no_grad():
        algorithm.critic[-1][-1].bias[0] = 10.0
    actions = algorithm.act(env.reset(seed=0), explore=True, progress=0.0)
    shares = [(actions == np.array([i, j])).all(-1).mean() for i in (0, 1) for j in (0, 1)]
    np.testing.assert_allclose(shares, [0.625, 0.125, 0.125, 0.125], atol=0.015)


@pytest.mark.parametrize("name", ["central_q", "central_a2c"])
def test_too_many_joint_actions_are_refused_and_named(name):
    make_algorithm(name, EnvSpec((10,) * 5, 1, 1, False), Streams(0), network={"hidden": (2,)})
    with pytest.raises(ConfigError, match=rf"{name}: 6 agents have 1,000,000 joint actions.*Use spn_ac or coordinated"):
        make_algorithm(name, EnvSpec((10,) * 6, 1, 1, False), Streams(0), network={"hidden": (2,)})


@pytest.mark.parametrize("name", ["central_q", "central_a2c", "rbm"])
def test_flags_that_would_do_nothing_do_not_exist(name):
    spec = EnvSpec((2, 2), 1, 1, False)
    with pytest.raises(ConfigError, match="unknown setting 'share_parameters'"):
        make_algorithm(name, spec, Streams(0), share_parameters=True)
    with pytest.raises(ConfigError, match=f"network.kind is 'recurrent', but {name} takes 'mlp'.* only"):
        make_algorithm(name, spec, Streams(0), network={"kind": "recurrent", "hidden": (8,)})


@pytest.mark.parametrize("name", ["central_q", "central_a2c", "rbm"])
def test_what_stands_in_rows_that_are_not_valid_has_no_influence(name):
    options = {"trace": 0.7, "rollout": 6} if name == "central_a2c" else {"rollout": 6, "sweeps": 2}
    options = {"trace": 0.7, "sequence_length": 6} if name == "central_q" else options
    env = chain("truncated", num_envs=4)
    after = []
    for junk in (3.0, math.nan):
        algorithm = make_algorithm(name, env.spec, Streams(0), **options)
        store = Trajectories(6, torch.Generator().manual_seed(0))
        play(algorithm, env, store, 6)
        batch = store.draw(6)
        valid, ended = batch.valid.clone(), batch.ended.clone()
        # In the middle of an episode, so that the return of the step before must not look past it.
        valid[3, :2], ended[3, :2] = False, True
        reward, next_state = batch.reward.clone(), batch.next_state.clone()
        reward[3, :2] = junk
        next_state[3, :2] = 0.0 if math.isnan(junk) else junk
        batch = batch._replace(valid=valid, ended=ended, reward=reward, next_state=next_state)
        numbers = algorithm.update(batch, progress=0.0)
        assert all(map(math.isfinite, numbers.values()))
        after.append(algorithm.state_dict())
    parts = [part for part, value in after[0].items() if isinstance(value, dict) and "state" not in value]
    assert parts
    for part in parts:
        for key, value in after[0][part].items():
            assert torch.equal(value, after[1][part][key])


@pytest.mark.parametrize("name", ["central_q", "central_a2c", "rbm"])
def test_updates_that_are_not_finite_change_nothing(name):
    env = chain("truncated", num_envs=8)
    algorithm = make_algorithm(name, env.spec, Streams(0), **({"sweeps": 2} if name == "rbm" else {}))
    store = store_for(algorithm, env.spec)
    play(algorithm, env, store, 10)
    batch = store.draw(64)
    for bad in (math.nan, math.inf):
        algorithm.update(batch, progress=0.0)
        before = copy.deepcopy(algorithm.state_dict())
        reward = batch.reward.clone()
        reward.view(-1)[3] = bad
        numbers = algorithm.update(batch._replace(reward=reward), progress=0.0)
        assert not all(map(math.isfinite, numbers.values()))
        torch.testing.assert_close(algorithm.state_dict(), before, rtol=0, atol=0)
