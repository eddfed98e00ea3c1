"""IPPO and MAPPO: several clipped steps on frozen advantages, undone together if one fails; memory; joint steps."""

import copy
import math

import numpy as np
import pytest
import torch

from spnpolicy.algorithms import config_class, make_algorithm, ppo
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec, Step
from spnpolicy.parts import actor_critic
from spnpolicy.training.player import Player
from tests.spnpolicy.learning_cases import as_window, chain, full_batch, game_spec, learn, play, rates, store_for

BASIN = [[0.0, -5.0], [-5.0, 10.0]]
NAMES = ("ippo", "mappo")


def with_data(name, time=8, envs=6, **options):
    """An algorithm whose networks are not fresh, and a rollout of the chain that it played."""
    env = chain("truncated", envs)
    algorithm = make_algorithm(
        name, env.spec, Streams(0), **({"network": {"hidden": (16,)}, "rollout": time} | options)
    )
    policy, critic = algorithm.actor, algorithm.critic
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (*policy.parameters(), *critic.parameters()):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    algorithm.target_critic.load_state_dict(critic.state_dict())
    store = store_for(algorithm, env.spec)
    play(algorithm, env, store, time)
    return algorithm, policy, critic, store.draw(64)


def slow_advantages(batch, critic, discount, trace):
    """GAE of a window whose episodes may be cut off, in plain loops."""
    with torch.no_grad():
        now = critic(batch.observation, batch.state).squeeze(-1)
        after = critic(batch.next_observation, batch.next_state).squeeze(-1)
    result = torch.zeros_like(now)
    running = torch.zeros_like(now[0])
    for t in range(len(now) - 1, -1, -1):
        for env in range(now.shape[1]):
            error = batch.reward[t, env] + discount * (1 - int(batch.terminated[t, env])) * after[t, env] - now[t, env]
            tail = 0.0 if batch.ended[t, env] else discount * trace * running[env]
            running[env] = error + tail
        result[t] = running
    return result, result + now


@pytest.mark.parametrize("name", NAMES)
def test_several_epochs_are_those_of_a_slow_loop_with_advantages_from_before_the_first_step(name):
    options = {"discount": 0.8, **rates(actor=0.01, critic=0.02), "epochs": 4, "rollout": 8}
    algorithm, policy, critic, batch = with_data(name, **options)
    mine_policy, mine_critic = copy.deepcopy(policy), copy.deepcopy(critic)
    advantage, target = slow_advantages(batch, mine_critic, 0.8, 0.95)
    rows = advantage.reshape(-1, 2)
    advantage = (advantage - rows.mean(0)) / (rows.std(0, unbiased=False) + 1e-5)

    def log_probs():
        logits = mine_policy(batch.observation).masked_fill(~batch.available_actions, -1e9)
        return logits.log_softmax(-1)

    def chosen(table):
        return table.gather(-1, batch.actions[..., None])[..., 0]

    old = chosen(log_probs()).detach()
    optimizers = torch.optim.Adam(mine_policy.parameters(), 0.01), torch.optim.Adam(mine_critic.parameters(), 0.02)
    for _ in range(4):
        table = log_probs()
        ratio = (chosen(table) - old).exp()
        gain = torch.min(ratio * advantage, ratio.clip(0.8, 1.2) * advantage).mean()
        entropy = -(table.exp() * table).sum(-1).mean()
        values = mine_critic(batch.observation, batch.state).squeeze(-1)
        for optimizer, loss in zip(optimizers, (-gain - 0.01 * entropy, ((values - target) ** 2).mean()), strict=True):
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 10.0)
            optimizer.step()
    numbers = algorithm.update(batch, progress=0.0)
    assert 0.0 < numbers["clipped"] < 1.0
    assert numbers["divergence"] > 0.0
    for ours, theirs in ((policy, mine_policy), (critic, mine_critic)):
        for ours_part, theirs_part in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(ours_part, theirs_part, atol=2e-5, rtol=1e-3)


