import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spnpolicy.maths.losses import chosen_value, squared_td_loss
from spnpolicy.maths.returns import greedy_value, q_target, require_same_shape


def slow_targets(reward, discount, terminated, values, available, selector):
    targets = np.zeros_like(reward)
    for index in np.ndindex(reward.shape):
        best, chosen = None, 0.0
        for action in range(values.shape[-1]):
            if not available[index][action]:
                continue
            if best is None or selector[index][action] > best:
                best, chosen = selector[index][action], values[index][action]
        targets[index] = reward[index] + (0.0 if terminated[index] else discount * chosen)
    return targets


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 4), st.integers(1, 5), st.booleans())
def test_targets_equal_a_slow_loop(seed, batch, agents, actions, double):
    rng = np.random.default_rng(seed)
    shape = (batch, agents)
    reward, terminated = rng.normal(size=shape), rng.random(shape) < 0.4
    values, other = rng.normal(size=(*shape, actions)), rng.normal(size=(*shape, actions))
    available = rng.random((*shape, actions)) < 0.6
    selector = other if double else values
    value_tp1 = greedy_value(
        torch.tensor(values), torch.tensor(available), selector_tp1=torch.tensor(other) if double else None
    )
    target = q_target(torch.tensor(reward), 0.9, torch.tensor(terminated), value_tp1)
    expected = slow_targets(reward, 0.9, terminated, values, available, selector)
    np.testing.assert_allclose(target.numpy(), expected, atol=1e-10)
    taken = rng.integers(actions, size=shape)
    chosen = chosen_value(torch.tensor(values), torch.tensor(taken))
    loss = np.mean([(expected[i] - values[i][taken[i]]) ** 2 for i in np.ndindex(shape)])
    assert squared_td_loss(chosen, target).item() == pytest.approx(loss, abs=1e-10)


def test_a_terminated_target_ignores_a_value_that_is_not_finite():
    target = q_target(torch.ones(2), 0.9, torch.tensor([True, True]), torch.tensor([torch.inf, torch.nan]))
    assert target.tolist() == [1.0, 1.0]


def test_a_row_without_actions_is_worth_zero():
    values = torch.tensor([[1.0, 2.0], [3.0, -torch.inf]])
    available = torch.tensor([[False, False], [True, True]])
    assert greedy_value(values, available).tolist() == [0.0, 3.0]
    assert greedy_value(values, available, selector_tp1=values).tolist() == [0.0, 3.0]


def test_broadcasting_is_refused():
    # ValueError when used, a type-check error under the test runner's own shape checks.
    with pytest.raises(Exception, match="(?i)shape|type"):
        q_target(torch.ones(3, 2), 0.9, torch.zeros(3, 1, dtype=torch.bool), torch.ones(3, 2))
    with pytest.raises(Exception, match="(?i)shape|type"):
        squared_td_loss(torch.ones(3), torch.ones(3, 1))
    with pytest.raises(Exception, match="(?i)shape|type"):
        chosen_value(torch.ones(3, 2), torch.zeros(3, 1, dtype=torch.int64))


def test_shape_errors_list_every_shape():
    with pytest.raises(ValueError, match=r"equal, got a \(3,\), b \(3, 1\)\."):
        require_same_shape(a=torch.ones(3), b=torch.ones(3, 1))


def test_no_gradient_flows_into_the_target():
    value, target = torch.ones(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    squared_td_loss(value, target).backward()
    assert target.grad is None
    assert value.grad.tolist() == [1.0, 1.0]
