"""Separate learners: no agent's data reaches another one's learner, and all go through a checkpoint."""

import pytest
import torch

from spnpolicy.algorithms import make_algorithm
from spnpolicy.base.seeding import Streams
from spnpolicy.parts.per_agent import PerAgent
from spnpolicy.training.player import Player
from spnpolicy.training.storage.checkpoints import load_checkpoint, save_checkpoint
from tests.spnpolicy.chain_env import ChainEnv
from tests.spnpolicy.learning_cases import play, store_for


def separate(env, streams, kind):
    options = {"network": {"kind": kind, "hidden": (8,)}}
    return PerAgent(lambda spec, own: make_algorithm("iql", spec, own, **options), env.spec, streams)


def filled(kind, streams):
    env = ChainEnv(8, cardinalities=(2, 4, 3), has_action_masks=True)
    team = separate(env, streams, kind)
    store = store_for(team, env.spec)
    player, step = play(team, env, store, 20)
    return env, team, store, player, step


@pytest.mark.parametrize("kind", ["mlp", "recurrent"])
def test_no_learner_sees_the_data_of_another_agent(kind):
    learned = []
    for spoilt in (False, True):
        _, team, store, _, _ = filled(kind, Streams(0))
        batch = store.draw(32)
        if spoilt:  # everything that agent 1 has, nan included: whoever looked at it would show it
            reward, observation = batch.reward.clone(), batch.observation.clone()
            reward[..., 1], observation[..., 1, :] = torch.nan, 7.0
            batch = batch._replace(reward=reward, observation=observation)
        team.update(batch, progress=0.5)
        learned.append([torch.cat([p.flatten() for p in one.critic.parameters()]) for one in team.learners])
    for agent, (plain, other) in enumerate(zip(*learned, strict=True)):
        assert torch.equal(plain, other) == (agent != 1)


@pytest.mark.parametrize("kind", ["mlp", "recurrent"])
def test_separate_learners_go_on_from_a_checkpoint(kind, tmp_path):
    streams = Streams(3)
    env, team, store, player, step = filled(kind, streams)
    team.update(store.draw(32), progress=0.1)
    state = {"algorithm": team.state_dict(), "streams": streams.state_dict(), "player": player.state_dict()}
    loaded = load_checkpoint(save_checkpoint(tmp_path, state))
    other_streams = Streams(3)
    other = separate(env, other_streams, kind)
    other.load_state_dict(loaded["algorithm"])
    other_streams.load_state_dict(loaded["streams"])
    other_player = Player(other)
    other_player.load_state_dict(loaded["player"])
    batch = store.draw(32)
    assert team.update(batch, progress=0.2) == other.update(batch, progress=0.2)
    ours, theirs = (each.act(step, explore=True, progress=0.2) for each in (player, other_player))
    assert (ours == theirs).all()
