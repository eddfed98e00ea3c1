"""Agents' networks with a memory, with weights of their own, and with sight of the state."""

import numpy as np
import pytest
import torch

from factor_q.choices import Codes
from spnpolicy.algorithms import make_algorithm
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec
from spnpolicy.data.protocol import Batch
from spnpolicy.data.stores import Trajectories
from spnpolicy.networks.agents import AgentNetwork, GatedCell
from spnpolicy.networks.encoders import Network
from spnpolicy.networks.features import FourierFeatures
from spnpolicy.training.player import Player
from tests.spnpolicy.learning_cases import chain, play

SPEC = EnvSpec((2, 3), 4, 5, False)
PLAIN = FourierFeatures(0)


def network_of(hidden, kind="mlp", **options):
    return AgentNetwork(SPEC, Network(kind, hidden, PLAIN), **options)


def window(time=6, rows=3, seed=0, memory=0):
    generator = torch.Generator().manual_seed(seed)
    seen = torch.randn(time + 1, rows, 2, 4, generator=generator)
    state = torch.randn(time + 1, rows, 5, generator=generator)
    ended = torch.rand(time, rows, generator=generator) < 0.3
    flags = torch.zeros(time, rows, dtype=torch.bool)
    mask = torch.ones(time, rows, 2, 3, dtype=torch.bool)
    zero = torch.zeros(time, rows, 2)
    remembered = torch.randn(rows, 2, memory, generator=generator)
    return Batch(
        seen[:-1], state[:-1], zero.long(), zero, flags, mask, seen[1:], state[1:], mask, ended, ~flags, remembered
    )


def test_the_cell_is_torchs_gru_cell():
    torch.manual_seed(0)
    own, reference = GatedCell(5, None), torch.nn.GRUCell(5, 5)
    with torch.no_grad():
        reference.weight_ih.copy_(own._input.weight)
        reference.weight_hh.copy_(own._recurrent.weight)
        own._input.bias.copy_(reference.bias_ih.normal_())
        own._recurrent.bias.copy_(reference.bias_hh.normal_())
    x, hidden = torch.randn(7, 5), torch.randn(7, 5)
    torch.testing.assert_close(own(own.inputs(x), hidden), reference(x, hidden))


@pytest.mark.parametrize("recurrent", [False, True])
def test_weights_of_their_own_are_as_many_networks_as_agents(recurrent):
    torch.manual_seed(1)
    network = network_of((6, 5), "recurrent" if recurrent else "mlp", shared=False)
    batch = window(memory=6 if recurrent else 0)
    values = network.now(batch)
    batch.observation[:, :, 1] += 1.0
    changed = network.now(batch)
    torch.testing.assert_close(values[:, :, 0], changed[:, :, 0])
    assert (values[:, :, 1, :2] != changed[:, :, 1, :2]).any()
    changed[:, :, 0, :2].sum().backward()
    assert all((parameter.grad[1] == 0).all() for parameter in network.parameters())
    assert (network.first.weight.grad[0] != 0).any()
    # Agent 0 alone, with plain matrices.
    if not recurrent:
        first, last = network.first, network.head
        hidden = torch.relu(batch.observation[:, :, 0] @ first.weight[0].T + first.bias[0])
        hidden = torch.relu(hidden @ last[0].weight[0].T + last[0].bias[0])
        expected = hidden @ last[2].weight[0].T + last[2].bias[0]
        torch.testing.assert_close(values[:, :, 0, :2], expected[..., :2])


@pytest.mark.parametrize("options", [{}, {"shared": False}, {"sees_state": True}])
def test_what_follows_in_a_window_is_the_next_row_or_else_computed(options):
    torch.manual_seed(4)
    network = network_of((6, 5), **options)
    batch = window()
    # Behind an end the next row belongs to another episode: what was seen last is no row of the window.
    moved = torch.randn(6, 3, 2, 4).where(batch.ended[..., None, None], batch.next_observation)
    state = torch.randn(6, 3, 5).where(batch.ended[..., None], batch.next_state)
    batch = batch._replace(next_observation=moved, next_state=state)
    now, following = network.both(batch)
    torch.testing.assert_close(now, network(batch.observation, batch.state))
    torch.testing.assert_close(following, network(moved, state))
    assert 0 < batch.ended[:-1].sum() < batch.ended[:-1].numel()
    assert now.requires_grad
    assert not following.requires_grad