def test_the_first_gradient_is_that_of_a2c():
    _, policy, critic, batch = with_data("ippo")
    config = config_class("ippo")(normalize_advantage=False)
    fixed = ppo.fix(config, batch, policy, critic, critic)
    loss, _, numbers = ppo.clipped_losses(config, policy, critic, fixed, 0.3)
    clipped = torch.autograd.grad(loss, list(policy.parameters()))
    log_probs = actor_critic.action_log_probs(policy, batch)
    loss, entropy = actor_critic.actor_loss(log_probs, batch.actions, fixed.advantage, 0.3, batch.valid)
    plain = torch.autograd.grad(loss, list(policy.parameters()))
    for ours, theirs in zip(clipped, plain, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert max(float(gradient.abs().max()) for gradient in plain) > 0.01
    assert numbers["entropy"] == pytest.approx(float(entropy))
    assert numbers["divergence"] == pytest.approx(0.0, abs=1e-6)
    assert numbers["clipped"] == 0.0


def exact_batch(first, second):
    """A hundred games of the basin in which every joint action occurs by its probability."""
    table = full_batch(BASIN)
    shares = torch.tensor([p * q for p in (first, 1 - first) for q in (second, 1 - second)])
    counts = (100 * shares).round().long()
    assert counts.sum() == 100
    return as_window(type(table)(*(x if x is None else x.repeat_interleave(counts, 0) for x in table)))


def greedy_steps(first, second, learners):
    """Expected payoff before and after one update with large steps of some agents, by exact samples."""
    options = {"actor": {"learning_rate": 0.1}, "epochs": 40, "clip": 0.99, "entropy": {"start": 0.0, "end": 0.0}}
    algorithm = make_algorithm(
        "ippo", game_spec(BASIN), Streams(0), share_parameters=False, network={"hidden": (8,)}, **options
    )
    last = algorithm.actor.head[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([[math.log(p / (1 - p)), 0.0] for p in (first, second)]))
    frozen = last.bias.detach().clone()

    def policies():
        return algorithm.actor(torch.ones(1, 2, 1)).detach()[0].softmax(-1)

    def payoff(rows, columns):
        return float(rows @ torch.tensor(BASIN) @ columns)

    before = payoff(*policies())
    algorithm.update(exact_batch(first, second), progress=0.0)
    after = policies()
    for agent in {0, 1} - learners:  # as if this agent had not learned
        after[agent] = frozen[agent].softmax(-1)
    return before, payoff(*after)


def test_large_steps_of_all_at_once_can_make_the_team_worse_though_each_alone_makes_it_better():
    before, alone = greedy_steps(0.8, 0.7, {0})
    assert alone > before + 0.1
    before, alone = greedy_steps(0.8, 0.7, {1})
    assert alone > before + 0.1
    before, together = greedy_steps(0.8, 0.7, {0, 1})
    assert before == pytest.approx(-1.3, abs=0.01)
    assert together < before - 0.4


@pytest.mark.parametrize("name", NAMES)
def test_an_update_that_fails_in_a_later_step_is_undone(name, monkeypatch):
    options = {"minibatches": 4, "epochs": 2, "normalize_advantage": False, "target": {"rate": 0.5}}
    algorithm, _, _, batch = with_data(name, **options)
    algorithm.update(batch, progress=0.0)
    before = copy.deepcopy(algorithm.state_dict())
    steps, step_on = [], ppo.step_on

    def counted(*arguments, **losses):
        steps.append(step_on(*arguments, **losses))
        return steps[-1]

    monkeypatch.setattr(ppo, "step_on", counted)
    reward = batch.reward.clone()
    reward[-1, 1] = 1e30  # finite, but its square is not
    ended = batch.ended.clone()
    ended[-2, 1] = True  # so that only one row knows of it
    numbers = algorithm.update(batch._replace(reward=reward, ended=ended), progress=0.0)
    assert len(steps) > 1, "the first minibatch was sound"
    assert all(map(math.isfinite, steps[0].values()))
    assert not all(map(math.isfinite, numbers.values()))
    after = algorithm.state_dict()
    for part, state in before.items():
        ours, theirs = (torch.utils._pytree.tree_leaves(each) for each in (state, after[part]))
        for mine, other in zip(ours, theirs, strict=True):
            assert torch.equal(mine, other) if isinstance(mine, torch.Tensor) else mine == other
    assert all(map(math.isfinite, algorithm.update(batch, progress=0.0).values()))


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_update_does_its_epochs_and_minibatches(name, recurrent, monkeypatch):
    network = {"kind": "recurrent" if recurrent else "mlp", "hidden": (16,)}
    options = {"network": network, "minibatches": 3, "epochs": 2, "value_clip": 0.2, "huber": 1.0}
    algorithm, _, _, batch = with_data(name, **options)
    rows, descend = [], ppo.clipped_losses

    def watched(config, policy, critic, part, weight):
        rows.append(part.advantage[..., 0].numel())
        return descend(config, policy, critic, part, weight)

    monkeypatch.setattr(ppo, "clipped_losses", watched)
    numbers = algorithm.update(batch, progress=0.0)
    assert rows == [16] * 6
    assert all(map(math.isfinite, numbers.values()))


def test_with_a_rate_of_1_the_target_is_the_critic_and_with_less_it_follows():
    for rate in (1.0, 0.5):
        algorithm, _, critic, batch = with_data("ippo", target={"rate": rate})
        first = copy.deepcopy(critic)
        algorithm.update(batch, progress=0.0)
        for slow, fast, old in zip(
            algorithm.target_critic.parameters(), critic.parameters(), first.parameters(), strict=True
        ):
            torch.testing.assert_close(slow, old + rate * (fast - old))
        assert any(map(torch.ne, map(torch.sum, critic.parameters()), map(torch.sum, first.parameters())))


class Recall:
    """The cue of step 0 must be repeated in step 3, when nothing shows it any more; every agent has its own."""

    spec = EnvSpec((2, 2), 3, 6, False)
    length = 4

    def __init__(self, num_envs=32):
        self.num_envs = num_envs
        self._rng = np.random.default_rng(0)

    def reset(self, *, seed=None):
        self._time, self._cue = 0, self._rng.integers(2, size=(self.num_envs, 2))
        return self._show(np.zeros((self.num_envs, 2), np.float32), self._seen())

    def step(self, actions):
        is_over = self._time == self.length - 1
        reward = (actions == self._cue).astype(np.float32) * is_over
        self._time += 1
        final = self._seen()
        if is_over:
            self._time, self._cue = 0, self._rng.integers(2, size=(self.num_envs, 2))
        return self._show(reward, final, is_over)

    def _seen(self):
        seen = np.zeros((self.num_envs, 2, 3), np.float32)
        seen[..., 2] = self._time == self.length - 1
        if self._time == 0:
            seen[..., :2] = np.eye(2)[self._cue]
        return seen

    def _show(self, reward, final, is_over=False):
        seen, over, cut = self._seen(), np.full(self.num_envs, is_over), np.zeros(self.num_envs, bool)
        mask = np.ones((self.num_envs, 2, 2), bool)
        return Step(seen, seen.reshape(-1, 6), reward, over, cut, mask, final, final.reshape(-1, 6), mask)


@pytest.mark.parametrize(
    ("recurrent", "options"),
    [(True, {}), (False, {}), pytest.param(True, {"share_parameters": False}, marks=pytest.mark.slow)],
)
def test_a_policy_recalls_what_it_saw_only_with_a_memory(recurrent, options):
    kind = "recurrent" if recurrent else "mlp"
    algorithm = learn(
        "ippo", Recall(), updates=40 if recurrent else 15, rollout=4, epochs=4, **rates(actor=0.02), minibatches=2,
        **rates(critic=0.02), network={"kind": kind, "hidden": (16,), "features": {"frequencies": 0}}, **options,
    )  # fmt: skip
    env = Recall(256)
    step, player = env.reset(), Player(algorithm)
    for _ in range(4):
        step = env.step(player.act(step, explore=False))
    if recurrent:
        assert step.reward.mean() > 0.98
    else:
        assert 0.4 < step.reward.mean() < 0.6
