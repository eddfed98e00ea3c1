"""Games written turn by turn: the lean conversion shows what PettingZoo's own shows."""

import numpy as np
import pytest
from gymnasium.spaces import Discrete
from mpe2 import simple_adversary_v3, simple_speaker_listener_v4, simple_spread_v3, simple_tag_v3
from pettingzoo import AECEnv
from pettingzoo.utils.conversions import aec_to_parallel_wrapper

from spnpolicy.envs.pettingzoo.turns import lean

GAMES = (simple_spread_v3, simple_speaker_listener_v4, simple_tag_v3, simple_adversary_v3)


def same(first, second):
    assert first.keys() == second.keys()
    for agent, value in first.items():
        np.testing.assert_array_equal(value, second[agent])


@pytest.mark.parametrize("game", GAMES, ids=lambda game: game.__name__.rpartition(".")[2])
def test_shows_what_the_usual_conversion_shows(game):
    usual, ours = game.parallel_env(max_cycles=7), lean(game.parallel_env(max_cycles=7))
    assert type(usual) is aec_to_parallel_wrapper
    assert type(ours) is not type(usual)
    rng = np.random.default_rng(0)
    for episode in range(3):
        starts = [env.reset(seed=episode) for env in (usual, ours)]
        same(starts[0][0], starts[1][0])
        for _ in range(7):
            actions = {agent: int(rng.integers(usual.action_space(agent).n)) for agent in usual.agents}
            theirs, mine = usual.step(actions), ours.step(actions)
            for a, b in zip(theirs[:4], mine[:4], strict=True):
                same(dict(a), b)
            assert usual.agents == ours.agents
        assert not ours.agents


@pytest.mark.usefixtures("as_installed")
def test_other_games_stay_as_they_are():
    class Own:
        pass

    env = Own()
    assert lean(env) is env


class TurnPayments(AECEnv):
    """Two agents; every turn pays the one who took it its number, so a round pays (1, 2)."""

    metadata = {"name": "turn_payments", "is_parallelizable": True}

    def __init__(self):
        super().__init__()
        self.render_mode = None
        self.possible_agents = ["first", "second"]
        self.observation_spaces = dict.fromkeys(self.possible_agents, Discrete(2))
        self.action_spaces = dict.fromkeys(self.possible_agents, Discrete(2))

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        self.agent_selection = "first"
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations, self.truncations = dict.fromkeys(self.agents, False), dict.fromkeys(self.agents, False)
        self.infos = {agent: {} for agent in self.agents}

    def observe(self, agent):
        return 0

    def step(self, action):
        turn = self.agents.index(self.agent_selection)
        self._clear_rewards()
        self.rewards[self.agent_selection] = 1.0 + turn
        self.agent_selection = self.agents[1 - turn]


def test_what_every_turn_pays_is_added_up():
    usual = aec_to_parallel_wrapper(TurnPayments())
    for env in (usual, lean(usual)):
        env.reset(seed=0)
        assert env.step({"first": 0, "second": 0})[1] == {"first": 1.0, "second": 2.0}
