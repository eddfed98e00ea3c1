import numpy as np
import pytest
import torch

from factor_q.layers import mlp
from spnpolicy.base.errors import ConfigError, EnvError
from spnpolicy.data.env import EnvSpec
from spnpolicy.networks.agents import AgentNetwork
from spnpolicy.networks.encoders import Network
from spnpolicy.networks.features import FourierFeatures
from spnpolicy.parts.exploration import epsilon_greedy
from spnpolicy.parts.learner import frozen_copy
from spnpolicy.parts.settings import EpsilonSchedule, LinearSchedule, TargetUpdate

SPEC = EnvSpec((2, 3, 1), 4, 5, False)


def test_mlp_shapes_and_gains():
    torch.manual_seed(0)
    network = mlp((3, 8, 2), output_gain=0.01)
    assert network(torch.zeros(5, 7, 3)).shape == (5, 7, 2)
    assert network[2].weight.norm(dim=1).tolist() == pytest.approx([0.01, 0.01])
    assert all((layer.bias == 0).all() for layer in (network[0], network[2]))


def test_agent_network_equals_a_network_on_observation_and_one_hot():
    torch.manual_seed(1)
    network = AgentNetwork(SPEC, Network(hidden=(16, 8), features=FourierFeatures(0))).double()
    observation = torch.randn(6, 3, 4, dtype=torch.float64)
    values = network(observation)
    joined = torch.cat([observation, torch.eye(3, dtype=torch.float64).expand(6, 3, 3)], dim=-1)
    weight = torch.cat([network.observation_weight, network.agent_offset.T], dim=1)
    expected = network.head((joined @ weight.T).relu())
    exists = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0]], dtype=torch.bool).expand(6, 3, 3)
    torch.testing.assert_close(values[exists], expected[exists])
    assert (values[~exists] == -torch.inf).all()
    assert network(observation[0]).shape == (3, 3)


def test_gradients_are_finite_where_actions_do_not_exist():
    network = AgentNetwork(SPEC, Network(hidden=(4,), features=FourierFeatures(2)))
    network(torch.randn(2, 3, 4))[..., 0].sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_no_hidden_layer_is_refused():
    with pytest.raises(ConfigError, match=r"network.hidden is \(\), but must be one positive width or more"):
        Network(hidden=())


def test_target_updates():
    online = mlp((2, 2))
    target = frozen_copy(online)
    start = target[0].weight.clone()
    with torch.no_grad():
        online[0].weight += 1.0
    TargetUpdate(rate=1.0, every=3).apply(target, online, updates=2)
    assert torch.equal(target[0].weight, start)
    TargetUpdate(rate=0.25).apply(target, online, updates=1)
    torch.testing.assert_close(target[0].weight, start + 0.25)
    TargetUpdate(rate=1.0, every=3).apply(target, online, updates=3)
    assert torch.equal(target[0].weight, online[0].weight)
    assert not target[0].weight.requires_grad
    for bad in ({"rate": 0.0}, {"rate": 1.5}, {"every": 0}):
        with pytest.raises(ConfigError, match=f"^{next(iter(bad))} is"):
            TargetUpdate(**bad)


def test_linear_schedule():
    schedule = EpsilonSchedule(start=1.0, end=0.2, share=0.5)
    assert [schedule.at(p) for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([1.0, 0.6, 0.2, 0.2])
    assert LinearSchedule(start=1.0, end=0.0, share=0.0).at(0.0) == 0.0
    with pytest.raises(ConfigError, match=r"^end is 1.5, but must be between 0 and 1"):
        EpsilonSchedule(end=1.5)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_epsilon_greedy_never_chooses_what_is_unavailable(epsilon):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5000, 3, 4)).astype(np.float32)
    available = rng.random((5000, 3, 4)) < 0.3
    available[..., 2] |= ~available.any(-1)
    actions = epsilon_greedy(values, available, epsilon=epsilon, generator=rng)
    assert np.take_along_axis(available, actions[..., None], axis=-1).all()


def test_epsilon_greedy_explores_uniformly_over_what_is_available():
    rng = np.random.default_rng(1)
    values = np.broadcast_to(np.array([0.0, 9.0, 1.0, 2.0], dtype=np.float32), (30_000, 1, 4))
    available = np.broadcast_to(np.array([True, False, True, True]), values.shape)
    actions = epsilon_greedy(values, available, epsilon=0.6, generator=rng)
    share = np.bincount(actions.ravel(), minlength=4) / actions.size
    np.testing.assert_allclose(share, [0.2, 0.0, 0.2, 0.6], atol=0.015)


def test_greedy_play_draws_nothing():
    rng = np.random.default_rng(2)
    before = rng.bit_generator.state
    epsilon_greedy(np.zeros((2, 1, 3)), np.ones((2, 1, 3), dtype=bool), epsilon=0.0, generator=rng)
    assert rng.bit_generator.state == before


def test_nothing_available_is_an_error_that_names_the_agent():
    available = np.ones((3, 2, 2), dtype=bool)
    available[1, 1] = False
    with pytest.raises(EnvError, match="env 1: agent 1"):
        epsilon_greedy(np.zeros((3, 2, 2)), available, epsilon=0.5, generator=np.random.default_rng(0))
