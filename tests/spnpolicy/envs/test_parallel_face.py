"""The PettingZoo face: ends do not leak the next start, masks, pictures, refusals."""

import numpy as np
import pytest

from spnpolicy.base.errors import ConfigError, EnvError
from spnpolicy.envs import ENVIRONMENTS, make_env
from spnpolicy.envs.parallel import parallel_env

RIGHT = 4


def nearly_won():
    env = make_env("coverage", agents=1, size=2)
    face = parallel_env(env)
    face.reset(seed=0)
    env.set_layout(np.array([[0]]), np.array([[1]]))
    return face


def test_last_step_shows_the_end():
    face = nearly_won()
    observations, rewards, terminations, truncations, infos = face.step({"agent_0": RIGHT})
    np.testing.assert_array_equal(observations["agent_0"], [0.0, 1.0, 1.0, 0.0, 0.0, 1.0])
    np.testing.assert_array_equal(face.state(), observations["agent_0"])
    assert rewards == {"agent_0": 1.0}
    assert terminations == {"agent_0": True}
    assert truncations == {"agent_0": False}
    assert infos == {"agent_0": {}}
    assert face.agents == []
    np.testing.assert_array_equal(face.render(), face._env.render(0, final=True))
    assert (face.render() != face._env.render(0)).any()
    assert face.step({}) == ({}, {}, {}, {}, {})
    face.reset()
    assert face.agents == ["agent_0"]


def test_seed_makes_episodes_reproducible():
    first, second = (parallel_env("coverage", size=12) for _ in range(2))
    for seed in (3, None, None):
        one, two = first.reset(seed=seed)[0], second.reset(seed=seed)[0]
        for agent in first.agents:
            np.testing.assert_array_equal(one[agent], two[agent])


def test_masks_are_given_when_they_matter():
    face = parallel_env("matrix_game", payoff=np.zeros((2, 3)))
    _, infos = face.reset()
    np.testing.assert_array_equal(infos["agent_0"]["action_mask"], [1, 1])
    np.testing.assert_array_equal(infos["agent_1"]["action_mask"], [1, 1, 1])
    assert face.action_space("agent_1").n == 3


def test_spaces_hold_what_is_shown():
    face = parallel_env("coverage")
    observations, infos = face.reset(seed=0)
    assert infos == {"agent_0": {}, "agent_1": {}, "agent_2": {}}
    for agent, observation in observations.items():
        assert face.observation_space(agent).contains(observation)
        assert face.observation_space(agent) is face.observation_space(agent)
    assert face.state_space.contains(face.state())


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_wrappers_find_what_they_ask_for(name):
    """Finite bounds to normalise by, random numbers of its own, and how it is drawn, as SuperSuit's wrappers do."""
    face = parallel_env(name)
    for agent in face.possible_agents:
        space = face.observation_space(agent)
        assert np.isfinite([space.low, space.high]).all()
        assert space.dtype == np.float32
    face.reset(seed=5)
    numbers = face.unwrapped.np_random.integers(1000, size=4).tolist()
    face.reset()
    assert face.np_random.integers(1000, size=4).tolist() != numbers
    face.reset(seed=5)
    assert face.np_random.integers(1000, size=4).tolist() == numbers
    assert face.metadata["render_modes"] == ([] if face.render_mode is None else [face.render_mode])


def test_the_render_mode_says_whether_it_draws():
    assert parallel_env("coverage", render_mode="rgb_array").render_mode == "rgb_array"
    assert parallel_env("foraging").render_mode is None
    drawing = parallel_env("foraging", render_mode="rgb_array")
    drawing.reset(seed=0)
    assert drawing.render().shape[2] == 3
    for name, mode, modes in (("coverage", "human", r"\['rgb_array'\]"), ("two_step", "rgb_array", r"\[\]")):
        with pytest.raises(ConfigError, match=f"render_mode='{mode}', but the modes of {name} are {modes}"):
            parallel_env(name, render_mode=mode)


def test_refusals():
    with pytest.raises(ConfigError, match="num_envs=2; a ParallelEnv shows exactly one game"):
        parallel_env("coverage", num_envs=2)
    with pytest.raises(ConfigError, match=r"options \['size'\] can only be given with the name"):
        parallel_env(make_env("coverage"), size=4)
    face = parallel_env("coverage")
    with pytest.raises(EnvError, match="call reset"):
        face.step({})
    with pytest.raises(EnvError, match="call reset"):
        face.state()
    face.reset(seed=0)
    with pytest.raises(EnvError, match="no action was given for agent_1, agent_2"):
        face.step({"agent_0": 0})
    with pytest.raises(EnvError, match="action of agent 1 is 6"):
        face.step({"agent_0": 0, "agent_1": 6, "agent_2": 0})
    with pytest.raises(EnvError, match="matrix_game: this environment cannot be drawn"):
        parallel_env("matrix_game").render()
