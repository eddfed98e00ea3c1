"""Pure functions of actor-critics: advantages, losses and minibatches against slow oracles and numbers by hand."""

import copy
import inspect
import math

import numpy as np
import pytest
import torch

from spnpolicy.algorithms.ppo import Fixed
from spnpolicy.data.protocol import Batch, Window
from spnpolicy.maths.losses import clipped_policy_loss, policy_gradient_loss, robust_value_loss
from spnpolicy.parts.actor_critic import actor_loss
from spnpolicy.parts.learner import make_optimizer, saves
from spnpolicy.parts.minibatches import learn_in_parts, minibatches, some_rows
from spnpolicy.parts.settings import AdamSettings, CriticSettings, LinearSchedule
from spnpolicy.parts.targets import advantages, normalized

SETTINGS = CriticSettings(discount=0.9, trace=0.9)


def random_window(seed, time=9, envs=7, agents=2):
    """A window with ends of both kinds in its middle and failures of environments."""
    generator = torch.Generator().manual_seed(seed)

    def flags(share):
        return torch.rand(time, envs, generator=generator) < share

    terminated, truncated, valid = flags(0.15), flags(0.15), ~flags(0.08)
    terminated &= valid
    seen, state = torch.randn(time, envs, agents, 3, generator=generator), torch.zeros(time, envs, 1)
    mask = torch.ones(time, envs, agents, 2, dtype=torch.bool)
    actions = torch.randint(2, (time, envs, agents), generator=generator)
    reward = torch.randn(time, envs, agents, generator=generator)
    ended = terminated | truncated | ~valid
    return Window(
        seen, state, actions, reward, terminated, mask, seen, state, mask, ended, valid, torch.zeros(envs, agents, 0)
    )


def slow_gae(batch, value_t, value_tp1, discount, trace, time, env, agent):
    """Generalised advantage estimation as the sum of discounted errors, forward in time from one step."""
    total, factor = 0.0, 1.0
    for t in range(time, len(batch.reward)):
        if not batch.valid[t, env]:
            return total
        goes_on = 0.0 if batch.terminated[t, env] else 1.0
        error = batch.reward[t, env, agent] + discount * goes_on * value_tp1[t, env, agent] - value_t[t, env, agent]
        total += factor * float(error)
        if batch.ended[t, env]:
            return total
        factor *= discount * trace
    return total


