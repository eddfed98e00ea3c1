"""Several gradient steps on a rollout: every learner that takes rollouts does them, towards targets that stay."""

import copy
import dataclasses
import math
from collections import Counter

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from spnpolicy.algorithms import config_class
from spnpolicy.parts import targets
from spnpolicy.training.player import needs_of
from spnpolicy.training.storage.state_tree import flatten
from tests.spnpolicy.algorithms.test_algorithms import EITHER, MEMORY, RECURRENT, learner, small, variant_id
from tests.spnpolicy.chain_env import ChainEnv
from tests.spnpolicy.learning_cases import chain, learn, play, rates, store_for

VARIANTS = [(name, {}) for name in EITHER] + [(name, MEMORY) for name in EITHER if name in RECURRENT]
IN_PARTS = {"passes": 2, "minibatch": 12}
"""Of rollouts of 48 rows: four parts of the same size, for recurrent networks two whole windows each."""


def same_rates(name, rate):
    """The step size of every part that an algorithm has."""
    known = {field.name for field in dataclasses.fields(config_class(name))}
    return rates(**dict.fromkeys(sorted(known & {"actor", "critic"}), rate))


def with_rollout(name, **options):
    """A learner, and a rollout that depends on nothing but its name."""
    env = ChainEnv(8, cardinalities=(2, 3), has_action_masks=True)
    algorithm, store, *_ = learner(
        name, env, **small(name) | {"rollout": 6, "trace": 0.7} | same_rates(name, 1e-12) | options
    )
    return algorithm, store.draw(48)


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=variant_id)
def test_a_rollout_in_parts_is_so_many_steps_towards_targets_worked_out_once(name, options, monkeypatch):
    """With step sizes of almost 0, the losses of the parts are on average that of the whole."""
    whole, batch = with_rollout(name, **options)
    expected = whole.update(batch, progress=0.5)
    algorithm, batch = with_rollout(name, **options, **IN_PARTS)
    worked_out, steps = [], Counter()
    original = targets.lambda_target
    monkeypatch.setattr(targets, "lambda_target", lambda *args, **more: worked_out.append(1) or original(*args, **more))
    monkeypatch.setattr(targets, "q_target", lambda *_: pytest.fail("targets of single transitions"))
    hook = register_optimizer_step_post_hook(lambda optimizer, *_: steps.update([id(optimizer)]))
    try:
        numbers = algorithm.update(batch, progress=0.5)
    finally:
        hook.remove()
    assert len(worked_out) == 1
    assert set(steps.values()) == {2 * 4}
    assert numbers["critic_loss"] == pytest.approx(expected["critic_loss"], rel=1e-4)
    assert needs_of(algorithm).passes == 2
    assert numbers.keys() == expected.keys()
    assert_undone_together(algorithm, batch)


def assert_undone_together(algorithm, batch):
    """A reward that is not finite is in one part of four: nothing stays of the others, not even in the moments."""
    before = copy.deepcopy(flatten(algorithm.state_dict()))
    reward = batch.reward.clone()
    reward[0, 3] = math.nan
    assert not all(map(math.isfinite, algorithm.update(batch._replace(reward=reward), progress=0.5).values()))
    after = flatten(algorithm.state_dict())
    assert before[0] == after[0]
    assert all(torch.equal(before[1][place], after[1][place]) for place in before[1])


@pytest.mark.full
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=variant_id)
def test_the_chain_is_learned_from_rollouts_in_parts(name, options):
    """Half of the rows are in B, worth 5 with a time limit and 1 with an end, and half in A, worth 0.8 times that.

    What a memory makes of the moment after a time limit is never learned: networks that have one meet the end.
    """
    ending, value = ("terminated", 0.9) if options else ("truncated", 4.5)
    network = {"hidden": (16,)} | options.get("network", {})
    known = {field.name for field in dataclasses.fields(config_class(name))}
    own = {"target": {"rate": 0.05}} if "target" in known else {}
    if "temperature" in known and name != "rbm":
        own["temperature"] = {"fixed": 0.01}
    data = {"rollout": 4, "trace": 0.5, "passes": 3, "minibatch": 64}
    options = small(name) | own | data | {"network": network, "discount": 0.8} | same_rates(name, 5e-3)
    env = chain(ending)
    algorithm = learn(name, env, updates=120, **options)
    store = store_for(algorithm, env.spec)
    play(algorithm, env, store, 4)
    numbers = algorithm.update(store.draw(1), progress=1.0)
    found = next(numbers[name] for name in ("value", "best_value", "elbo") if name in numbers)
    assert found == pytest.approx(value, rel=0.05)
