"""Step sizes that fall: over the second half of training, for every part of every learner, and after a resume."""

import copy
import dataclasses
from collections.abc import Mapping

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from spnpolicy.algorithms import config_class, make_algorithm
from spnpolicy.base.seeding import Streams
from spnpolicy.parts.learner import set_step_sizes
from spnpolicy.parts.per_agent import PerAgent
from spnpolicy.parts.settings import AdamSettings
from spnpolicy.training.config import RunConfig, TrainConfig
from spnpolicy.training.learning import Learning
from spnpolicy.training.storage.state_tree import flatten
from tests.spnpolicy.algorithms.test_algorithms import INSTALLED, small
from tests.spnpolicy.chain_env import ChainEnv, make_chain

FALLING = {"learning_rate": 0.01, "final": 0.2}
EXPECTED = {0.0: 0.01, 0.5: 0.01, 0.75: 0.006, 1.0: 0.002}
"""Of these settings, by progress."""


def step_sizes(state):
    """Those of all optimisers in a state."""
    if "param_groups" in state:
        return [group["lr"] for group in state["param_groups"]]
    return [rate for inner in state.values() if isinstance(inner, Mapping) for rate in step_sizes(inner)]


def falling(name):
    """These settings for every part that an algorithm has."""
    parts = [field.name for field in dataclasses.fields(config_class(name)) if field.name in {"actor", "critic"}]
    return {part: FALLING for part in parts}


@pytest.mark.parametrize("name", INSTALLED)
def test_step_sizes_of_every_learner_fall_over_the_second_half(name):
    spec = ChainEnv(2).spec
    algorithm = make_algorithm(name, spec, Streams(0), **small(name) | falling(name))
    for progress, expected in EXPECTED.items():
        set_step_sizes(algorithm, progress)
        assert step_sizes(algorithm.state_dict()) == pytest.approx([expected] * len(falling(name)))


def test_those_of_separate_learners_and_of_what_has_no_settings():
    spec = ChainEnv(2).spec
    separate = PerAgent(lambda spec, streams: make_algorithm("iql", spec, streams, critic=FALLING), spec, Streams(0))
    set_step_sizes(separate, 1.0)
    assert step_sizes(separate.state_dict()) == pytest.approx([0.002] * 2)
    set_step_sizes(object(), 1.0)


def test_without_a_setting_they_stay_as_they_are_to_the_last_bit():
    assert {AdamSettings(0.3).step_size_at(step / 97) for step in range(98)} == {0.3}


def test_a_run_lets_them_fall_and_goes_on_bit_for_bit_after_a_resume(tmp_path):
    train = TrainConfig(steps=64, num_envs=8, batch_size=16, replay_capacity=100, warmup_steps=8, updates=1)
    options = {"network": {"hidden": [8]}, "critic": FALLING}

    def begin():
        config = RunConfig("vdn", "chain", options, {}, train)
        return Learning(config, make_chain, device="cpu", dumps=tmp_path, on_fault=pytest.fail)

    def go_on(learning, steps):
        used = []
        hook = register_optimizer_step_post_hook(lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"]))
        try:
            while learning.step_count < steps:
                learning.iterate()
                learning.learn_if_due()
        finally:
            hook.remove()
        return used

    first, second = begin(), begin()
    first.begin()
    second.begin()
    assert go_on(first, 40) == pytest.approx([0.01] * 4 + [0.008])
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    used = go_on(first, 64)
    assert used == pytest.approx([0.006, 0.004, 0.002]) == go_on(second, 64)
    ours, theirs = (flatten(each.algorithm.state_dict())[1] for each in (first, second))
    assert all(torch.equal(ours[place], theirs[place]) for place in ours)


def test_they_begin_to_fall_when_it_is_said():
    early = AdamSettings(1.0, final=0.1, falls_after=0.2)
    shares = {0.0: 1.0, 0.2: 1.0, 0.6: 0.55, 1.0: 0.1}
    assert [early.step_size_at(progress) for progress in shares] == pytest.approx(list(shares.values()))