@pytest.mark.parametrize("trace", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_advantages_are_the_sum_of_discounted_errors(seed, trace):
    batch = random_window(seed)
    generator = torch.Generator().manual_seed(seed + 100)
    value_t = torch.randn(batch.reward.shape, generator=generator)
    value_tp1 = torch.randn(batch.reward.shape, generator=generator)
    # Where an episode goes on, the value of what a step led to is that of the next row.
    goes_on = (~batch.ended[:-1] & batch.valid[1:]).unsqueeze(-1)
    value_tp1[:-1] = torch.where(goes_on, value_t[1:], value_tp1[:-1])
    assert (batch.ended & ~batch.terminated & batch.valid)[1:-1].any(), "a time limit in mid-window"
    assert (~batch.valid[1:] & ~batch.ended[:-1]).any(), "a failure in an episode"
    found, target = advantages(CriticSettings(discount=0.9, trace=trace), batch, value_t, value_tp1)
    shape = batch.reward.shape
    expected = [slow_gae(batch, value_t, value_tp1, 0.9, trace, *place) for place in np.ndindex(*shape)]
    np.testing.assert_allclose(found.flatten(), expected, atol=1e-5)
    torch.testing.assert_close(target, found + value_t)


def test_a_failed_row_has_no_influence_whatever_stands_in_it():
    batch = random_window(0)
    value_t, value_tp1 = torch.randn(2, *batch.reward.shape, generator=torch.Generator().manual_seed(1))
    clean, _ = advantages(SETTINGS, batch, value_t, value_tp1)
    reward, value_tp1 = batch.reward.clone(), value_tp1.clone()
    reward[~batch.valid] = math.nan
    value_tp1[~batch.valid] = math.inf
    found, target = advantages(SETTINGS, batch._replace(reward=reward), value_t, value_tp1)
    assert torch.equal(found, clean)
    assert (found[~batch.valid] == 0.0).all()
    assert target.isfinite().all()


def test_advantages_carry_no_gradient_and_need_windows():
    batch = random_window(0)
    value = torch.zeros(batch.reward.shape, requires_grad=True)
    for part in advantages(SETTINGS, batch, value, value):
        assert not part.requires_grad
    with pytest.raises(ValueError, match="windows of consecutive steps"):
        advantages(SETTINGS, Batch(*batch[:9]), value, value)


def test_normalized_advantages_have_mean_0_and_deviation_1_for_each_agent_over_valid_rows():
    batch = random_window(3)
    advantage = batch.reward * torch.tensor([1.0, 100.0]) + 5.0
    advantage[~batch.valid] = 1e6
    rows = normalized(SETTINGS, advantage, batch.valid)[batch.valid]
    np.testing.assert_allclose(rows.mean(0), [0.0, 0.0], atol=1e-5)
    np.testing.assert_allclose(rows.std(0, unbiased=False), [1.0, 1.0], atol=1e-4)
    # Equal but for rounding, they say nothing: nothing is left that an optimiser could blow up.
    rounded = torch.full_like(advantage, 3.0)
    rounded[::2] *= 1.0 + 2 * torch.finfo(rounded.dtype).eps
    assert rounded.unique().numel() == 2
    assert not normalized(SETTINGS, rounded, batch.valid).any()
    # A team's advantages are those of one agent; and they stay as they are where that is wished.
    torch.testing.assert_close(normalized(SETTINGS, advantage[..., 0], batch.valid)[batch.valid], rows[:, 0])
    assert normalized(CriticSettings(normalize_advantage=False), advantage, batch.valid) is advantage


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.1, 2.0, -2.2, -2.2),
        (1.5, 2.0, -2.4, 0.0),  # good, and likelier by more than the clip: no further
        (0.5, 2.0, -1.0, -1.0),  # good, yet less likely: the way back is open
        (0.5, -2.0, 1.6, 0.0),  # bad, and rarer by more than the clip: no further
        (1.5, -2.0, 3.0, 3.0),  # bad, yet likelier: the way back is open
    ],
)
def test_the_clipped_loss_is_the_one_computed_by_hand(ratio, advantage, loss, slope):
    old = torch.tensor([math.log(0.3)])
    log_prob = torch.tensor([math.log(0.3 * ratio)], requires_grad=True)
    found = clipped_policy_loss(log_prob, old, torch.tensor([advantage]), 0.2)
    found.backward()
    assert found.item() == pytest.approx(loss, abs=1e-5)
    assert log_prob.grad.item() == pytest.approx(slope, abs=1e-5)


def test_losses_average_over_valid_rows_only():
    valid = torch.tensor([[True, False]])
    log_prob = torch.tensor([[[0.0], [-1.0]]])
    advantage = torch.tensor([[[2.0], [50.0]]])
    assert clipped_policy_loss(log_prob, log_prob, advantage, 0.2, valid).item() == -2.0
    assert robust_value_loss(log_prob, advantage, valid).item() == 4.0
    # The tests check shapes before the function does; its own refusal is what users see.
    with pytest.raises(ValueError, match="shapes must be equal"):
        inspect.unwrap(clipped_policy_loss)(log_prob, log_prob[..., 0], advantage, 0.2)


@pytest.mark.parametrize(
    ("value", "options", "loss", "slope"),
    [
        (3.0, {}, 4.0, 4.0),
        (3.0, {"huber": 0.5}, 0.5 * (2 * 2.0 - 0.5), 1.0),
        (1.25, {"huber": 0.5}, 0.0625, 0.5),
        # target 1, old value 4: at 3.5 within the clip of 1, at 2 held at 3, at 6 held at 5 but 6 is worse
        (3.5, {"old": 4.0, "clip": 1.0}, 6.25, 5.0),
        (2.0, {"old": 4.0, "clip": 1.0}, 4.0, 0.0),
        (6.0, {"old": 4.0, "clip": 1.0}, 25.0, 10.0),
    ],
)
def test_the_value_loss_is_the_one_computed_by_hand(value, options, loss, slope):
    value = torch.tensor([value], requires_grad=True)
    old = torch.tensor([options["old"]]) if "old" in options else None
    found = robust_value_loss(
        value, torch.tensor([1.0]), old_value_t=old, clip=options.get("clip"), huber=options.get("huber")
    )
    found.backward()
    assert found.item() == pytest.approx(loss)
    assert value.grad.item() == pytest.approx(slope)


