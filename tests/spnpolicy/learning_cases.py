"""Shared by the tests of algorithms: data of any kind they need, one-step games, and the two-state chain."""

import numpy as np
import pytest
import torch

from spnpolicy import data
from spnpolicy.algorithms import make_algorithm
from spnpolicy.base.seeding import Streams
from spnpolicy.data.env import EnvSpec
from spnpolicy.data.protocol import Batch, Window
from spnpolicy.training.player import Player, needs_of
from tests.spnpolicy.chain_env import ChainEnv

CLIMBING = [[11.0, -30.0, 0.0], [-30.0, 7.0, 0.0], [0.0, 6.0, 5.0]]
MONOTONIC = [[0.0, 0.0], [0.0, 10.0]]


def store_for(algorithm, spec, num_envs=10):
    """An empty store of the kind that an algorithm learns from."""
    generator = torch.Generator().manual_seed(0)
    return data.store_for(needs_of(algorithm), spec, capacity=10_000, num_envs=num_envs, generator=generator)


def rates(**parts):
    """Settings with these step sizes of actor and critic."""
    return {part: {"learning_rate": rate} for part, rate in parts.items()}


def play(algorithm, env, store, iterations, progress=0.0, player=None, step=None):
    """Let an algorithm explore and store what happens; return the player and the last step, to go on with."""
    player = player or Player(algorithm)
    step = step or env.reset(seed=0)
    for _ in range(iterations):
        actions = player.act(step, explore=True, progress=progress)
        assert actions.shape == (env.num_envs, env.spec.num_agents)
        assert np.take_along_axis(step.available_actions, actions[..., None], axis=-1).all()
        following = env.step(actions)
        store.add(step, actions, following, player.memory)
        step = following
    return player, step


def learn(name, env, *, updates, progress=0.0, batch_size=128, fresh=30, seed=0, **options):
    """Train an algorithm in an environment without the training loop.

    Off-policy: `fresh` iterations of play, then `updates` gradient steps. On-policy: play and update in turn.
    `progress` is a number, or a function of the share of updates done.
    """
    algorithm = make_algorithm(name, env.spec, Streams(seed), **options)
    store = store_for(algorithm, env.spec)
    rollout = needs_of(algorithm).rollout
    player, step = play(algorithm, env, store, rollout or fresh)
    for update in range(updates):
        at = progress(update / updates) if callable(progress) else progress
        algorithm.update(store.draw(batch_size), progress=at)
        if rollout is not None:
            player, step = play(algorithm, env, store, rollout, at, player, step)
    return algorithm


def full_batch(payoff):
    """Every joint action of a one-step game once, as single transitions; the observation is the constant 1."""
    table = torch.tensor(payoff)
    agents = table.dim()
    actions = torch.cartesian_prod(*map(torch.arange, table.shape)).reshape(-1, agents)
    count = len(actions)
    reward = table.reshape(-1)[:, None].expand(count, agents)
    seen, state = torch.ones(count, agents, 1), torch.ones(count, 1)
    mask = torch.arange(max(table.shape)) < torch.tensor(table.shape)[:, None]
    mask = mask.expand(count, -1, -1)
    ended = torch.ones(count, dtype=torch.bool)
    return Batch(seen, state, actions, reward, ended, mask, seen, state, mask)


def as_window(batch, memory_size=0):
    """Single transitions, each the end of an episode, as a window of one step."""
    rows = len(batch.terminated)
    fields = {name: value[None] for name, value in batch._asdict().items() if value is not None}
    yes = torch.ones(1, rows, dtype=torch.bool)
    memory = torch.zeros(rows, batch.actions.shape[-1], memory_size)
    return Window(**fields, ended=yes, valid=yes, memory=memory)


def game_spec(payoff):
    """The spec of a one-step game with this payoff table."""
    shape = tuple(np.shape(payoff))
    return EnvSpec(shape, 1, 1, min(shape) < max(shape))


def chain(ending, num_envs=32, **options):
    """The two-state chain: V(B) is 1 if it terminates and 1 / (1 - discount) if it is cut off, V(A) discount * V(B)."""
    return ChainEnv(num_envs, ending, **({"cardinalities": (2, 3), "has_action_masks": True} | options))


def chain_observation(agents=2):
    """Observations of A and of B, shape (2, agents, 2), and the states, shape (2, 2)."""
    return torch.eye(2)[:, None].expand(2, agents, 2), torch.eye(2)


ENDINGS = ("truncated", pytest.param("terminated", marks=pytest.mark.slow))
"""Of the chain, where learning it takes seconds: one in every run of the tests, the other in the long ones."""
CHAIN_VALUE_OF_B = {"terminated": 1.0, "truncated": 5.0}
"""At discount 0.8, by the way the chain ends; A is worth 0.8 times that."""
