"""What independent Q-learning and VDN are known to do: equal DQN, fit additively, and fail where they must."""

import itertools

import numpy as np
import pytest
import torch

from spnpolicy.algorithms import make_algorithm
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec
from spnpolicy.data.protocol import Batch
from tests.spnpolicy.chain_env import ChainEnv
from tests.spnpolicy.learning_cases import CLIMBING, full_batch, game_spec, play, rates, store_for


class DQN:
    """Double DQN of one agent, from torch alone."""

    def __init__(self, weights, discount, learning_rate, rate, longest):
        self.online = [weight.detach().clone().requires_grad_() for weight in weights]
        self.slow = [weight.detach().clone() for weight in weights]
        self.optimizer = torch.optim.Adam(self.online, lr=learning_rate, fused=True)
        self.discount, self.rate, self.longest = discount, rate, longest

    @staticmethod
    def values(weights, seen):
        first, offset, last, bias = weights
        return ((seen @ first.T) + offset).relu() @ last.T + bias

    def update(self, seen, action, reward, terminated, following, allowed):
        with torch.no_grad():
            choice = self.values(self.online, following).masked_fill(~allowed, -torch.inf).argmax(-1)
            best = self.values(self.slow, following).gather(-1, choice[:, None])[:, 0]
            target = torch.where(terminated, reward, reward + self.discount * best)
        chosen = self.values(self.online, seen).gather(-1, action[:, None])[:, 0]
        self.optimizer.zero_grad()
        torch.mean((chosen - target) ** 2).backward()
        torch.nn.utils.clip_grad_norm_(self.online, self.longest)
        self.optimizer.step()
        with torch.no_grad():
            for slow, online in zip(self.slow, self.online, strict=True):
                slow.lerp_(online, self.rate)