def test_a_value_clip_needs_old_values():
    with pytest.raises(ValueError, match="old_value_t"):
        robust_value_loss(torch.zeros(1), torch.zeros(1), clip=1.0)


def numbered(time=4, envs=5):
    """A rollout whose every entry carries the number of its row."""
    batch = random_window(0, time, envs)
    number = torch.arange(time * envs).reshape(time, envs, 1).expand(-1, -1, 2).float()
    memory = torch.arange(envs).float()[:, None, None].expand(-1, 2, 3)
    return Fixed(batch._replace(reward=number, memory=memory), number, number, number, number)


def divided(fixed, **options):
    """The parts of a rollout in a fixed random order."""
    generator = torch.Generator().manual_seed(0)
    return [Fixed(rows, *columns) for rows, columns in minibatches(fixed[0], fixed[1:], generator=generator, **options)]


@pytest.mark.parametrize("count", [1, 3, 7, 100])
def test_every_epoch_meets_every_step_once(count):
    parts = divided(numbered(), passes=3, count=count)
    assert len(parts) == 3 * min(count, 20)
    sizes = {len(part.advantage) for part in parts}
    assert max(sizes) - min(sizes) <= 1
    orders = []
    for epoch in range(3):
        rows = [part for part in parts[epoch * len(parts) // 3 : (epoch + 1) * len(parts) // 3]]
        order = torch.cat([part.advantage[:, 0] for part in rows]).tolist()
        assert sorted(order) == list(range(20))
        orders.append(order)
        for part in rows:
            for field in (part.batch.reward, part.log_prob, part.value, part.target):
                assert torch.equal(field, part.advantage)
            assert part.batch.valid.shape == part.advantage.shape[:1]
    assert (orders[0] == orders[1]) == (count == 1)


def test_recurrent_minibatches_are_whole_windows_with_their_memory():
    parts = divided(numbered(), passes=2, count=2, whole_windows=True)
    assert [part.advantage.shape[:2] for part in parts] == [(4, 3), (4, 2)] * 2
    for first, second in (parts[:2], parts[2:]):
        envs = torch.cat([first.advantage[0, :, 0], second.advantage[0, :, 0]]).tolist()
        assert sorted(envs) == [0.0, 1.0, 2.0, 3.0, 4.0]
    for part in parts:
        envs = part.advantage[0, :, 0]
        for t in range(4):
            assert torch.equal(part.advantage[t, :, 1], envs + 5 * t)
        assert torch.equal(part.batch.memory[:, 0, 0], envs)


def test_a_whole_rollout_in_one_part_keeps_the_memory():
    (part,) = divided(numbered(), passes=1, count=1, whole_windows=True)
    assert part.batch.memory.shape == (5, 2, 3)


@saves("critic", "critic_optimizer")
class Counting:
    """Learns a number by gradient steps, the third of which goes wrong if so wished."""

    def __init__(self, fails):
        self.critic = torch.nn.Linear(3, 2)
        self.critic_optimizer = make_optimizer(self.critic.parameters(), AdamSettings(0.1))
        self.steps, self._fails = 0, fails

    def step(self, rows, column):
        self.critic_optimizer.zero_grad()
        self.critic(torch.ones(1, 3)).square().sum().backward()
        self.critic_optimizer.step()
        self.steps += 1
        return {"loss": math.nan if self._fails and self.steps == 3 else float(self.steps), "rows": len(column)}


@pytest.mark.parametrize("fails", [False, True])
def test_steps_that_end_badly_are_undone_with_their_moments(fails):
    learner, fixed = Counting(fails), numbered()
    learner.step(None, [0])
    before, moments = copy.deepcopy(learner.state_dict()["critic"]), learner.critic_optimizer.state_dict()
    moments = copy.deepcopy(moments)
    learner.steps = 0
    generator = torch.Generator().manual_seed(0)
    numbers = learn_in_parts(learner, fixed.batch, [fixed.target], learner.step, passes=2, count=4, generator=generator)
    assert learner.steps == (3 if fails else 8)
    assert numbers["rows"] == 5
    assert math.isnan(numbers["loss"]) == fails
    for name, value in learner.critic.state_dict().items():
        assert torch.equal(value, before[name]) == fails
    now = learner.critic_optimizer.state_dict()["state"]
    assert torch.equal(now[0]["exp_avg"], moments["state"][0]["exp_avg"]) == fails


def test_some_rows_are_from_all_over_a_rollout():
    rows = some_rows(numbered().batch, 7)
    assert rows.reward[:, 0].tolist() == [0.0, 3.0, 6.0, 9.0, 12.0, 15.0, 18.0]
    assert len(some_rows(numbered().batch, 100).reward) == 20


def test_the_actor_loss_raises_what_was_good_and_the_entropy():
    logits = torch.tensor([[1.0, 0.0, 0.0]], requires_grad=True)
    action = torch.tensor([1])
    loss, entropy = actor_loss(logits.log_softmax(-1), action, torch.tensor([2.0]), 0.0, None)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[0, 1] < 0.0 < gradient[0, 0], "descending makes the action taken likelier"
    probabilities = logits.detach().softmax(-1)[0]
    assert loss.item() == pytest.approx(-2.0 * math.log(probabilities[1]))
    assert entropy.item() == pytest.approx(-float((probabilities * probabilities.log()).sum()))
    loss, _ = actor_loss(logits.log_softmax(-1), action, torch.tensor([0.0]), 1.0, None)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[0, 0] > 0.0, "descending makes the likeliest action rarer"


BASIN = torch.tensor([[0.0, -5.0], [-5.0, 10.0]])


def climb_basin(start, steps=400, rate=0.01):
    """Both agents follow the exact gradient of their expected reward in their own probability of action 0."""
    probability = torch.tensor([start, start], requires_grad=True)
    actions = torch.cartesian_prod(torch.arange(2), torch.arange(2))
    reward = BASIN[actions[:, 0], actions[:, 1]]
    for _ in range(steps):
        policies = torch.stack([probability, 1.0 - probability], -1)
        log_prob = policies[torch.arange(2), actions].log()
        weight = log_prob.detach().sum(-1).exp()
        # The loss takes means over 4 rows and 2 agents; the gradient is that of the expected reward of each agent.
        loss = policy_gradient_loss(log_prob, (8.0 * weight * reward)[:, None].expand(4, 2))
        (gradient,) = torch.autograd.grad(loss, probability)
        with torch.no_grad():
            probability.sub_(rate * gradient).clamp_(1e-6, 1.0 - 1e-6)
    with torch.no_grad():
        first, second = (torch.stack([p, 1.0 - p]) for p in probability)
        return float(first @ BASIN @ second)


def test_independent_gradients_fall_into_the_basin_they_start_in():
    assert climb_basin(0.76) == pytest.approx(0.0, abs=0.01)
    assert climb_basin(0.74) == pytest.approx(10.0, abs=0.01)


CLIMBING = torch.tensor([[11.0, -30.0, 0.0], [-30.0, 7.0, 0.0], [0.0, 6.0, 5.0]])


# Without entropy at the start, play settles first on (C, B) = 6, from where it takes long to find B better than C.
@pytest.mark.parametrize(
    ("start", "steps"), [pytest.param(0.0, 3000, marks=pytest.mark.slow), (1.0, 400), (5.0, 400), (20.0, 400)]
)
def test_exact_gradients_with_any_first_entropy_weight_end_at_7_on_climbing(start, steps):
    """Eight seeds at once; the critic is exact, V = E[r], and every joint action counts by its probability."""
    seeds = 8
    schedule = LinearSchedule(start=start, end=0.01)
    generator = torch.Generator().manual_seed(0)
    logits = (0.1 * torch.randn(seeds, 2, 3, generator=generator)).requires_grad_()
    actions = torch.cartesian_prod(torch.arange(3), torch.arange(3))[:, None].expand(9, seeds, 2)
    reward = CLIMBING[actions[..., 0], actions[..., 1]]
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for step in range(steps):
        entropy_weight = schedule.at(step / steps)
        log_probs = logits.log_softmax(-1).expand(9, seeds, 2, 3)
        with torch.no_grad():
            weight = log_probs.gather(-1, actions[..., None]).squeeze(-1).sum(-1).exp()
            advantage = 9.0 * weight * (reward - (weight * reward).sum(0))
        loss, _ = actor_loss(log_probs, actions, advantage[..., None].expand(9, seeds, 2), entropy_weight, None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    first, second = logits.detach().argmax(-1).unbind(-1)
    assert CLIMBING[first, second].tolist() == [7.0] * seeds
