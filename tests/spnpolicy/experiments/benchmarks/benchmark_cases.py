"""Shared by the tests of experiments."""

from dataclasses import replace

from spnpolicy.experiments.presets import COVERAGE
from spnpolicy.experiments.sweeps.plan import make_plan

TINY_TRAIN = replace(
    COVERAGE["quick"].train, steps=320, num_envs=8, batch_size=16, warmup_steps=40, log_every=80, evaluate_every=160,
    evaluation_episodes=4, replay_capacity=400,
)  # fmt: skip
TINY = replace(
    COVERAGE["quick"],
    env_options={"size": 3, "agents": 2, "episode_limit": 15},
    train=TINY_TRAIN,
    seeds=2,
    algorithms=("vdn", "iql"),
    algorithm_options={"network": {"hidden": [8]}},
    descent={"learning_rate": 1e-3},
    evaluation_episodes=20,
)
"""A preset whose runs take a moment."""


def tiny_plan(name="tiny", **changes):
    return make_plan(name, replace(TINY, **changes))