@pytest.mark.parametrize("ending", ["terminated", "truncated"])
def test_iql_of_one_agent_is_dqn_bit_for_bit(ending):
    env = ChainEnv(16, ending, cardinalities=(3,), has_action_masks=True)
    algorithm = make_algorithm(
        "iql", env.spec, Streams(0), network={"hidden": (16,), "features": {"frequencies": 0}}, discount=0.9,
        critic={"learning_rate": 3e-3}, target={"rate": 0.05}, max_gradient_norm=0.1,
    )  # fmt: skip
    network = algorithm.critic
    mine = [network.observation_weight, network.agent_offset, network.head[0].weight, network.head[0].bias]
    dqn = DQN(mine, 0.9, 3e-3, 0.05, 0.1)
    store = store_for(algorithm, env.spec)
    play(algorithm, env, store, 10)
    for _ in range(50):
        batch = store.draw(32)
        algorithm.update(batch, progress=0.0)
        dqn.update(
            batch.observation[:, 0], batch.actions[:, 0], batch.reward[:, 0], batch.terminated,
            batch.next_observation[:, 0], batch.next_available_actions[:, 0],
        )  # fmt: skip
    target = algorithm.target_critic
    slow = [target.observation_weight, target.agent_offset, target.head[0].weight, target.head[0].bias]
    for ours, theirs in zip([*mine, *slow], [*dqn.online, *dqn.slow], strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(mine[0], slow[0])


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", ["iql", "vdn"])
def test_the_climbing_game_is_not_solved(name, seed):
    algorithm = make_algorithm(
        name, game_spec(CLIMBING), Streams(seed), network={"hidden": (32,)}, **rates(critic=1e-2)
    )
    batch = full_batch(CLIMBING)
    for _ in range(250):
        algorithm.update(batch, progress=0.0)
    network = algorithm.critic if name == "iql" else algorithm.critic
    row, column = network(batch.observation[:1])[0].argmax(-1).tolist()
    assert CLIMBING[row][column] == 5.0


def test_vdn_is_exact_on_a_sum():
    game = [[1.0, 5.0], [5.0, 9.0]]
    algorithm = make_algorithm("vdn", game_spec(game), Streams(0), network={"hidden": (32,)}, **rates(critic=5e-3))
    batch = full_batch(game)
    for _ in range(300):
        loss = algorithm.update(batch, progress=0.0)["critic_loss"]
    assert loss < 1e-4


BRANCHES = ([[7.0, 7.0], [7.0, 7.0]], [[0.0, 1.0], [1.0, 8.0]])


def two_step_batch():
    """All transitions of the two-step game once: the first agent picks the branch, then a one-step game is played."""
    actions = torch.tensor(list(itertools.product(range(2), repeat=2))).repeat(3, 1)
    now = torch.arange(3).repeat_interleave(4)
    then = torch.where(now == 0, actions[:, 0] + 1, now)
    payoff = torch.cat([torch.zeros(4), *(torch.tensor(game).flatten() for game in BRANCHES)])
    states = torch.eye(3)
    mask = torch.ones(12, 2, 2, dtype=torch.bool)
    return Batch(
        observation=states[now][:, None].expand(-1, 2, -1), state=states[now], actions=actions,
        reward=payoff[:, None].expand(-1, 2), terminated=now > 0, available_actions=mask,
        next_observation=states[then][:, None].expand(-1, 2, -1), next_state=states[then], next_available_actions=mask,
    )  # fmt: skip


def two_step_values(name, updates):
    """Learned joint values, shape (3, 2, 2), and the branch that the first agent takes."""
    algorithm = make_algorithm(
        name, EnvSpec((2, 2), 3, 3, False), Streams(0), network={"hidden": (32,)}, **rates(critic=5e-3), discount=0.99,
        target={"rate": 0.2},
    )  # fmt: skip
    batch = two_step_batch()
    for update in range(updates):
        if update == updates - 100:
            algorithm.critic_optimizer.param_groups[0]["lr"] /= 10.0
        algorithm.update(batch, progress=0.0)
    with torch.no_grad():
        if name == "vdn":
            values, utilities = algorithm.joint_value(batch.observation, batch.actions), algorithm.critic
        else:
            values = algorithm.joint_value(batch.observation, batch.state, batch.actions)
            utilities = algorithm.critic.utilities
        branch = int(utilities(batch.observation[:1])[0, 0].argmax())
    return values.reshape(3, 2, 2), branch


def test_vdn_takes_the_safe_branch_and_qmix_the_better_one():
    values, branch = two_step_values("vdn", 400)
    np.testing.assert_allclose(values[2], [[-1.5, 2.5], [2.5, 6.5]], atol=0.05)
    np.testing.assert_allclose(values[0], 0.99 * np.array([[7.0, 7.0], [6.5, 6.5]]), atol=0.05)
    assert branch == 0
    values, branch = two_step_values("qmix", 500)
    np.testing.assert_allclose(values[2], BRANCHES[1], atol=0.1)
    np.testing.assert_allclose(values[0], 0.99 * np.array([[7.0, 7.0], [8.0, 8.0]]), atol=0.1)
    assert branch == 1


GAMES, STATES, AGENTS, ACTIONS, DISCOUNT = 12, 6, 3, 3, 0.9


def random_game(rng):
    """Transition probabilities [states, joint actions..., states] and rewards of a random cooperative game."""
    shape = (STATES, *(ACTIONS,) * AGENTS)
    transitions = rng.random((*shape, STATES)) ** 4
    return transitions / transitions.sum(-1, keepdims=True), rng.random(shape)


def best_response(game, policies, agent):
    """Exact optimal policy of one agent while the others keep theirs; its old action on ties."""
    everywhere = np.arange(STATES)[:, None]
    index = [policies[other][:, None] for other in range(AGENTS)]
    index[agent] = np.arange(ACTIONS)[None]
    transitions, rewards = (part[(everywhere, *index)] for part in game)
    policy = policies[agent].copy()
    while True:
        rows = np.arange(STATES)
        system = np.eye(STATES) - DISCOUNT * transitions[rows, policy]
        values = np.linalg.solve(system, rewards[rows, policy])
        q = rewards + DISCOUNT * transitions @ values
        better = q.max(-1) > q[rows, policy] + 1e-9
        if not better.any():
            return policy
        policy = np.where(better, q.argmax(-1), policy)


def settles(game, simultaneous, rounds):
    policies = [np.zeros(STATES, int) for _ in range(AGENTS)]
    for _ in range(rounds):
        before = [policy.copy() for policy in policies]
        for agent in range(AGENTS):
            policies[agent] = best_response(game, before if simultaneous else policies, agent)
        if all((old == new).all() for old, new in zip(before, policies, strict=True)):
            return True
    return False


def test_simultaneous_exact_learners_cycle_where_taking_turns_settles():
    # The known failure of independent learners, without any network: each answers the others' last policies.
    games = [random_game(np.random.default_rng(seed)) for seed in range(GAMES)]
    assert all(settles(game, simultaneous=False, rounds=5) for game in games)
    assert sum(not settles(game, simultaneous=True, rounds=200) for game in games) > GAMES / 2