@pytest.mark.parametrize("shared", [True, False])
def test_a_window_is_unrolled_like_single_steps_and_forgets_at_the_end_of_an_episode(shared):
    torch.manual_seed(2)
    network = network_of((6,), "recurrent", shared=shared, sees_state=True)
    batch = window(memory=6)
    now, following = network.both(batch)
    hidden = batch.memory
    for t in range(6):
        output, hidden = network.advance(batch.observation[t], hidden, batch.state[t])
        torch.testing.assert_close(now[t], output)
        after, _ = network.advance(batch.next_observation[t], hidden, batch.next_state[t])
        torch.testing.assert_close(following[t], after)
        hidden = torch.where(batch.ended[t][:, None, None], 0.0, hidden)
    assert batch.ended.any()
    assert now.requires_grad
    assert not following.requires_grad
    torch.testing.assert_close(network.following(batch), following)


class Counting(torch.nn.Module):
    """A cell that adds what it sees to what it remembers, times a weight of 1."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def inputs(self, x):
        return x

    def forward(self, inputs, hidden):
        return hidden + self.weight * inputs


def test_rows_that_warm_up_the_memory_are_seen_and_pass_no_gradient_on():
    """Every row shows 1 to a memory that counts: two rows for its warmth, then four that are learned from."""
    network = network_of((1,), "recurrent")
    network.cell, batch = Counting(), window(rows=2, memory=1)
    network._embed = lambda observation, state: Codes(torch.ones(*observation.shape[:-1], 1))
    batch.ended.zero_()
    batch.ended[0, 1] = True
    batch.valid[:2] = False
    batch.memory.copy_(torch.tensor([10.0, 50.0])[:, None, None])
    counted = network._unroll(batch)
    # The second environment began an episode while the memory got warm: what was stored no longer matters there.
    assert counted[2:, :, 0, 0].T.tolist() == [[13.0, 14.0, 15.0, 16.0], [2.0, 3.0, 4.0, 5.0]]
    (counted[3] * batch.valid[3][:, None, None]).sum().backward()
    assert network.cell.weight.grad == 2 * 2 * 2, "two learned rows, environments, agents"
    # A row that one environment lost is none of them.
    batch.valid[:] = True
    batch.valid[1, 1] = False
    network.cell.weight.grad = None
    network._unroll(batch)[3].sum().backward()
    assert network.cell.weight.grad == 2 * (4 + 3)


def test_the_state_is_seen_where_it_is_asked_for():
    torch.manual_seed(3)
    network = network_of((6,), sees_state=True, outputs=1)
    batch = window()
    values = network.now(batch)
    assert values.shape == (6, 3, 2, 1)
    assert (network.now(batch._replace(state=batch.state + 1.0)) != values).all()
    with pytest.raises(ValueError, match="sees the state"):
        network(batch.observation)
    recurrent = network_of((6,), "recurrent")
    with pytest.raises(ValueError, match="learns from windows of steps"):
        recurrent.now(batch._replace(ended=None))


def test_what_was_remembered_while_acting_is_what_learning_starts_from():
    """A window that begins in the middle of an episode gives the outputs that acting saw."""
    env = chain("truncated", num_envs=4, has_action_masks=False)
    algorithm = make_algorithm(
        "vdn", env.spec, Streams(0), network={"kind": "recurrent", "hidden": (8,)}, exploration={"start": 0.0}
    )
    store = Trajectories(5, torch.Generator().manual_seed(0))
    player, step = play(algorithm, env, store, 3)
    seen = []
    for _ in range(5):
        hidden = player._forget(step)
        with torch.no_grad():
            seen.append(algorithm.critic.advance(torch.tensor(step.observation), hidden)[0])
        player, step = play(algorithm, env, store, 1, 0.0, player, step)
    batch = store.draw(5)
    assert (batch.memory != 0.0).any()
    with torch.no_grad():
        torch.testing.assert_close(algorithm.critic.now(batch), torch.stack(seen))


def test_evaluation_has_a_memory_of_its_own():
    env = chain("truncated", num_envs=4)
    algorithm = make_algorithm("vdn", env.spec, Streams(0), network={"kind": "recurrent", "hidden": (8,)})
    player, other = Player(algorithm), Player(algorithm)
    step = env.reset(seed=0)
    player.act(step, explore=False)
    before = player.state_dict()["hidden"].clone()
    other.act(step._replace(observation=step.observation + 1.0), explore=False)
    assert torch.equal(player.state_dict()["hidden"], before)
    assert not np.array_equal(other.state_dict()["hidden"].numpy(), before.numpy())
