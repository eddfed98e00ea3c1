"""What a run says of its effort: gradient steps of what is played by, and how often transitions were used."""

import json
import math
from collections import Counter

import pytest
import torch
from run_cases import fitting
from torch.optim.optimizer import register_optimizer_step_post_hook

from spnpolicy.algorithms import ALGORITHMS, config_class, make_algorithm
from spnpolicy.base.seeding import Streams
from spnpolicy.parts.learner import gradient_steps
from spnpolicy.parts.per_agent import PerAgent
from spnpolicy.training.config import RunConfig, TrainConfig
from spnpolicy.training.learning import Learning
from spnpolicy.training.loop import train
from spnpolicy.training.metrics import read_metrics
from tests.spnpolicy.chain_env import ChainEnv, make_chain
from tests.spnpolicy.learning_cases import play, store_for

SHORT = TrainConfig(steps=64, num_envs=8, batch_size=16, replay_capacity=100, warmup_steps=16, updates=2)
SMALL = {"rbm": {"sweeps": 2}, "aql": {"num_proposed": 4, "num_uniform": 4}}
SEVERAL = [("ippo", {"epochs": 3, "minibatches": 2}), ("mappo", {}), ("coma", {"critic_steps": 4})]
SEVERAL += [(name, {"rollout": 4, "passes": 3, "minibatch": 8}) for name in ("iql", "qmix", "spn_ac")]
SEVERAL += [("vdn", {"network": {"kind": "recurrent", "hidden": [8]}, "sequence_length": 2, "burn_in": 3})]


def learned(name, options, folder):
    """A learner after 64 env steps; the steps of the optimisers of its parts, counted from outside; rows of an update.

    Rollouts are of 4 steps, in which every episode of the chain ends twice.
    """
    on_policy = options.get("rollout", getattr(config_class(name)(), "rollout", None)) is not None
    settings = SHORT.without_replay() if on_policy else SHORT
    rollout = {"rollout": 4} if on_policy else {}
    config = RunConfig(
        name, "chain", {"network": {"hidden": [8]}} | SMALL.get(name, {}) | rollout | options, {}, settings
    )
    learning = Learning(config, make_chain, device="cpu", dumps=folder, on_fault=pytest.fail)
    steps = Counter()
    hook = register_optimizer_step_post_hook(lambda optimizer, *_: steps.update([id(optimizer)]))
    try:
        learning.begin()
        while learning.step_count < settings.steps:
            learning.iterate()
            learning.learn_if_due()
    finally:
        hook.remove()
        learning.close()
    inner = getattr(learning.algorithm, "learner", learning.algorithm)
    parts = {part: steps[id(getattr(inner, f"{part}_optimizer", None))] for part in ("actor", "critic")}
    return learning, parts, 4 * settings.num_envs if on_policy else settings.batch_size


@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in ALGORITHMS), *SEVERAL])
def test_counts_are_those_of_the_optimisers(name, options, tmp_path):
    learning, steps, rows = learned(name, options, tmp_path)
    counts = learning.counts()
    assert counts["gradient_updates"] == (steps["actor"] or steps["critic"]) > 0
    parts = rows / options["minibatch"] if "minibatch" in options else options.get("minibatches", 1)
    assert counts["samples"] == max(steps.values()) * rows / parts
    assert counts["updates"] == learning.updates


def test_updates_that_are_skipped_use_no_samples(tmp_path, monkeypatch):
    learning, _, _ = learned("vdn", {}, tmp_path)
    before = learning.counts()
    monkeypatch.setattr(learning, "_on_fault", lambda fault: None)
    monkeypatch.setattr(learning.algorithm, "update", lambda batch, *, progress: {"critic_loss": math.nan})
    learning.learn_if_due()
    assert learning.counts() == before | {"updates": before["updates"] + 2}


def test_learners_within_a_learner_are_found_and_what_is_no_adam_is_not_counted():
    env = ChainEnv(8)
    separate = PerAgent(lambda spec, streams: make_algorithm("iql", spec, streams), env.spec, Streams(0))
    store = store_for(separate, env.spec, num_envs=8)
    play(separate, env, store, 4)
    assert gradient_steps(separate.state_dict()) == 0
    for _ in range(3):
        separate.update(store.draw(8), progress=0.0)
    assert gradient_steps(separate.state_dict()) == 3
    plain = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]).state_dict()
    for uncounted in ({"table": [1, 2], "inner": {"seen": 3}}, {"critic_optimizer": plain}, {"actor_optimizer": 1}):
        assert gradient_steps(uncounted) is None


def test_records_and_result_have_the_counts(tmp_path):
    train(RunConfig("ippo", "chain", {"rollout": 4}, {}, fitting(SHORT, "ippo")), tmp_path / "run", make_env=make_chain)
    counts = {"updates": 2, "gradient_updates": 10, "samples": 2 * 4 * 8 * 5}
    last = [record for record in read_metrics(tmp_path / "run" / "metrics.jsonl").records if record["step"] == 64]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    for record in (*last, result):
        assert {name: record[name] for name in counts} == counts


def test_a_checkpoint_from_before_samples_were_counted_is_taken(tmp_path):
    learning, _, _ = learned("vdn", {}, tmp_path)
    state = learning.state_dict()
    del state["progress"]["samples"]
    again = Learning(learning.config, make_chain, device="cpu", dumps=tmp_path, on_fault=pytest.fail)
    again.begin()
    again.load_state_dict(state)
    assert again.counts() == learning.counts() | {"samples": 0}
